"""Prefix fine-tuning in LLaMA-Factory and the commands: rows of data and their pairs."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from datasets import Dataset
from driving import data_row, encoder_of, llama_factory, processed, write_setup

from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import FEATURE_COLUMNS, Row
from simulmask_plugin.cli import main
from simulmask_plugin.commands.attention import compare_attention
from simulmask_plugin.policies import WaitK
from simulmask_plugin.training import dataset as training_data
from simulmask_plugin.training import llamafactory_seams as factory
from simulmask_plugin.training.dataset import PROMPTS, count_prompts

VOCAB = 450
IGNORED = -100
PAIRS = {"prefix_pairs": True, "positions": "contiguous"}
WAIT_2 = {"policy": "wait_k", "k": 2, **PAIRS}


def test_a_row_too_long_is_left_out_with_all_its_pairs(byte_level):
    encoder = encoder_of(byte_level, **WAIT_2)
    rows = [data_row("a b c", "x y z"), data_row("a b", "x")]
    lengths = [len(feature["input_ids"]) for feature in processed(encoder, *rows)]
    assert len(lengths) == 3
    assert lengths[1] == max(lengths)
    whole, without_the_first = (processed(encoder, *rows, cutoff_len=lengths[1] - less) for less in (0, 1))
    assert [len(feature["input_ids"]) for feature in whole] == lengths
    assert [len(feature["input_ids"]) for feature in without_the_first] == lengths[2:]


def test_rows_are_counted_by_their_first_pairs(byte_level, monkeypatch):
    monkeypatch.setattr(training_data, "SLICE", 2)
    features = processed(encoder_of(byte_level, **WAIT_2), data_row("a b c d e", "v w x y z"), data_row("a", "x"))
    columns = {name: [feature[name] for feature in features] for name in (*FEATURE_COLUMNS, PROMPTS)}
    counts = [count_prompts(of).total() for of in (columns, Dataset.from_dict(columns))]
    assert (counts, len(features)) == ([2, 2], 5)


def test_a_source_without_units_travels_through_a_dataset(byte_level):
    encoder = encoder_of(byte_level, policy="schedule", **PAIRS)
    features = processed(encoder, data_row("a b", "x y z", [0, 1, 1]))
    collator = SimulMaskCollator(encoder.settings, pad_token_id=0)
    direct, stored = (collator(list(one)) for one in (features, Dataset.from_list(features)))
    assert all(torch.equal(direct[name], stored[name]) for name in direct)
    assert features[0]["source_lengths"] == []


# Commands and LLaMA-Factory


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training YAML over two rows, of 3 pairs (g = 1 2 3) and of 1 (g = 1 1 1 1)."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        path = write_setup(folder, simulmask={"policy": "wait_k", "k": 1, **PAIRS}, template="empty")
        rows = [{"source": "ein haus am see", "target": "a house"}, {"source": "zwei", "target": "two of them"}]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield path


@llama_factory
@pytest.mark.parametrize(
    "cutoff_len, num_pairs, said",
    [
        (256, 4, ["2 sentence pairs became 4 prefix pairs.", "the data translates English to German."]),
        (
            77,
            1,
            [
                "1 of 2 examples are longer than cutoff_len 77 and were dropped; raise cutoff_len to keep them.",
                "1 sentence pairs became 1 prefix pairs.",
                "the data translates English to German.",
            ],
        ),
    ],
)
def test_llama_factory_loads_the_pairs_and_says_how_many(training, monkeypatch, cutoff_len, num_pairs, said):
    from llamafactory.data import get_template_and_fix_tokenizer, loader

    from simulmask_plugin.commands.training_yaml import load_training
    from simulmask_plugin.training.run import SftRun

    setup = load_training(str(training), [f"cutoff_len={cutoff_len}"])
    workflow = import_module("llamafactory.train.sft.workflow")
    template, messages = get_template_and_fix_tokenizer(setup.tokenizer, setup.data_args), []
    for level in ("info_rank0", "warning_rank0"):
        monkeypatch.setattr(loader.logger, level, messages.append, raising=False)
    run = SftRun(config=setup.settings.config, seed=0, flat=False, logger=loader.logger)
    with factory._seams_replaced(workflow, run):
        arguments = setup.model_args, setup.data_args, setup.training_args
        dataset = workflow.get_dataset(template, *arguments, stage="sft", tokenizer=setup.tokenizer)["train_dataset"]
    assert len(dataset) == num_pairs
    assert [message.removeprefix("simulmask: ") for message in messages if message.startswith("simulmask: ")] == said


@llama_factory
def test_validate_says_how_many_pairs_the_first_row_becomes(training, capsys):
    assert main(["validate", str(training)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for text in (
        "rows prefix pairs: every WRITE is plain causal text of its own",
        "rows.jsonl source, target 2 78 0",
        "First example: wait_k k=1 | layout prefix | prefix pairs | positions contiguous",
        "g(1..T+1) = 1 2 3",
        "prefix pairs: 3, one per WRITE; this is the last and longest",
    ):
        assert text in output
    assert main(["validate", str(training), "cutoff_len=77"]) == 0
    assert "rows.jsonl source, target 2 76 1 (dropped)" in " ".join(capsys.readouterr().out.split())


@llama_factory
def test_show_draws_the_longest_pair(training, capsys):
    assert main(["show", str(training), "--json", "--k", "2"]) == 0
    picture = json.loads(capsys.readouterr().out)
    assert picture["schedule"] == [2, 3, 4]
    assert "".join(picture["tokens"]).endswith("German: ein haus am see\nAssistant: a house</s>")
    assert np.flatnonzero(np.array(picture["labels"]) != IGNORED).tolist() == [len(picture["labels"]) - 1]
    length = len(picture["mask"])
    assert picture["mask"] == ["1" * (i + 1) + "0" * (length - i - 1) for i in range(length)]
    assert main(["show", str(training)]) == 0
    assert "prefix pairs: 3, one per WRITE; this is the last and longest" in " ".join(capsys.readouterr().out.split())


@llama_factory
def test_parity_of_a_training_yaml_with_pairs(training, capsys):
    assert main(["parity", "--json", str(training), "--examples", "1"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["policy"] for cell in cells] == ["wait_k"] * 4 + ["read_n", "offline", "schedule"]
    assert all(cell["promised"] and cell["holds"] and cell["max_logit"] > 1 for cell in cells)


def test_attention_has_no_whole_sentence_to_compare(model_of, byte_level):
    model, encoder = model_of("llama", VOCAB, 0, "eager"), encoder_of(byte_level, **WAIT_2)
    with pytest.raises(ValueError, match="trained with prefix_pairs: true, which has none; `simulmask parity --model`"):
        compare_attention(model, encoder, Row("a b", "x y", None, None), WaitK(k=2))
