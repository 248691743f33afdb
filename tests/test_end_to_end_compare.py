"""A study through `simulmask compare`: two models, killed on the way."""

import time

import pandas
import pytest
import yaml
from end_to_end import PATIENCE, SCRIPTS, STAGE1, STAGE2, kill

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def study(workshop):
    """Path of a study; plain fine-tuning comes first, and then a model in two stages."""
    data, folder = workshop.folder / "data", workshop.folder / "study"
    shared = {"per_device_train_batch_size": 8, "warmup_steps": 0, "dataset_dir": str(data)}
    plain = {"simulmask.policy": "offline", "simulmask.k": None, "simulmask.positions": "contiguous"}
    values = {
        "output": str(folder),
        "plain": "plain",
        "reference": "offline/offline",
        "training": {"model_name_or_path": str(workshop.folder / "model"), "max_steps": 12, **shared},
        "evaluation": {
            "source": str(data / "test.source"),
            "target": str(data / "test.target"),
            "max_target_tokens": 8,
            "limit": 3,
        },
        "models": {
            "plain": [{"train": str(STAGE1), **plain}],
            "SimulMask": [
                {"train": str(STAGE1), "simulmask.k": 5},
                {"train": str(STAGE2), "max_steps": 2, **shared},
                {"export": "yaml_configs/toy_merge.yaml"},
            ],
        },
        "systems": {
            "offline": {"model": "plain", "policies": [{"policy": "offline"}]},
            "recompute": {"model": "plain", "policies": [{"policy": "wait_k", "k": 3, "recompute": True}]},
            "SimulMask": {"model": "SimulMask", "policies": [{"policy": "wait_k", "k": 3}]},
        },
    }
    path = workshop.folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def run_until(workshop, study, sign):
    """Start the study and kill it, with all that it runs, once a file is there."""
    with (workshop.folder / "killed_study.log").open("w") as log:
        process = workshop.start([SCRIPTS / "simulmask", "compare", study], log)
        start = time.monotonic()
        while not sign.exists() and time.monotonic() < start + PATIENCE:
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.05)
        kill(process)
    assert sign.exists()


def test_killed_study_goes_on_and_repeats_nothing_that_was_finished(workshop, study):
    output = study.with_suffix("")
    models = output / "models"
    run_until(workshop, study, models / "SimulMask" / "stage1.unfinished")
    finished = [models / "plain" / "stage1.log", models / "plain" / "stage1" / "model.safetensors"]
    before = [path.stat().st_mtime_ns for path in finished]

    log = workshop.run("study", SCRIPTS / "simulmask", "compare", study)

    assert [path.stat().st_mtime_ns for path in finished] == before
    assert "plain: stage 1 of 1 (train): done before" in log
    assert "SimulMask: stage 3 of 3 (export) ..." in log
    table = pandas.read_csv(output / "compare.tsv", sep="\t")
    assert list(table["system"]) == ["offline", "recompute", "SimulMask"]
    assert list(table["time / epoch"])[:2] == [1, 1]
    assert table["tokens / epoch"][2] > 1, "look-ahead rows are tokens, too"
    assert (output / "compare.png").is_file()
    report = (output / "compare.html").read_text()
    assert "<h1>study</h1>" in report, "without a title, the name of the YAML"
    sources = (workshop.folder / "data" / "test.source").read_text().splitlines()[:3]
    assert all(f"<td>{source}</td>" in report for source in sources), "all three are among the five that are shown"


def test_study_with_other_settings_is_refused(workshop, study):
    with pytest.raises(AssertionError, match=r"with other settings than in stage1\.yaml \(max_steps changed\)"):
        workshop.run("other_study", SCRIPTS / "simulmask", "compare", study, "training.max_steps=13")
