"""The layouts of chunks: parity of training and streaming; no peeking."""

import random

import pytest
import torch
from driving import assert_holds, drive, encoder_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reference import schedules

from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.batches.features import Row
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.parity import ParityResult, compare

VOCAB = 320
INTERLEAVED = {"layout": "interleaved"}
TURNS = {"layout": "turns", "policy": "wait_k", "k": 1}
LAYOUTS = {"interleaved": INTERLEAVED, "turns": {"layout": "turns", "policy": "schedule"}}
words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=8)


@given(
    words,
    st.integers(1, 6).flatmap(lambda num: st.tuples(st.just(num), schedules(num_target=num, least=1))),
    st.sampled_from([*FAMILIES]),
    st.sampled_from([*LAYOUTS]),
    st.sampled_from(["all", "target"]),
)
@hypothesis_settings(max_examples=50)
def test_any_example_and_schedule_has_parity(model_of, with_ends, target, schedule, name, layout, loss_on):
    num_target, (g, num_source) = schedule
    row = Row(
        " ".join((target * num_source)[:num_source]),
        " ".join((target[::-1] * num_target)[:num_target]),
        "English",
        "German",
        g,
    )
    block = LAYOUTS[layout] | ({"loss_on": loss_on} if layout == "interleaved" else {})
    result = ParityResult()
    compare(model_of(name, VOCAB, 0), encoder_of(with_ends, **block), row, result)
    assert_holds(result)


# Source a b c d: a chunk of two, one in which the target goes on, one with only the end of sentence.
ROW = Row("abc the dog xyz", "cat abcde ab xyz", "English", "German", (2, 2, 3, 3, 4))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_family_has_parity(model_of, with_ends, name, layout):
    result = ParityResult()
    encoder = encoder_of(with_ends, **LAYOUTS[layout])
    compare(model_of(name, VOCAB, 0), encoder, ROW, result)
    assert_holds(result)
    # Every target token and the end of each chunk; in interleaved every source unit but the last as well.
    num_tokens = sum(encoder.encode(ROW).target_lengths)
    assert result.rows == num_tokens + 3 + (3 if layout == "interleaved" else 0)


HAN = {
    "word": Row("我们 是中国人", "é 我😀 ab", "Chinese", "English", (1, 3, 4)),
    "character": Row("我们 是中国人", "我们😀 ab", "Chinese", "English", (1, 1, 4, 6)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target_units", HAN)
def test_characters_have_parity(model_of, with_ends, layout, target_units):
    block = LAYOUTS[layout] | {"source_units": "character", "target_units": target_units}
    result = ParityResult()
    compare(model_of("llama", VOCAB, 0), encoder_of(with_ends, **block), HAN[target_units], result)
    assert_holds(result)


@pytest.mark.parametrize("policy", [{"policy": "wait_k", "k": 2}, {"policy": "read_n", "n": 2}, {"policy": "offline"}])
@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_turns_have_parity_under_every_policy(model_of, with_ends, name, policy):
    result = ParityResult()
    compare(model_of(name, VOCAB, 0), encoder_of(with_ends, layout="turns", **policy), ROW, result)
    assert_holds(result)


# No peeking

WORDS = "abc the dog cd xyz abcde cat".split()


def stream(model, encoder, words):
    """Every predicting row: what had been read, its place, its logits."""
    seen = []
    policy = next(iter(encoder.settings.config.policies()), None)
    session = ChunkedSession(model=model, encoder=encoder, policy=policy, max_target_tokens=60)
    session.trace = lambda place, logits: seen.append((session.num_read, place, logits))
    drive(session, words)
    return seen


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize("block", [INTERLEAVED | {"read_threshold": 1e-9}, TURNS], ids=["interleaved", "turns"])
@pytest.mark.parametrize("changed", [1, 4, 5])
def test_what_is_written_before_a_read_does_not_depend_on_later_words(model_of, with_ends, name, block, changed):
    model, encoder = model_of(name, VOCAB, 0), encoder_of(with_ends, **block)
    other = [*WORDS[:changed], *random.Random(0).sample(["b", "house", "d", "yy", "zebra"], 2)]
    one, two = ([row for row in stream(model, encoder, words) if row[0] <= changed] for words in (WORDS, other))
    assert len(one) == len(two) > 0
    for (*one_row, one_logits), (*two_row, two_logits) in zip(one, two, strict=True):
        assert one_row == two_row
        assert torch.equal(one_logits, two_logits)
