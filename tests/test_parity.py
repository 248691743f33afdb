"""Training and streaming give the same logits, where the method promises it, and differ where it cannot.

Every cell compares all scored rows, look-ahead rows included, of sentences of several lengths and words of 1..6 tokens.
"""

from itertools import product

import numpy as np
import pytest
import torch
from driving import POLICIES, THOROUGH, Forced, assert_holds, drive, encoder_of, sentence_pairs, target_ids_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import schedules, settings_of

from simulmask_plugin.attention.families import FAMILIES, tiny_model
from simulmask_plugin.attention.float64 import StayInFloat64
from simulmask_plugin.batches.features import Row
from simulmask_plugin.commands.random_rows import random_row
from simulmask_plugin.layouts.positions import scheme_of
from simulmask_plugin.layouts.prefix import prefix_layout
from simulmask_plugin.policies import roll_out
from simulmask_plugin.streaming.parity import (
    EXACT,
    ParityResult,
    compare,
    promises_parity,
    scored_rows,
    stock_difference,
    training_logits,
)
from simulmask_plugin.streaming.unit_session import StreamingSession
from simulmask_plugin.text.units import split_units

ALIBI = [name for name, family in FAMILIES.items() if family.position == "alibi"]
GAP = 1e-3
VOCAB = 320


def parity(model, tokenizer, sentences=None, **block):
    encoder = encoder_of(tokenizer, **block)
    result = ParityResult()
    for row in sentences or sentence_pairs():
        compare(model, encoder, row, result)
    assert result.max_logit > 1, "the logits are too small for a difference to be seen"
    return result


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_parity(model_of, byte_level, name):
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, positions="group", **POLICIES["wait-3"]))


@pytest.mark.parametrize("name", ALIBI)
def test_every_alibi_family_has_parity_with_modified_alibi(model_of, byte_level, name):
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, positions="modified_alibi", **POLICIES["wait-3"]))


@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "modified_alibi"), ("falcon", "group")])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rows", ["look_ahead", "own_unit", "next_unit"])
def test_rows_have_parity_under_every_policy(model_of, byte_level, name, positions, rows, policy):
    block = {"positions": positions, "rows": rows, **POLICIES[policy]}
    assert promises_parity(settings_of(**block))
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, **block))


words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=6)


@given(
    words,
    st.integers(1, 6).flatmap(lambda num: st.tuples(st.just(num), schedules(num_target=num))),
    st.sampled_from(["look_ahead", "own_unit", "next_unit"]),
    st.sampled_from([*product(FAMILIES, ["group"]), *product(ALIBI, ["modified_alibi"])]),
)
@settings(max_examples=40)
def test_any_example_and_schedule_has_parity(model_of, byte_level, target, schedule, rows, cell):
    num_target, (g, num_source) = schedule
    source = " ".join((target * num_source)[:num_source])
    target = " ".join((target[::-1] * num_target)[:num_target])
    name, positions = cell
    row = Row(source, target, "English", "German", g)
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, [row], positions=positions, rows=rows, policy="schedule"))


@pytest.mark.parametrize("name", THOROUGH)
def test_eager_attention_has_parity(model_of, byte_level, name):
    positions = "modified_alibi" if name in ALIBI else "group"
    model = model_of(name, VOCAB, 0, "eager")
    assert_holds(parity(model, byte_level, positions=positions, **POLICIES["wait-3"]))


HAN = [
    Row("我们 是中国人", "the dog é😀 abcde", "Chinese", "English", (0, 1, 1, 4, 5, 5)),
    Row("abc 我😀", "我们是e\u0301人", "Chinese", "English", (1, 2)),
]


@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "modified_alibi")])
@pytest.mark.parametrize("target_units", ["word", "character", "token"])
@pytest.mark.parametrize("source_units", ["word", "character", "token"])
def test_all_units_have_parity(model_of, tokenizer, name, positions, source_units, target_units):
    """A word that arrives as several token units is there before the policy has asked for it."""
    block = {"source_units": source_units, "target_units": target_units, "positions": positions, **POLICIES["wait-1"]}
    assert_holds(parity(model_of(name, VOCAB, 0), tokenizer, sentence_pairs([(2, 3)]) + HAN, **block))


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_group_offset_has_parity(model_of, byte_level, name):
    block = {"positions": "group", "group_offset": 37, **POLICIES["wait-3"]}
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, **block))


def streamed_ahead(model, encoder, row, policy, target_ids):
    """The rows of a session whose source has arrived as a whole before anything is written."""
    forced = Forced(target_ids)
    session = StreamingSession(
        model=model, encoder=encoder, policy=policy, choose=forced.choose, trace=forced.trace, max_unit_tokens=99
    )
    drive(session, split_units(row.source, encoder.source.unit), ahead=True)
    return forced.rows


