"""Evaluations that are refused before they start, and runs that fail."""

import json
import os

import pytest

from simulmask_plugin import evaluation as evaluation_module
from simulmask_plugin.config import ModelSettings, SimulMaskConfig
from simulmask_plugin.evaluation import check_evaluation, load_evaluation
from simulmask_plugin.programs import ProgramFailed
from simulmask_plugin.prompts import Prompt


@pytest.fixture
def evaluation(tmp_path):
    """Writes an evaluation YAML of a model trained at wait-3, with changes, and checks it."""
    settings = ModelSettings(SimulMaskConfig(policy="wait_k", k=3, positions="group"), Prompt("a:", "\nb:"))
    settings.save(tmp_path)
    for side, text in {"source": "a b\nc d\n", "target": "A B\nC D\n"}.items():
        (tmp_path / f"test.{side}").write_text(text)

    def check(**changes):
        keys = {"model": tmp_path, "source": tmp_path / "test.source", "target": tmp_path / "test.target"}
        keys |= {"output": tmp_path / "out", "policies": [{"policy": "wait_k", "k": 1}]} | changes
        path = tmp_path / "eval.yaml"
        path.write_text(json.dumps({key: str(v) if isinstance(v, os.PathLike) else v for key, v in keys.items()}))
        return check_evaluation(load_evaluation(path))

    return check


def test_good_evaluation_is_accepted(evaluation):
    assert evaluation(simulmask={"positions": "group"}).config.k == 3


EVALUATIONS = {
    "unknown key": ({"beams": 4}, r"eval\.yaml: unknown key 'beams'; known keys: model, source"),
    "no policies": ({"policies": []}, r"eval\.yaml: the key policies is missing or empty"),
    "policies that are no list": ({"policies": {"policy": "offline"}}, r"policies must be a list such as"),
    "policy without a name": ({"policies": [{"k": 3}]}, r"policies: each entry needs a policy"),
    "unknown policy": ({"policies": [{"policy": "wait"}]}, r"simulmask\.policy: unknown value 'wait'"),
    "k of zero": ({"policies": [{"policy": "wait_k", "k": 0}]}, r"simulmask\.k must be an integer of at least 1"),
    "latency unit": ({"latency_unit": "token"}, r"latency_unit must be word or char, got 'token'"),
    "contradiction": (
        {"simulmask": {"positions": "contiguous"}},
        r"simulmask\.positions is 'contiguous', but the model was trained with 'group' \(simulmask\.json\); remove",
    ),
    "another instruction": (
        {"simulmask": {"instruction": "Say:"}},
        r"simulmask\.instruction is 'Say:', but the model was trained with 'Translate",
    ),
    "unknown key of the block": ({"simulmask": {"position": "group"}}, r"Unknown key simulmask\.position; known"),
    "limit of zero": ({"limit": 0}, r"limit must be an integer of at least 1, got 0"),
    "limit beyond the end": ({"limit": 3}, r"limit is 3, but .*test\.source has 2 lines"),
    "jobs that are no number": ({"jobs": "all"}, r"jobs must be an integer of at least 1, got 'all'"),
    "unknown dtype": ({"dtype": "int4"}, r"dtype: unknown value 'int4'; expected one of float32, bfloat16, float16"),
    "policy twice": ({"policies": [{"policy": "offline"}] * 2}, r"the same policy stands there twice"),
    "missing file": ({"source": "none.txt"}, r"source: none\.txt: no such file"),
}


@pytest.mark.parametrize(("changes", "message"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_bad_evaluation_is_refused(evaluation, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluation(**changes)


def test_files_of_different_length_are_refused(evaluation, tmp_path):
    (tmp_path / "test.target").write_text("A B\n")
    with pytest.raises(ValueError, match=r"test\.source has 2 lines, but .*test\.target has 1; .*line-aligned"):
        evaluation()


def test_lines_are_counted_as_simuleval_reads_them(evaluation, tmp_path):
    (tmp_path / "test.source").write_text("a\u2028b\nc d\n")
    assert evaluation().config.k == 3


def test_model_without_its_settings_is_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").unlink()
    with pytest.raises(ValueError, match=r"has no simulmask\.json: expected a checkpoint, adapter or merged model"):
        evaluation()


def test_damaged_settings_are_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged"):
        evaluation()


def test_evaluation_yaml_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: no such file"):
        load_evaluation(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [(["", ""], "the model wrote nothing for any sentence"), (["", "A"], "^why$"), ([""], "^why$"), ([], "^why$")],
)
def test_run_without_a_single_word_is_explained(evaluation, tmp_path, monkeypatch, predictions, message):
    """SimulEval then fails for want of a latency; other failures are told as they are."""

    def fail(name, command, log, environment, prepare):
        lines = [json.dumps({"prediction": prediction}) + "\n" for prediction in predictions]
        (log.parent / "instances.log").write_text("".join(lines))
        raise ProgramFailed("why")

    evaluation()
    monkeypatch.setattr(evaluation_module, "run_program", fail)
    with pytest.raises(ProgramFailed, match=message):
        evaluation_module.run_evaluation(tmp_path / "eval.yaml")


def test_run_that_never_began_does_not_block_its_correction(evaluation, tmp_path, monkeypatch):
    def fail(name, command, log, environment, prepare):
        raise ProgramFailed("why")

    monkeypatch.setattr(evaluation_module, "run_program", fail)
    for changes in ({"device": "cuba"}, {"device": "cpu"}):
        evaluation(**changes)
        with pytest.raises(ProgramFailed, match="why"):
            evaluation_module.run_evaluation(tmp_path / "eval.yaml")
