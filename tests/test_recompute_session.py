"""The baseline that computes the target anew: its predictions are those of plain text, encoded from scratch."""

import pytest
import torch
from driving import HEADER, PROMPT, SOURCE, TARGET, Calls, Forced, drive, encoder_of, session_of, target_ids_of
from hypothesis import given, settings
from hypothesis import strategies as st

from simulmask_plugin.policies import Offline, ReadN, WaitK
from simulmask_plugin.streaming.recompute_session import RecomputeSession

VOCAB = 320
PLAIN = {"policy": "offline", "positions": "contiguous"}
WAIT_1, READ_2, OFFLINE = WaitK(k=1), ReadN(n=2), Offline()
LONG_SOURCE, LONG_TARGET = "abc the dog cd xyz abcde", "cat dexyzz house dog"
words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=7)


def recompute_of(model, encoder, policy, **options):
    return RecomputeSession(model=model, encoder=encoder, policy=policy, **options)


class FromScratch:
    """Compares every prediction with the stock model's for the same text, encoded from scratch."""

    def __init__(self, model, encoder, source, policy):
        self.model, self.policy = model, policy
        self.before, self.header, _ = encoder.frame(None, None)
        self.source = encoder.source_units(source, before="")
        self.rows = 0

    def __call__(self, index, kind, logits):
        assert index == len(self.session.target_ids) - 1
        own = min(self.session._wanted(self.session.num_written + 1), self.session.num_read)
        source = [token for unit in self.source[: int(own)] for token in unit]
        ids = torch.tensor([[*self.before, *source, *self.header, *self.session.target_ids]])
        with torch.no_grad():
            stock = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        torch.testing.assert_close(logits, stock, atol=1e-4, rtol=0)
        self.rows += 1


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize(
    "policy, units, ahead",
    [(WAIT_1, "word", False), (WAIT_1, "token", True), (READ_2, "word", True), (OFFLINE, "word", False)],
)
def test_every_prediction_is_that_of_the_text_encoded_from_scratch(model_of, byte_level, name, policy, units, ahead):
    model = model_of(name, VOCAB, 0)
    encoder = encoder_of(byte_level, target_units=units, **PLAIN)
    check = FromScratch(model, encoder, LONG_SOURCE, policy)
    forced = Forced(target_ids_of(encoder, LONG_SOURCE, LONG_TARGET))
    check.session = recompute_of(model, encoder, policy, choose=forced.choose, max_unit_tokens=99, trace=check)
    drive(check.session, LONG_SOURCE.split(), ahead=ahead)
    assert check.rows == check.session.counters.calls >= len(forced.target_ids)


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_offline_it_writes_what_the_kept_cache_writes(model_of, byte_level, name):
    encoder = encoder_of(byte_level, **PLAIN)
    for seed in range(2):
        model, written = model_of(name, VOCAB, seed), []
        for new in (session_of, recompute_of):
            session = new(model, encoder, OFFLINE, max_target_tokens=15)
            drive(session, LONG_SOURCE.split())
            cost = session.counters.calls, session.counters.fed_tokens
            written.append((session.target_ids, session.truncated, cost))
        assert written[0] == written[1]
        assert len(session.target_ids) > 5


def forced_recompute(model, tokenizer, policy, source=SOURCE, target=TARGET):
    encoder = encoder_of(tokenizer, **PLAIN)
    forced = Forced(target_ids_of(encoder, source, target))
    return recompute_of(model, encoder, policy, choose=forced.choose, max_unit_tokens=99)


GOLDEN_CALLS = [
    [*PROMPT, " the", *HEADER],
    [" cat"],
    [" dog", *HEADER, " cat"],
    [" abcde"],
    [" abc", *HEADER, " cat", " abcde"],
    [" xyz"],
]


@pytest.mark.parametrize("ahead", [False, True])
def test_header_and_target_are_fed_again_behind_new_source(model_of, byte_level, ahead):
    """However early it has come; prompt and source are fed once."""
    model = model_of("llama", len(byte_level), 0)
    session = forced_recompute(model, byte_level, WAIT_1)
    with Calls(model, byte_level) as calls:
        assert drive(session, SOURCE.split(), ahead=ahead) == TARGET.split()
    assert calls == GOLDEN_CALLS
    assert session.counters.calls == session.counters.predicting_rows == len(calls)
    assert session.counters.fed_tokens == sum(map(len, calls))
    assert session.counters.written_tokens == 3


@given(words, words, st.integers(1, 5), st.booleans())
@settings(max_examples=10)
def test_the_cache_ends_as_the_plain_text(model_of, byte_level, source, target, k, ahead):
    model = model_of("llama", len(byte_level), 0)
    session = forced_recompute(model, byte_level, WaitK(k=k), " ".join(source), " ".join(target))
    drive(session, source, ahead=ahead)
    text = f"Tr: {' '.join(source)}\nAs: {' '.join(target)}"
    assert byte_level.decode(session.lane.fed_ids) == text
    assert session.lane.kept_ids() == session.lane.fed_ids
    fed_once = len(session.lane.fed_ids)
    reads = min(len(target), len(source) - min(k, len(source)))  # after the first WRITE
    assert session.counters.fed_tokens >= fed_once + reads * len(HEADER)
    assert (session.counters.fed_tokens == fed_once) == (k >= len(source))


def test_early_end_of_sentence_means_read(model_of, byte_level):
    """And feeds the header again; where the source ends without a further word, only the row that asked."""
    model = model_of("llama", len(byte_level), 0)
    eos = byte_level.eos_token_id
    session = recompute_of(model, encoder_of(byte_level, **PLAIN), WAIT_1, choose=lambda *_: eos)
    with Calls(model, byte_level) as calls:
        drive(session, ["the", "dog"])
    assert calls == [[*PROMPT, " the", *HEADER], [" dog", *HEADER]]
    assert session.finished
    assert session.target_ids == []
