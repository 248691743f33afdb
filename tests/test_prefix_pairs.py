"""Prefix fine-tuning: what a sentence pair becomes, and that streaming predicts from the same text."""

import json

import pytest
from hypothesis import given
from reference import pieces_of, scheduled_pieces, settings_of

from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import FEATURE_COLUMNS, features_of
from simulmask_plugin.cli import main
from simulmask_plugin.evaluation.config import check_evaluation, load_evaluation

VOCAB = 450
IGNORED = -100
PAIRS = {"prefix_pairs": True, "positions": "contiguous"}
WAIT_2 = {"policy": "wait_k", "k": 2, **PAIRS}


def batches_of(pieces, column=None, **block):
    """The batch of every pair of an example, without padding: from row to tensors, as training does it."""
    block = settings_of(**PAIRS, **block)
    collator = SimulMaskCollator(block, pad_token_id=0)
    features = features_of(pieces.example(), column, block.config)
    assert all(tuple(feature) == FEATURE_COLUMNS for feature in features)
    return [{name: values[0].tolist() for name, values in collator([feature]).items()} for feature in features]


def ids_and_labels(batches):
    return [(batch["input_ids"], batch["labels"]) for batch in batches]


def test_golden_pairs_of_wait_2():
    """g = 2 3 3 3: the first unit is a WRITE, then the other two and the end of sentence."""
    batches = batches_of(pieces_of(1, [1, 2, 1], 1, [1, 2, 1]), policy="wait_k", k=2)
    assert ids_and_labels(batches) == [
        ([10, 20, 21, 22, 300, 400, 401], [-100, -100, -100, -100, -100, 400, 401]),
        (
            [10, 20, 21, 22, 23, 300, 400, 401, 402, 403, 2],
            [-100, -100, -100, -100, -100, -100, -100, 401, 402, 403, 2],
        ),
    ]


@pytest.mark.parametrize(
    "g, expected",
    [
        # The end of sentence waits for source: a WRITE of its own, whose only label it is.
        ((1, 2), [([20, 300, 400, 2], [-100, -100, 400, 2]), ([20, 21, 300, 400, 2], [-100, -100, -100, -100, 2])]),
        # Nothing is read before the first unit.
        ((0, 2), [([300, 400, 2], [-100, 400, 2]), ([20, 21, 300, 400, 2], [-100, -100, -100, -100, 2])]),
        ((0, 0), [([300, 400, 2], [-100, 400, 2])]),
        ((1, 1), [([20, 300, 400, 2], [-100, -100, 400, 2])]),
        ((2, 2), [([20, 21, 300, 400, 2], [-100, -100, -100, 400, 2])]),
    ],
)
def test_golden_pairs_of_schedules(g, expected):
    assert ids_and_labels(batches_of(pieces_of(0, [1, 1], 1, [1]), g, policy="schedule")) == expected


def reference_pairs(pieces, g):
    """(ids, labels) of every WRITE, by one walk over the target units."""
    tokens = [*pieces.target, [pieces.eos]]
    pairs, t = [], 0
    while t < len(g):
        last = t
        while last + 1 < len(g) and g[last + 1] == g[t]:
            last += 1
        ids = list(pieces.prompt)
        for unit in pieces.source[: g[t]]:
            ids += unit
        ids += pieces.header
        labels = [IGNORED] * len(ids)
        for number, unit in enumerate(tokens[: last + 1]):
            ids += unit
            labels += unit if number >= t else [IGNORED] * len(unit)
        if last + 1 < len(tokens):
            ids.append(tokens[last + 1][0])
            labels.append(tokens[last + 1][0])
        pairs.append((ids, labels))
        t = last + 1
    return pairs


@given(scheduled_pieces())
def test_pairs_are_those_of_a_slow_loop_and_plain_causal(drawn):
    pieces, g = drawn
    batches = batches_of(pieces, g, policy="schedule")
    assert ids_and_labels(batches) == reference_pairs(pieces, g)
    for batch in batches:
        assert batch["position_ids"] == list(range(len(batch["input_ids"])))
        sees_all = [seen > unit for seen in batch["num_read"] for unit in batch["source_unit"] if unit >= 0]
        assert all(sees_all)


def test_an_evaluation_takes_a_model_of_pairs(model_of, byte_level, tmp_path, capsys):
    settings_of(**WAIT_2).save(tmp_path)
    model_of("llama", VOCAB, 0).config.save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    (tmp_path / "text").write_text("a b\n")
    keys = {"model": str(tmp_path), "output": str(tmp_path / "out"), "simulmask": {"prefix_pairs": True}}
    keys |= {side: str(tmp_path / "text") for side in ("source", "target")}
    keys["policies"] = [{"policy": "wait_k", "k": 3, "recompute": recompute} for recompute in (True, False)]
    (tmp_path / "eval.yaml").write_text(json.dumps(keys))
    assert check_evaluation(load_evaluation(tmp_path / "eval.yaml")).config.layout.splits
    assert main(["validate", str(tmp_path / "eval.yaml")]) == 0
    assert "wait_k-3-recompute, wait_k-3" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "eval.yaml").write_text(json.dumps(keys | {"simulmask": {"prefix_pairs": False}}))
    with pytest.raises(ValueError, match="prefix_pairs is False, but the model was trained with True"):
        check_evaluation(load_evaluation(tmp_path / "eval.yaml"))
