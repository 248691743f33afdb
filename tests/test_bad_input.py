"""What a user may get wrong, and the message that then says what to do; in process, on the real functions."""

import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
from reference import settings_of

from simulmask_plugin.attention.families import check_attention, check_positions, tiny_config
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.training import dataset as training_data
from simulmask_plugin.training import llamafactory_seams as factory

WAIT_3 = {"policy": "wait_k", "k": 3}

# Imports of LLaMA-Factory and what it imports; their warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

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


@pytest.mark.parametrize("name", ["USE_MCA", "USE_MEGATRON_BRIDGE"])
def test_trainers_that_the_environment_chooses_are_refused_by_name(parse, monkeypatch, name):
    """With MCA, LLaMA-Factory's own check of arguments is another one; its main has a second such trainer."""
    parser = import_module("llamafactory.hparams.parser")
    monkeypatch.setattr(parser, "_TRAIN_MCA_ARGS", parser._TRAIN_ARGS)  # as where its adapter is installed
    monkeypatch.setattr(parser, "is_megatron_bridge_available", lambda: True, raising=False)
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match=f"{name}=1 does not work with the simulmask: block; unset it"):
        parse()


@pytest.mark.parametrize("extra_keys", ["0", "1"])
def test_llama_factory_v1_is_refused_by_name(monkeypatch, extra_keys):
    """Where it allows unknown keys it would train, and say nothing."""
    monkeypatch.setenv("ALLOW_EXTRA_KEYS", extra_keys)
    arg_parser = import_module("llamafactory.v1.config.arg_parser")
    with pytest.raises(ValueError, match="USE_V1=1 does not work with the simulmask: block; unset it"):
        arg_parser.get_args({"model": "none", "simulmask": WAIT_3})


def test_packing_and_a_list_of_k_are_refused_together(parse):
    """Packed batches are made once; one k is packed, and batches of ours draw."""
    several = {"layout": "turns", "policy": "wait_k", "k": [1, 3]}
    with pytest.raises(ValueError, match="a list of k does not work with the simulmask: block; give one k, or remove"):
        parse(packing=True, simulmask=several)
    parse(packing=True, simulmask=several | {"k": 3})
    parse(simulmask=several)


@pytest.mark.parametrize("block", [{"loss_on": "target"}, {"special_token_weight": 2.0}])
@pytest.mark.parametrize(
    "key, value", [("label_smoothing_factor", 0.1), ("use_dft_loss", True), ("use_eaft_loss", True)]
)
def test_another_loss_beside_one_of_our_own_is_refused(parse, block, key, value):
    keys = {"finetuning_type": "full", key: value}
    with pytest.raises(ValueError, match=f"{key} does not work with the simulmask: block; remove it, or loss_on"):
        parse(**keys, simulmask={"layout": "interleaved"} | block)
    parse(**keys, simulmask={"layout": "interleaved"})


def test_unsloth_which_drops_the_mask_is_refused(parse, monkeypatch):
    monkeypatch.setattr("llamafactory.hparams.parser._check_extra_dependencies", lambda *args: None)
    with pytest.raises(ValueError, match="use_unsloth does not work with the simulmask: block; remove it; use_unsl"):
        parse(use_unsloth=True)
    monkeypatch.setattr("simulmask_plugin.training.machine.has_gpu", lambda: True)
    parse(use_unsloth_gc=True)


def test_training_for_gpus_is_refused_before_anything_is_loaded_where_there_is_none(parse, monkeypatch):
    monkeypatch.setattr("simulmask_plugin.training.machine.has_gpu", lambda: False)
    with pytest.raises(ValueError, match="bf16: true needs a GPU.* set bf16: false .*`simulmask smoke YAML`"):
        parse(bf16=True)


def test_bad_block_is_refused_by_the_parser(parse):
    with pytest.raises(ValueError, match=r"simulmask: unknown key 'wait'; known keys: policy"):
        parse(simulmask={**WAIT_3, "wait": 3})


VALUES = {
    "interpolation": (
        {"run_name": "${nope}/x"},
        r"run_name: nothing fills in '\$\{nope\}/x'; write what it stands for",
    ),
    "no number": ({"learning_rate": float("nan")}, r"learning_rate: expected a number, got nan"),
    "no end": ({"warmup_steps": float("inf")}, r"warmup_steps: expected a number, got inf"),
    "NUL": ({"run_name": "a\0b"}, r"run_name: expected a text, got NUL in"),
}


@pytest.mark.parametrize(("overrides", "message"), VALUES.values(), ids=VALUES)
def test_value_of_which_nothing_can_be_made_is_refused(parse, overrides, message):
    with pytest.raises(ValueError, match=rf"the training YAML: {message}"):
        parse(**overrides)


def test_dataset_info_is_read_strictly(parse, tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"toy_train": {},\n}')
    with pytest.raises(ValueError, match=r"dataset_info\.json:2: expected JSON.*remove the comma"):
        parse(dataset_dir=str(tmp_path))


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
    monkeypatch.setenv("NPROC_PER_NODE", "1")
    with pytest.raises(ValueError, match=r"'my configs/toy\.yaml' contains white space"):
        launcher.launch()
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "toy.yaml"])
    launcher.launch()
    assert len(launched) == 1


