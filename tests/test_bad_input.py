"""What a user may get wrong, and the message that then says what to do; in process, on the real functions."""

import json
import os
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
from datasets import Dataset

from simulmask_plugin import factory
from simulmask_plugin.config import ModelSettings, SimulMaskConfig
from simulmask_plugin.evaluation import check_evaluation, load_evaluation
from simulmask_plugin.families import check_attention, tiny_config
from simulmask_plugin.prompts import Prompt

WAIT_3 = {"policy": "wait_k", "k": 3}

# Imports of LLaMA-Factory and what it imports; their warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


BLOCKS = {
    "unknown key": ({**WAIT_3, "wait": 3}, r"Unknown key simulmask\.wait; known keys: policy, k, n, layout, "),
    "no policy": ({"k": 3}, r"simulmask\.policy is missing; expected one of wait_k, "),
    "unknown policy": ({"policy": "wait"}, r"simulmask\.policy: unknown value 'wait'; expected one of wait_k, "),
    "k of zero": ({"policy": "wait_k", "k": 0}, r"simulmask\.k must be an integer of at least 1 .*got 0"),
    "negative k": ({"policy": "wait_k", "k": -2}, r"simulmask\.k must be an integer of at least 1 .*got -2"),
    "bad k in a list": ({"policy": "wait_k", "k": [3, 0]}, r"simulmask\.k must be an integer .*got 0"),
    "k that is no number": ({"policy": "wait_k", "k": "many"}, r'an integer, a list, or a range such as "1-9", got'),
    "no k": ({"policy": "wait_k"}, r"simulmask\.k is missing: policy wait_k needs it"),
    "k without use": ({"policy": "offline", "k": 3}, r"simulmask\.k is set, but policy offline does not use it"),
    "unknown rows": ({**WAIT_3, "rows": "all"}, r"simulmask\.rows: unknown value 'all'; expected one of look_ahead"),
    "rate above one": ({**WAIT_3, "look_ahead_rate": 2}, r"simulmask\.look_ahead_rate must lie in 0\.\.1, got 2"),
    "unknown placeholder": ({**WAIT_3, "instruction": "{lang}"}, r"Unknown placeholder \{lang\}"),
    "empty header": ({**WAIT_3, "header": ""}, r"header is empty"),
}


@pytest.mark.parametrize(("block", "message"), BLOCKS.values(), ids=BLOCKS)
def test_bad_block_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        SimulMaskConfig.from_dict(block)


# Training: LLaMA-Factory's parser


@pytest.fixture(scope="module")
def parse():
    """LLaMA-Factory's parser on a small training, with overrides."""
    parser = import_module("llamafactory.hparams.parser")

    def parse(output_dir="output/none", **overrides):
        keys = {"model_name_or_path": "none", "stage": "sft", "do_train": True, "template": "empty"}
        keys |= {"dataset": "toy_train", "output_dir": str(output_dir), "report_to": "none", "simulmask": WAIT_3}
        return parser.get_train_args(keys | overrides)

    return parse


REFUSED = {
    "packing": {"packing": True},
    "streaming": {"streaming": True, "max_steps": 1},
    "predict_with_generate": {"predict_with_generate": True},
    "flash_attn: fa2": {"flash_attn": "fa2"},
    "flash_attn: fa3": {"flash_attn": "fa3"},
    "tokenized_path": {"tokenized_path": "somewhere"},
    "train_on_prompt": {"train_on_prompt": True},
}


@pytest.mark.parametrize(("name", "overrides"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_work_with_the_block_is_refused_by_name(parse, name, overrides):
    with pytest.raises(ValueError, match=f"{name} does not work with the simulmask: block; "):
        parse(**overrides)


def test_bad_block_is_refused_by_the_parser(parse):
    with pytest.raises(ValueError, match=r"Unknown key simulmask\.wait; known keys: policy"):
        parse(simulmask={**WAIT_3, "wait": 3})


def test_block_in_another_stage_is_refused(parse):
    with pytest.raises(ValueError, match="The simulmask: block needs stage: sft, got stage: pt"):
        parse(stage="pt")


@pytest.mark.parametrize("content", ["checkpoint-20", "simulmask.json"])
def test_output_directory_with_a_run_is_refused(parse, tmp_path, content):
    (tmp_path / content).mkdir()
    with pytest.raises(ValueError, match=r"already holds a run.*resume_from_checkpoint.*overwrite_output_dir"):
        parse(tmp_path)


def test_path_with_a_space_is_refused_before_torchrun_cuts_it(monkeypatch):
    launched = []
    launcher = ModuleType("launcher")
    launcher.launch = lambda: launched.append(sys.argv)
    factory.extend_launcher(launcher)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "my configs/toy.yaml"])
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    with pytest.raises(ValueError, match=r"'my configs/toy\.yaml' contains white space"):
        launcher.launch()
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "toy.yaml"])
    launcher.launch()
    assert len(launched) == 1


# Training: the data


