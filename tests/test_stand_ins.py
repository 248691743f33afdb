"""What takes the place of a model, a tokenizer or data that are not there; recipes with them: test_yaml_configs.py."""

import json

import pytest
from transformers import AutoConfig, AutoTokenizer

from simulmask_plugin.attention.families import FAMILIES, tiny_config
from simulmask_plugin.commands import stand_ins
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.text.prompts import READ_END, WRITE_END

WAIT_3 = {"policy": "wait_k", "k": 3}


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def values_of(folder, **keys):
    return {"model_name_or_path": "no/model", "dataset_dir": str(folder), "dataset": "mine", "simulmask": WAIT_3} | keys


def test_data_that_is_there_is_taken(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    entries = {"mine": {"file_name": "mine.jsonl"}, "on_a_hub": {"hf_hub_url": "somebody/something"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    assert stand_ins.data(values_of(tmp_path, dataset="mine, on_a_hub"), tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("block", "columns"),
    [
        (WAIT_3, [{"source", "target"}] * 2),
        ({"policy": "schedule"}, [{"source", "target", "schedule"}] * 2),
        ({"layout": "interleaved"}, [{"source_chunks", "target_chunks", "latency"}, {"source", "target"}]),
    ],
)
def test_data_that_is_not_there_is_written_with_the_columns_of_the_block(tmp_path, block, columns):
    values = values_of(tmp_path / "nowhere", dataset="first,second", simulmask=block)
    (replaced,) = stand_ins.data(values, tmp_path / "new")
    assert (replaced.key, replaced.value) == ("dataset_dir", str(tmp_path / "new"))
    assert replaced.why == "not found: first, second; 8 toy sentences are used instead"
    entries = json.loads((tmp_path / "new" / "dataset_info.json").read_text())
    for name, expected in zip(("first", "second"), columns, strict=True):
        assert {*entries[name]["columns"]} == expected
        assert all({*row} == expected for row in rows_of(tmp_path / "new", name))


def test_one_data_set_that_is_missing_is_named(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "mine.jsonl"}}))
    (replaced,) = stand_ins.data(values_of(tmp_path, dataset=["mine", "yours"]), tmp_path / "new")
    assert replaced.why.startswith("not found: yours;")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("tiiuae/falcon-rw-1b", "falcon"),
        ("google/gemma-2-9b", "gemma2"),
        ("saves/my_prompts", "llama"),
        ("mosaicml/mpt-7b", "mpt"),
        ("models/starcoder2/falcon-rw-1b", "falcon"),
        ("CohereLabs/aya-expanse-8b", "cohere"),
        ("HuggingFaceTB/SmolLM3-3B", "smollm3"),
    ],
)
def test_name_of_a_model_tells_its_family(name, family):
    assert stand_ins.guess_family(name, SimulMaskConfig.from_dict(WAIT_3)) == family


def test_a_model_that_is_not_in_the_table_of_families_has_no_tiny_one(tmp_path):
    AutoConfig.for_model("olmoe").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--tiny knows no shape for .* model type olmoe is not in the table"):
        stand_ins.family_of_path(str(tmp_path), SimulMaskConfig.from_dict(WAIT_3))


def test_positions_of_alibi_tell_a_family_that_has_it():
    block = SimulMaskConfig.from_dict({"policy": "offline", "positions": "modified_alibi"})
    assert stand_ins.guess_family("saves/mine", block) == "falcon"


@pytest.mark.parametrize("family", FAMILIES)
def test_model_that_is_here_gives_its_family_and_its_tokenizer(tmp_path, family):
    own = byte_tokenizer()
    own.save_pretrained(tmp_path / "own")
    tiny_config(family, len(own)).save_pretrained(tmp_path / "own")
    values = values_of(tmp_path, model_name_or_path=str(tmp_path / "own"), cutoff_len=1024)
    model, adapter = stand_ins.model(values, tmp_path / "tiny")
    assert (model.key, model.value) == ("model_name_or_path", str(tmp_path / "tiny"))
    assert model.why == f"--tiny: a random {family}, with its tokenizer"
    assert (adapter.key, adapter.value) == ("adapter_name_or_path", None)
    config = AutoConfig.from_pretrained(tmp_path / "tiny")
    assert stand_ins.family_of(config).name == family
    assert all(getattr(config, key, 1024) >= 1024 for key in ("max_position_embeddings", "max_seq_len"))
    assert AutoTokenizer.from_pretrained(tmp_path / "tiny").get_vocab() == own.get_vocab()


def test_folder_of_a_tokenizer_alone_tells_the_family_by_its_name(tmp_path):
    folder = tmp_path / "qwen3"
    byte_tokenizer().save_pretrained(folder)
    model, _ = stand_ins.model(values_of(tmp_path, model_name_or_path=str(folder)), tmp_path / "tiny")
    assert model.why == "--tiny: a random qwen3, with its tokenizer"


@pytest.mark.parametrize("adds", [None, f"{READ_END},{WRITE_END}"])
def test_tokenizer_that_is_not_here_is_trained_on_the_data(tmp_path, adds):
    """With the special tokens that a second stage of EAST expects, and a first one adds itself."""
    values = values_of(tmp_path / "nowhere", simulmask={"layout": "interleaved"}, add_special_tokens=adds)
    (data,) = stand_ins.data(values, tmp_path / "data")
    model, _ = stand_ins.model({**values, "dataset_dir": data.value}, tmp_path / "tiny")
    assert "whose own tokenizer is not available: one is trained on the data" in model.why
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    assert len(tokenizer.encode(" Hund")) < len(" Hund")
    assert (len(tokenizer.encode(READ_END)) == 1) == (adds is None)
