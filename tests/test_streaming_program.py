"""Systems of a study that stream side by side, each in a program of its own."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from driving import encoder_of, write_model

from simulmask_plugin.evaluation import engines, run_study, streaming_program
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.run import evaluate
from simulmask_plugin.evaluation.study import load_study

ROOT = Path(__file__).parents[1]
STAGE1 = str(ROOT / "yaml_configs" / "toy_wait_k_stage1_full.yaml")
SOURCES = ["the dog abc", "cat", "xyz cd the abcde dog"]
WAIT_1, WAIT_2 = ({"policy": "wait_k", "k": k} for k in (1, 2))
TOGETHER = 20
"""Seconds that a program waits for the other."""


@pytest.fixture
def study(tmp_path, model_of, byte_level, monkeypatch):
    """A study of two models, whose trainings copy a tiny one; SimulEval scores nothing."""
    for side, texts in {"source": SOURCES, "target": reversed(SOURCES)}.items():
        (tmp_path / f"test.{side}").write_text("\n".join(texts) + "\n")
    model = write_model(
        tmp_path / "tiny", model_of("llama", len(byte_level), 0), byte_level, encoder_of(byte_level, **WAIT_2).settings
    )
    texts = {side: str(tmp_path / f"test.{side}") for side in ("source", "target")}
    values = {
        "output": str(tmp_path / "out"),
        "plain": "first",
        "reference": "first",
        "jobs": 2,
        "evaluation": {**texts, "engine": "batched", "audit": 0, "max_target_tokens": 12},
        "models": {name: [{"train": STAGE1}] for name in ("first", "second")},
        "systems": {name: {"model": name, "policies": [WAIT_1, WAIT_2]} for name in ("first", "second")},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def train(title, command, log, environment):
        folder = Path(command[4]).with_suffix("")
        shutil.copytree(model, folder)
        (folder / "train_results.json").write_text(json.dumps({"epoch": 1.0, "train_runtime": 5.0}))
        (folder / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 7}))
        log.touch()

    def score(config, calls, environment):
        for _, output, _ in calls:
            Path(output.removeprefix("--output="), "scores.tsv").write_text("AL\tLAAL\tAP\tDAL\n1\t2.5\t3\t4\n")

    monkeypatch.setattr(run_study, "run_program", train)
    monkeypatch.setattr(engines, "_call_simuleval", score)
    return tmp_path / "study.yaml"


@pytest.fixture
def programs(monkeypatch):
    """Streams in this process, once as many programs as this have begun; returns their variables by system."""
    begun = {}

    def expect(number, fails=lambda system: False):
        barrier = threading.Barrier(number)

        def run(name, command, log, environment, prepare):
            prepare()
            system = log.parent.name
            begun[system] = environment
            barrier.wait(TOGETHER)
            if fails(system):
                raise ProgramFailed(f"{name} stopped with code 1\nout of memory")
            streaming_program.main(command[-1])

        monkeypatch.setattr(streaming_program, "run_program", run)
        return begun

    return expect


def runs_of(study):
    """The runs that are finished."""
    return sorted(
        f"{path.parents[1].name}/{path.parent.name}" for path in study.parent.glob("out/systems/*/*/finished.json")
    )


def test_systems_stream_at_the_same_time_each_on_the_share_of_its_job(study, programs, monkeypatch):
    monkeypatch.setattr(run_study.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    begun = programs(2)
    assert run_study.run_compare(str(study)) == 0
    assert sorted(environment["CUDA_VISIBLE_DEVICES"] for environment in begun.values()) == ["0", "1"]
    assert runs_of(study) == ["first/wait_k-1", "first/wait_k-2", "second/wait_k-1", "second/wait_k-2"]


def test_a_system_whose_program_fails_does_not_cost_the_others_and_is_streamed_by_the_next_call(
    study, programs, capsys
):
    programs(2, fails=lambda system: system == "second")
    assert run_study.run_compare(str(study)) == 1
    out, err = capsys.readouterr()
    assert "second [2/2] wait_k-2: failed: The streaming stopped with code 1\n" in out
    assert "Failed: second: The streaming stopped with code 1\nout of memory" in err
    assert runs_of(study) == ["first/wait_k-1", "first/wait_k-2"]
    before = (study.parent / "out/systems/first/wait_k-1/finished.json").stat().st_mtime_ns
    begun = programs(1)
    begun.clear()
    assert run_study.run_compare(str(study)) == 0
    assert list(begun) == ["second"]
    assert (study.parent / "out/systems/first/wait_k-1/finished.json").stat().st_mtime_ns == before


def test_faults_of_single_runs_come_back(study, programs, monkeypatch):
    programs(2)
    stream = streaming_program.stream_batched

    def half(config, runs, sentences):
        bad, good = runs
        stream(config, {good: runs[good]}, [one for one in sentences if one[0] == good])
        return {bad: "sentence 2: the word is too long"}

    monkeypatch.setattr(streaming_program, "stream_batched", half)
    found = {}
    monkeypatch.setattr(run_study, "_comparison", lambda study, path, one: found.update(one.failed))
    monkeypatch.setattr(run_study, "write_comparison", lambda output, comparison: [])
    assert run_study.run_compare(str(study)) == 1
    assert {name: str(error) for name, error in found.items()} == {
        f"{name}/wait_k-1": "sentence 2: the word is too long" for name in ("first", "second")
    }
    assert runs_of(study) == ["first/wait_k-2", "second/wait_k-2"]


def test_one_job_streams_in_this_process(study, programs):
    begun = programs(1)
    assert run_study.run_compare(str(study), ["jobs=1"]) == 0
    assert not begun and len(runs_of(study)) == 4


def test_the_program_itself_writes_what_this_process_does_and_its_log_is_kept(study):
    shutil.copytree(study.parent / "tiny", study.parent / "out/models/first/stage1")
    system = load_study(str(study), [f"results={study.parent / 'own'}"]).systems["first"].evaluation
    alone = load_study(str(study)).systems["first"].evaluation
    scores, faults = evaluate(system, "first", environment={"OMP_NUM_THREADS": "1"})
    assert len(scores) == 2 and not faults
    assert (Path(system.output) / "streaming.log").is_file()
    evaluate(alone, "first")
    for name in ("wait_k-1", "wait_k-2"):
        ours, theirs = (Path(one.output, name, "instances.log").read_text() for one in (system, alone))
        assert ours == theirs