def attributes(formatting="simulmask", **columns):
    """What LLaMA-Factory knows of a dataset once the hook has seen its entry in dataset_info.json."""
    columns = {"source": "source", "target": "target"} | columns
    return SimpleNamespace(dataset_name="mine", formatting=formatting, simulmask_columns=columns)


def test_unknown_column_name_is_refused():
    class DatasetAttr:
        dataset_name, formatting = "mine", "simulmask"

        def join(self, attr):
            pass

    factory._carry_columns(DatasetAttr)
    with pytest.raises(ValueError, match=r"mine: unknown column 'src'; formatting simulmask knows source, target"):
        DatasetAttr().join({"columns": {"src": "source"}})


def test_missing_column_is_named_with_those_that_are_there():
    dataset = Dataset.from_list([{"source": "a", "translation": "b"}])
    with pytest.raises(ValueError, match=r"mine: column 'target' \(target\) is missing; the data has source, trans"):
        factory.align_dataset(dataset, attributes(), None, None)


def test_other_formatting_beside_the_block_is_refused():
    with pytest.raises(ValueError, match=r"mine has formatting: alpaca; with the simulmask: block every dataset"):
        factory.align_dataset(None, attributes(formatting="alpaca"), None, None)


def test_our_formatting_without_the_block_is_refused():
    with pytest.raises(ValueError, match=r"mine has formatting: simulmask, which needs a `simulmask:` block"):
        factory._refuse_without_block(attributes(), None)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_side_is_named_with_its_row(side, text):
    row = {"source": "a", "target": "b", side: text}
    with pytest.raises(ValueError, match=rf"Dataset mine, example 8: the {side} is empty"):
        factory.convert_row(row, 7, columns=attributes().simulmask_columns, name="mine")


SCHEDULES = {
    "decreasing": ([2, 1], r"Dataset mine, example 1: g must never decrease, got g\(1\)=2 > g\(2\)=1"),
    "too short": ([1], r"Dataset mine, example 1: The schedule has 1 values; expected 2 .* or 3"),
    "too long": ([1, 1, 2, 2], r"Dataset mine, example 1: The schedule has 4 values; expected 2 "),
    "beyond the source": ([1, 9], r"Dataset mine, example 1: g must lie in 0\.\.3"),
    "missing": (None, r"Dataset mine, example 1: policy: schedule needs a column `schedule`"),
    "not numbers": ("one two", r"Dataset mine, example 1: the schedule must be a list of integers, got 'one two'"),
}


@pytest.mark.parametrize(("schedule", "message"), SCHEDULES.values(), ids=SCHEDULES)
def test_bad_schedule_is_named_with_its_row(byte_level, schedule, message):
    columns = attributes(schedule="schedule").simulmask_columns
    settings = ModelSettings(SimulMaskConfig(policy="schedule"), Prompt("a:", "\nb:"))
    processor = factory.SimulMaskDatasetProcessor(byte_level, settings, cutoff_len=100)
    with pytest.raises(ValueError, match=message):
        row = {"source": "dog cat the", "target": "abc abd", "schedule": schedule}
        converted = factory.convert_row(row, 0, columns=columns, name="mine")
        processor.preprocess_dataset({key: [value] for key, value in converted.items()})


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_file_that_is_not_json_is_named_with_its_line(tmp_path, name):
    loader = import_module("llamafactory.data.loader")
    parser = import_module("llamafactory.data.parser")
    (tmp_path / name).write_text('{"source": "a", "target": "b"}\n{"source": "a", "target": b}\n')
    attribute = parser.DatasetAttr("file", name)
    data = SimpleNamespace(dataset_dir=str(tmp_path), streaming=False, max_samples=None)
    data.preprocessing_num_workers = None
    model = SimpleNamespace(cache_dir=str(tmp_path / "cache"), hf_hub_token=None)
    with pytest.raises(ValueError, match=rf"{name}, line 2: not JSON \(Expecting value\)"):
        factory._load_dataset(loader._load_single_dataset, attribute, model, data, SimpleNamespace())


# Training: the model


def test_modified_alibi_needs_alibi():
    config = SimulMaskConfig(policy="wait_k", k=3, positions="modified_alibi")
    with pytest.raises(ValueError, match=r"modified_alibi needs an ALiBi model, but llama uses RoPE; set positions"):
        factory.check_positions(config, tiny_config("llama", 100))


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_that_cannot_take_the_mask_is_refused(attention):
    with pytest.raises(ValueError, match=rf"Attention '{attention}' cannot take the mask.*`flash_attn: sdpa`"):
        check_attention(tiny_config("llama", 100), attention)


# Evaluation


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
    "unknown key of the block": ({"simulmask": {"position": "group"}}, r"Unknown key simulmask\.position; known"),
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


def test_model_without_its_settings_is_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").unlink()
    with pytest.raises(ValueError, match=r"has no simulmask\.json: expected a checkpoint, adapter or merged model"):
        evaluation()


def test_damaged_settings_are_refused(evaluation, tmp_path):
    (tmp_path / "simulmask.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged"):
        evaluation()


def test_evaluation_yaml_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: no such file; expected an evaluation YAML"):
        load_evaluation(tmp_path / "none.yaml")
