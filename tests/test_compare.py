"""Running a study, with programs that only leave behind what LLaMA-Factory would."""

import json
import math
import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import yaml
from driving import write_checkpoint

from simulmask_plugin.evaluation import run_study as compare
from simulmask_plugin.evaluation.programs import ProgramFailed

ROOT = Path(__file__).parents[1]
STAGE1 = str(ROOT / "yaml_configs" / "toy_wait_k_stage1_full.yaml")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs a study of two models; returns the commands of its programs and the trainings of its comparison."""
    for name in "ab":
        (tmp_path / name).write_text("one\n")

    def run(*overrides, fails=(), base=(), while_streaming=lambda name: True, **stage):
        offline = {"policies": [{"policy": "offline"}]}
        values = {
            "output": str(tmp_path / "out"),
            "plain": "first",
            "reference": "first",
            "evaluation": {"source": str(tmp_path / "a"), "target": str(tmp_path / "b")},
            "models": {"first": [{"train": STAGE1, **stage}], "second": [*base, {"train": STAGE1, **stage}]},
            "systems": {name: {"model": name, **offline} for name in ("first", "second")},
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        commands, trainings, environments, streamed_in = [], {}, [], []

        def train(title, command, log, environment):
            commands.append(command[3:])
            environments.append(environment)
            name = title.partition(":")[0]
            if name in fails:
                raise ProgramFailed(f"{title} stopped\nbecause")
            folder = Path(command[4]).with_suffix("")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train_results.json").write_text(json.dumps({"epoch": 1.0, "train_runtime": 5.0}))
            (folder / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 7}))
            log.touch()

        monkeypatch.setattr(compare, "run_program", train)

        def stream(config, name, title, environment):
            streamed_in.append(environment)
            assert while_streaming(name)
            folder = Path(config.output, "offline")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "instances.log").touch()
            if f"{name} streaming" in fails:
                raise ProgramFailed(f"{name}: nothing was written")
            failed = {"wait_k-3": ProgramFailed("too slow")} if f"{name} half" in fails else {}
            return [SimpleNamespace(name="offline")], failed

        monkeypatch.setattr(compare, "evaluate", stream)

        def compared(study, path, found):
            trainings.update(found.trainings)
            run.compared = [one.system for one in found.runs]

        monkeypatch.setattr(compare, "_comparison", compared)
        monkeypatch.setattr(compare, "write_comparison", lambda output, comparison: [output])
        try:
            run.code = compare.run_compare(str(tmp_path / "study.yaml"), overrides)
        finally:
            run.commands, run.environments, run.streamed_in = commands, environments, streamed_in
        return commands, trainings

    return run


def config(tmp_path, name):
    return str(tmp_path / "out" / "models" / name / "stage1.yaml")


def test_device_that_is_not_there_is_refused_before_anything_is_trained(study, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="device: cuda is not there"):
        study("evaluation.device=cuda")
    assert study.commands == []


def test_one_gpu_of_those_that_jobs_share_is_refused_before_anything_is_trained(study, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(
        ValueError, match=r"systems\.first: device: cuda:1 names one GPU, and jobs: 2 .*set device: cuda"
    ):
        study("jobs=2", "evaluation.device=cuda:1")
    assert study.commands == []
    study("evaluation.device=cuda:1")


def test_finished_stages_are_not_repeated(study, tmp_path):
    commands, trainings = study()
    assert commands == [["train", config(tmp_path, name)] for name in ("first", "second")]
    assert trainings["first"].seconds == 5 and trainings["first"].tokens == 7
    assert study()[0] == []


@pytest.mark.parametrize(
    ("fails", "compared", "said"),
    [
        ("first", ["second"], "Failed: first: first: stage 1 of 1 (train) stopped"),
        ("first streaming", ["second"], "Failed: first: first: nothing was written"),
        ("first half", ["first", "second"], "Failed: first/wait_k-3: too slow"),
    ],
)
def test_what_succeeded_is_compared_and_what_failed_is_said_at_the_end(study, capsys, fails, compared, said):
    study(fails=(fails,))
    assert (study.code, study.compared) == (1, compared)
    assert said in capsys.readouterr().err


def test_a_study_of_which_nothing_succeeds_has_failed(study):
    with pytest.raises(ProgramFailed, match="first: stage 1 of 1"):
        study(fails=("first", "second"))


BASE = [{"from": "first"}]


@pytest.mark.parametrize("jobs", [1, 2])
def test_model_waits_for_its_base_and_starts_from_it(study, tmp_path, monkeypatch, jobs):
    train = compare._train

    def train_slowly(study, name, environment):
        time.sleep(0.1 * (name == "first"))
        return train(study, name, environment)

    monkeypatch.setattr(compare, "_train", train_slowly)
    commands, trainings = study(f"jobs={jobs}", base=BASE)
    assert commands == [["train", config(tmp_path, name)] for name in ("first", "second")]
    trained = yaml.safe_load(Path(config(tmp_path, "second")).read_text())
    assert trained["model_name_or_path"] == str(tmp_path / "out" / "models" / "first" / "stage1")
    assert trainings["second"].tokens == 7, "of its own stages alone"


def test_what_starts_from_a_model_does_not_wait_until_that_is_streamed(study, monkeypatch):
    begun = Event()
    train = compare._train

    def train_and_tell(study, name, environment):
        if name == "second":
            begun.set()
        return train(study, name, environment)

    monkeypatch.setattr(compare, "_train", train_and_tell)
    study("jobs=2", base=BASE, while_streaming=lambda name: name != "first" or begun.wait(10))
    assert sorted(study.compared) == ["first", "second"]


def test_what_starts_from_a_model_that_failed_fails_by_name(study, capsys):
    with pytest.raises(ProgramFailed, match="first: stage 1 of 1"):
        study(fails=("first",), base=BASE)
    assert "second failed: its base first failed\n" in capsys.readouterr().out
    assert [Path(path).parent.name for _, path in study.commands] == ["first"]


def test_model_whose_base_has_changed_is_refused(study, tmp_path):
    weights = tmp_path / "out" / "models" / "first" / "stage1" / "model.safetensors"
    study(base=BASE)
    weights.write_bytes(b"other")
    with pytest.raises(
        ValueError, match=r"second was trained on other files .* \(model_name_or_path: model\.safetensors changed"
    ):
        study(base=BASE)


def test_another_test_set_needs_no_training(study, tmp_path, capsys):
    study()
    assert study(f"results={tmp_path / 'val'}")[0] == []
    assert f"Comparison: {tmp_path / 'val'}\n" in capsys.readouterr().out
    assert (tmp_path / "val" / "systems" / "first" / "offline").is_dir()


def test_trainings_of_other_seeds_are_runs_of_one_system(study, tmp_path):
    study("seeds.first=[1]")
    assert study.compared == ["first", "first", "second"]
    assert (tmp_path / "out" / "systems" / "first seed 1").is_dir()


def test_studies_are_not_launched(study, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="run it without torchrun"):
        study()


def test_error_without_a_message_is_told_by_its_name(study, monkeypatch, capsys):
    def fail(*args):
        raise AssertionError

    monkeypatch.setattr(compare, "_run_stage", fail)
    with pytest.raises(AssertionError):
        study()
    assert "first failed: AssertionError()\n" in capsys.readouterr().out


def test_training_that_never_began_does_not_block_its_correction(study, tmp_path):
    with pytest.raises(ProgramFailed):
        study(fails=("first", "second"), learning_rate=3)
    study(learning_rate=0.3)
    assert yaml.safe_load(Path(config(tmp_path, "first")).read_text())["learning_rate"] == 0.3


def test_other_settings_are_refused_once_a_model_is_there(study):
    study()
    with pytest.raises(ValueError, match=r"trained with other settings than in stage1\.yaml \(max_steps changed\)"):
        study("training.max_steps=9")


# What a model was made from


@pytest.fixture
def data(tmp_path):
    """A folder of data, and the keys of a stage that name it and a model."""
    folder, base = tmp_path / "data", tmp_path / "base"
    for one in (folder, base):
        one.mkdir()
    entry = {"file_name": "train.jsonl", "columns": {"source": "source"}}
    (folder / "dataset_info.json").write_text(json.dumps({"toy_train": entry, "other": {"file_name": "other"}}))
    (folder / "train.jsonl").write_text("{}\n")
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "tokenizer.json").write_text("{}")
    return folder, {"dataset_dir": str(folder), "dataset": "toy_train", "model_name_or_path": str(base)}


FILES = {
    "rows": ("data/train.jsonl", "{ }\n", "dataset toy_train: train.jsonl"),
    "columns": (
        "data/dataset_info.json",
        '{"toy_train": {"file_name": "train.jsonl"}}',
        "dataset_info.json: toy_train",
    ),
    "weights": ("base/model.safetensors", "WEIGHTS", "model_name_or_path: model.safetensors"),
    "tokenizer": ("base/tokenizer.json", "[]", "model_name_or_path: tokenizer.json"),
    "a new file": ("base/tokenizer.model", "x", "model_name_or_path: tokenizer.model"),
}


@pytest.mark.parametrize(("path", "text", "name"), FILES.values(), ids=FILES)
def test_models_made_from_other_files_at_the_same_path_are_refused(study, data, tmp_path, path, text, name):
    study(**data[1])
    (tmp_path / path).write_text(text)
    with pytest.raises(ValueError, match=rf"on other files than in stage1\.files\.json \({name} changed\); take"):
        study(**data[1])


def test_files_that_a_study_does_not_use_may_change(study, data):
    folder, keys = data
    study(**keys)
    entries = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(entries | {"other": {}}))
    (folder / "other").write_text("new")
    assert study(**keys)[0] == []


def test_files_may_change_before_anything_was_made_from_them(study, data):
    folder, keys = data
    with pytest.raises(ProgramFailed):
        study(fails=("first", "second"), **keys)
    (folder / "train.jsonl").write_text("{ }\n")
    assert len(study(**keys)[0]) == 2


def test_study_of_before_files_were_noted_is_taken_as_it_is(study, data, tmp_path, capsys):
    study(**data[1])
    (tmp_path / "out" / "models" / "first" / "stage1.files.json").unlink()
    assert study(**data[1])[0] == []
    assert "first: stage 1 of 1 (train): no stage1.files.json; what it was made from is" in capsys.readouterr().out


def test_damaged_settings_of_a_model_are_named(study, tmp_path):
    study()
    Path(config(tmp_path, "first")).write_text("a: [1")
    with pytest.raises(ValueError, match=r"stage1\.yaml is damaged, so it is unknown what stage1 was trained with"):
        study()


def checkpoint(tmp_path, name="checkpoint-20"):
    return write_checkpoint(tmp_path / "out" / "models" / "first" / "stage1" / name)


@pytest.mark.parametrize("damaged", [False, True])
def test_interrupted_training_goes_on_from_its_last_whole_checkpoint_and_has_no_time(study, tmp_path, capsys, damaged):
    study(fails=("first",), save_only_model=False)
    last = checkpoint(tmp_path)
    if damaged:
        (checkpoint(tmp_path, "checkpoint-40") / "trainer_state.json").unlink()
    commands, trainings = study(save_only_model=False)
    printed = capsys.readouterr().out
    assert "first: stage 1 of 1 (train) resumes from checkpoint-20 ...\n" in printed
    assert ("(train): checkpoint-40 is not whole (no trainer_state.json)\n" in printed) == damaged
    assert commands[0] == ["train", config(tmp_path, "first"), f"resume_from_checkpoint={last}"]
    assert math.isnan(trainings["first"].seconds) and trainings["second"].seconds == 5


def test_interrupted_training_without_a_checkpoint_begins_again(study, tmp_path):
    study(fails=("first",))
    checkpoint(tmp_path, "half_a_file")
    (checkpoint(tmp_path) / "optimizer.pt").unlink()
    assert study()[0][0] == ["train", config(tmp_path, "first"), "overwrite_output_dir=true"]


@pytest.mark.parametrize(
    "stage, count", [({}, "non_padding"), ({"packing": True}, "all"), ({"neat_packing": True}, "all")]
)
def test_tokens_of_packs_are_counted_whole(study, tmp_path, stage, count):
    """Their attention mask is none of ones and zeros, or not there."""
    study(**stage)
    written = yaml.safe_load(Path(config(tmp_path, "first")).read_text())
    assert written["include_num_input_tokens_seen"] == count


@pytest.mark.parametrize(("jobs", "shares"), [(1, {None}), (2, {"0", "1"})])
def test_a_model_is_trained_and_streamed_on_the_share_of_its_job_and_alone_in_this_process(
    study, monkeypatch, jobs, shares
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(compare.torch.cuda, "device_count", lambda: 2)
    study(f"jobs={jobs}")
    visible = [environment.get("CUDA_VISIBLE_DEVICES") for environment in study.environments]
    assert len(visible) == 2 and set(visible) <= shares
    assert all(str(Path(sys.executable).parent) in environment["PATH"] for environment in study.environments)
    alone = jobs == 1
    assert len(study.streamed_in) == 2 and all((one is None) == alone for one in study.streamed_in)
    assert all(one in study.environments for one in study.streamed_in if one is not None)
