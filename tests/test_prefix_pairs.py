"""Prefix fine-tuning: what a sentence pair becomes, and that streaming predicts from the same text."""

import json

import pytest
from driving import data_row, drive, encoder_of, processed, target_ids_of
from hypothesis import given
from hypothesis import strategies as st
from reference import pieces_of, scheduled_pieces, settings_of

from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import FEATURE_COLUMNS, features_of
from simulmask_plugin.cli import main
from simulmask_plugin.evaluation.config import check_evaluation, load_evaluation
from simulmask_plugin.policies import ReadN
from simulmask_plugin.streaming.parity import training_logits
from simulmask_plugin.streaming.unit_session import StreamingSession
from simulmask_plugin.text.units import split_units

VOCAB = 450
IGNORED = -100
PAIRS = {"prefix_pairs": True, "positions": "contiguous"}
WAIT_2 = {"policy": "wait_k", "k": 2, **PAIRS}
POLICIES = {
    "wait-1": {"policy": "wait_k", "k": 1},
    "wait-2": {"policy": "wait_k", "k": 2},
    "read-2": {"policy": "read_n", "n": 2},
    "offline": {"policy": "offline"},
    "schedule": {"policy": "schedule"},
}
words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=6)


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


# Streaming


def trained_rows(model, encoder, source, target, g):
    """(text up to the row, logits) of every row with a target, pair by pair."""
    collator = SimulMaskCollator(encoder.settings, pad_token_id=0)
    for feature in processed(encoder, data_row(source, target, g)):
        layout = collator.lay_out(feature)
        logits = training_logits(model, encoder.settings, layout)
        for place in range(1, len(layout.labels)):
            if layout.labels[place] != IGNORED:
                yield layout.input_ids[:place].tolist(), logits[place - 1]


def streamed_rows(session_class, model, encoder, source, target, policy):
    """The same of every prediction of a session that is forced through the target."""
    target_ids, rows = target_ids_of(encoder, source, target), []

    def trace(index, kind, logits):
        rows.append((session.lane.kept_ids(), logits))

    session = session_class(
        model=model,
        encoder=encoder,
        policy=policy,
        choose=lambda logits, index, opening: target_ids[index],
        trace=trace,
        max_unit_tokens=99,
    )
    drive(session, split_units(source, encoder.source.unit))
    return rows


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_a_kept_cache_has_the_mismatch_of_growing_source(model_of, byte_level, name):
    """Where the target was written before the source behind which training put it; offline there is none."""
    for policy, is_apart in (("wait-1", True), ("offline", False)):
        encoder = encoder_of(byte_level, **POLICIES[policy], **PAIRS)
        (decision,) = encoder.settings.config.policies
        texts = "abc the dog cd xyz", "cat dexyzz house dog"
        model = model_of(name, VOCAB, 0)
        kept = {tuple(ids): x for ids, x in streamed_rows(StreamingSession, model, encoder, *texts, decision)}
        trained = {tuple(ids): x for ids, x in trained_rows(model, encoder, *texts, None)}
        gap = max((kept[text] - trained[text]).abs().max() for text in kept.keys() & trained.keys())
        assert (gap > 1e-2) == is_apart
        assert (gap <= 1e-4) == (not is_apart)


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


def test_a_policy_of_inference_does_not_ask_for_other_pairs():
    assert settings_of(**WAIT_2).inference_policy("read_n", n=3) == ReadN(n=3)
