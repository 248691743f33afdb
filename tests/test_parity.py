"""Training and streaming give the same logits, where the method promises it, and differ where it cannot.

Every cell compares all scored rows, look-ahead rows included, of sentences of several lengths and words of 1..6 tokens.
"""

import numpy as np
import pytest
import torch
from driving import POLICIES, THOROUGH, assert_holds, encoder_of, parity, sentence_pairs
from reference import settings_of

from simulmask_plugin.attention.families import FAMILIES, tiny_model
from simulmask_plugin.attention.float64 import StayInFloat64
from simulmask_plugin.commands.random_rows import random_row
from simulmask_plugin.streaming.parity import EXACT, ParityResult, compare, promises_parity, stock_difference

ALIBI = [name for name, family in FAMILIES.items() if family.position == "alibi"]
VOCAB = 320


@pytest.mark.parametrize("name", THOROUGH)
def test_eager_attention_has_parity(model_of, byte_level, name):
    positions = "modified_alibi" if name in ALIBI else "group"
    model = model_of(name, VOCAB, 0, "eager")
    assert_holds(parity(model, byte_level, sentence_pairs(), {"positions": positions} | POLICIES["wait-3"]))


@pytest.mark.parametrize(
    "name, block",
    [
        ("llama", {"rows": "query_unit", **POLICIES["offline"]}),
        ("llama", {"rows": "query_unit", "target_units": "token", **POLICIES["wait-1"]}),
        ("llama", {"positions": "contiguous", **POLICIES["offline"]}),
        ("falcon", {"positions": "contiguous", **POLICIES["offline"]}),
    ],
)
def test_what_promises_no_parity_has_it_where_nothing_is_read_late(model_of, byte_level, name, block):
    """Neither inner tokens that wait, nor source behind which the target has been placed."""
    assert promises_parity(settings_of(**block))
    assert_holds(parity(model_of(name, VOCAB, 0), byte_level, sentence_pairs(), block))


def test_multi_path_has_parity_for_every_k(model_of, byte_level):
    encoder = encoder_of(byte_level, policy="wait_k", k=[1, 4])
    for policy_index in range(2):
        result = ParityResult()
        for row in sentence_pairs():
            compare(model_of("llama", VOCAB, 0), encoder, row, result, policy_index=policy_index)
        assert_holds(result)


def result_of(difference, **known):
    result = ParityResult(**{"rows": 1, **known})
    result.max_abs_diff = difference
    return result


@pytest.mark.parametrize(
    "difference, known, holds",
    [
        (9e-5, {}, True),
        (2e-4, {}, False),
        (0, {"rows": 0}, False),
        (0, {"same_ids": False}, False),
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
