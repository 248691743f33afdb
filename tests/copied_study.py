"""A study in this process: its trainings copy a tiny random model, and SimulEval scores nothing."""

import json
import shutil
from pathlib import Path

import yaml

from simulmask_plugin.evaluation import engines, run_study

STAGE1 = str(Path(__file__).parents[1] / "yaml_configs" / "toy_wait_k_stage1_full.yaml")
SOURCES = ["the dog abc", "cat", "xyz cd the abcde dog"]
WAIT_1, WAIT_2 = ({"policy": "wait_k", "k": k} for k in (1, 2))


def make_study(folder, monkeypatch, model, **changes):
    """Write a study of two models that are copies of the one in this folder; return its path."""
    for side, texts in {"source": SOURCES, "target": reversed(SOURCES)}.items():
        (folder / f"test.{side}").write_text("\n".join(texts) + "\n")
    texts = {side: str(folder / f"test.{side}") for side in ("source", "target")}
    values = {
        "output": str(folder / "out"),
        "plain": "first",
        "reference": "first",
        "evaluation": {**texts, "engine": "batched", "audit": 0, "max_target_tokens": 12},
        "models": {name: [{"train": STAGE1}] for name in ("first", "second")},
        "systems": {name: {"model": name, "policies": [WAIT_1, WAIT_2]} for name in ("first", "second")},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values | changes, sort_keys=False))

    def train(title, command, log, environment):
        trained = Path(command[4]).with_suffix("")
        shutil.copytree(model, trained)
        (trained / "train_results.json").write_text(json.dumps({"epoch": 1.0, "train_runtime": 5.0}))
        (trained / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 7}))
        log.touch()

    def score(config, calls, environment):
        for _, output, _ in calls:
            Path(output.removeprefix("--output="), "scores.tsv").write_text("AL\tLAAL\tAP\tDAL\n1\t2.5\t3\t4\n")

    monkeypatch.setattr(run_study, "run_program", train)
    monkeypatch.setattr(engines, "_call_simuleval", score)
    return folder / "study.yaml"


def runs_of(study):
    """The runs that are finished."""
    runs = study.parent.glob("out/systems/*/*/finished.json")
    return sorted(f"{path.parents[1].name}/{path.parent.name}" for path in runs)