@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "modified_alibi"), ("bloom", "group")])
@pytest.mark.parametrize("policy", ["wait-1", "wait-3", "read-2"])
@pytest.mark.parametrize("rows", ["look_ahead", "own_unit", "next_unit"])
def test_source_that_arrives_ahead_of_the_policy_has_parity(model_of, byte_level, name, positions, rows, policy):
    """Look-ahead row and kept row are fed in one call."""
    model = model_of(name, VOCAB, 0)
    encoder = encoder_of(byte_level, positions=positions, rows=rows, **POLICIES[policy])
    (decision,) = encoder.settings.config.policies()
    for row in sentence_pairs():
        example = encoder.encode(row)
        schedule = roll_out(decision, len(example.source_lengths), len(example.target_lengths))
        layout = prefix_layout(example, schedule, rows=rows, scheme=scheme_of(positions))
        training = training_logits(model, encoder.settings, layout)
        streamed = streamed_ahead(model, encoder, row, decision, target_ids_of(encoder, row.source, row.target))
        for index, token, kind in scored_rows(layout):
            torch.testing.assert_close(streamed[token, kind], training[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("policy", ["wait-1", "wait-3", "read-2"])
@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "modified_alibi")])
def test_query_unit_shows_inner_tokens_more_in_training(model_of, byte_level, name, positions, policy):
    """The known mismatch of the published mask."""
    block = {"positions": positions, "rows": "query_unit", **POLICIES[policy]}
    assert not promises_parity(settings_of(**block))
    result = parity(model_of(name, VOCAB, 0), byte_level, **block)
    assert result.same_ids
    assert result.max_abs_diff > GAP


@pytest.mark.parametrize("block", [{**POLICIES["offline"]}, {"target_units": "token", **POLICIES["wait-1"]}])
def test_query_unit_has_parity_without_inner_tokens_that_wait(model_of, byte_level, block):
    block = {"rows": "query_unit", **block}
    assert promises_parity(settings_of(**block))
    assert_holds(parity(model_of("llama", VOCAB, 0), byte_level, **block))


@pytest.mark.parametrize("policy", ["wait-1", "wait-3", "read-2"])
@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_contiguous_positions_drift_in_a_kept_cache(model_of, byte_level, name, policy):
    """In training the target stands behind the whole source, of which streaming knows only a part."""
    block = {"positions": "contiguous", **POLICIES[policy]}
    assert not promises_parity(settings_of(**block))
    result = parity(model_of(name, VOCAB, 0), byte_level, **block)
    assert result.same_ids
    assert result.max_abs_diff > GAP


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_contiguous_positions_have_parity_offline(model_of, byte_level, name):
    block = {"positions": "contiguous", **POLICIES["offline"]}
    assert promises_parity(settings_of(**block))
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, **block))


def test_multi_path_has_parity_for_every_k(model_of, byte_level):
    encoder = encoder_of(byte_level, policy="wait_k", k=[1, 4])
    for policy_index in range(2):
        result = ParityResult()
        for row in sentence_pairs():
            compare(model_of("llama", VOCAB, 0), encoder, row, result, policy_index=policy_index)
        assert_holds(result)


def result_of(difference, **known):
    result = ParityResult(rows=1, **known)
    result.max_abs_diff = difference
    return result


@pytest.mark.parametrize(
    "difference, known, holds",
    [
        (9e-5, {}, True),
        (2e-4, {}, False),
        (2e-4, {"stock_diff": 1e-4}, True),  # three times what stock does to itself
        (4e-4, {"stock_diff": 1e-4}, False),
        (9e-5, {"stock_diff": 0.0}, True),
        (1e-10, {"dtype": torch.float64}, True),
        (1e-6, {"dtype": torch.float64, "stock_diff": 1.0}, False),  # where rounding is no excuse
    ],
)
def test_what_counts_as_equal(difference, known, holds):
    assert result_of(difference, **known).holds == holds


@pytest.mark.parametrize("name", ["llama", "falcon", "mpt", "gemma2"])
def test_stock_differs_from_itself_by_rounding_and_not_at_all_in_float64(name):
    ids = np.random.default_rng(0).integers(3, 60, 40)
    model = tiny_model(name, 60, 0)
    assert stock_difference(model, ids) < 1e-4
    with StayInFloat64():
        assert stock_difference(model.double(), ids) < EXACT


@pytest.mark.parametrize("name", ["llama", "falcon", "mpt", "gemma2", "qwen3"])
@pytest.mark.parametrize("layout", ["prefix", "slots"])
def test_parity_is_exact_in_float64(byte_level, name, layout):
    """Also in families whose norms go down to float32 by themselves."""
    model, result = tiny_model(name, VOCAB, 0).double(), ParityResult(torch.float64)
    encoder = encoder_of(byte_level, layout=layout, policy="wait_k", k=2)
    with StayInFloat64():
        compare(model, encoder, random_row(encoder, 6, 6, np.random.default_rng(0)), result)
    assert result.holds
    assert result.max_abs_diff < 1e-12


def test_a_result_without_rows_holds_nothing():
    assert not ParityResult().holds


def test_other_ids_break_parity():
    result = ParityResult(rows=1, same_ids=False)
    assert not result.holds