def test_ray_without_a_gpu_is_refused_before_it_starts(monkeypatch):
    launcher = ModuleType("launcher")
    launcher.launch = lambda: pytest.fail("it was started")
    factory.extend_launcher(launcher)
    monkeypatch.setattr("simulmask_plugin.training.machine.has_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "toy.yaml"])
    monkeypatch.setenv("USE_RAY", "1")
    with pytest.raises(ValueError, match=r"USE_RAY=1 needs a GPU"):
        launcher.launch()


# Training: the data


def attributes(formatting="simulmask", **columns):
    """What LLaMA-Factory knows of a dataset once the hook has seen its entry in dataset_info.json."""
    columns = {"source": "source", "target": "target"} | columns
    return SimpleNamespace(dataset_name="mine", formatting=formatting, simulmask_columns=columns)


def test_our_formatting_without_the_block_is_refused():
    with pytest.raises(ValueError, match=r"mine has formatting: simulmask, which needs a `simulmask:` block"):
        factory._refuse_without_block(attributes(), None)


def scheduled(schedule):
    return {"source": "dog cat the", "target": "abc abd", "schedule": schedule}


def chunked(source, target, latency="low"):
    return {"source_chunks": source, "target_chunks": target, "latency": latency}


SCHEDULE, INTERLEAVED = {"policy": "schedule"}, {"layout": "interleaved"}
ROWS = {
    "decreasing": (SCHEDULE, scheduled([2, 1]), r"g must never decrease, got g\(1\)=2 > g\(2\)=1"),
    "too short": (SCHEDULE, scheduled([1]), r"The schedule has 1 values; expected 2 .* or 3"),
    "too long": (SCHEDULE, scheduled([1, 1, 2, 2]), r"The schedule has 4 values; expected 2 "),
    "beyond the source": (SCHEDULE, scheduled([1, 9]), r"g must lie in 0\.\.3"),
    "missing": (SCHEDULE, scheduled(None), r"policy: schedule needs a column `schedule`"),
    "not numbers": (SCHEDULE, scheduled("one two"), r"the schedule must be a list of integers, got 'one two'"),
    "no source": (SCHEDULE | {"layout": "turns"}, scheduled([0, 1]), r".*g\(1\) is 0; expected at least 1"),
    "unequal": (INTERLEAVED, chunked(["a", "b"], ["p"]), r"2 source chunks, but 1 target chunks; they must come in p"),
    "empty target": (INTERLEAVED, chunked(["a", "b"], ["p", ""]), r"Chunk 2 is empty: source 'b', target ''"),
    "empty source": (INTERLEAVED, chunked(["a", " "], ["p", "q"]), r"Chunk 2 is empty: source ' ', target 'q'"),
    "unknown latency": (INTERLEAVED, chunked(["a"], ["p"], "lowest"), r"The latency is 'lowest'; expected one of low"),
    "no latency": (INTERLEAVED, chunked(["a"], ["p"], None), r"The latency is None; expected one of low, low-medium, "),
}


@pytest.mark.parametrize(("block", "row", "message"), ROWS.values(), ids=ROWS)
def test_bad_schedule_or_chunk_is_named_with_its_row(with_ends, block, row, message):
    processor = training_data.SimulMaskDatasetProcessor(with_ends, settings_of(**block), cutoff_len=100)
    with pytest.raises(ValueError, match=f"Dataset mine, example 1: {message}"):
        converted = training_data.convert_row(row, 0, columns={name: name for name in row}, name="mine")
        processor.preprocess_dataset({key: [value] for key, value in converted.items()})


def test_tokenizer_without_the_special_tokens_is_refused(byte_level, with_ends):
    settings = settings_of(**INTERLEAVED)
    with pytest.raises(ValueError, match=r"no token <\|end-of-read\|>.*add_special_tokens: .*resize_vocab: true"):
        ExampleEncoder(byte_level, settings)
    ExampleEncoder(with_ends, settings)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_file_that_is_not_json_is_named_with_its_line(tmp_path, name):
    loader = import_module("llamafactory.data.loader")
    parser = import_module("llamafactory.data.parser")
    (tmp_path / name).write_text('{"source": "a", "target": "b"}\n{"source": "a", "target": b}\n')
    attribute = parser.DatasetAttr("file", name)
    data = SimpleNamespace(dataset_dir=str(tmp_path), streaming=False, max_samples=None)
    data.preprocessing_num_workers = None
    model = SimpleNamespace(cache_dir=str(tmp_path / "cache"), hf_hub_token=None)
    with pytest.raises(ValueError, match=rf"{name}:2: expected JSON, got: Expecting value at column 27\."):
        training_data.load_dataset(loader._load_single_dataset, attribute, model, data, SimpleNamespace())


# Training: the model


def test_modified_alibi_needs_alibi():
    with pytest.raises(ValueError, match=r"modified_alibi needs an ALiBi model, but llama uses RoPE; set positions"):
        check_positions(tiny_config("llama", 100), "modified_alibi")
    check_positions(tiny_config("falcon", 100), "modified_alibi")


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_that_cannot_take_the_mask_is_refused(attention):
    with pytest.raises(ValueError, match=rf"Attention '{attention}' cannot take the mask.*`flash_attn: sdpa`"):
        check_attention(tiny_config("llama", 100), attention)
