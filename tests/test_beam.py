"""Beam search with a kept cache is that of a slow loop without one, and leaves nothing of the other beams behind."""

import pytest
import torch
from driving import drive, encoder_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.policies import ModelDriven
from simulmask_plugin.streaming.beam import beam_search
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import ALL, FedRow, Request

VOCAB = 320
ENDS = (5, 9)
INTERLEAVED = {"layout": "interleaved"}


def scores(logits, *, opens_word):
    """Any token may stand; those that open a word are even."""
    forbidden = torch.arange(VOCAB) % 2 == 1 if opens_word else torch.zeros(VOCAB, dtype=torch.bool)
    forbidden[list(ENDS)] = False
    return logits.log_softmax(-1).masked_fill(forbidden, -torch.inf)


def liking(model, bias):
    """Scores of a model that likes to end."""

    def biased(logits, *, opens_word):
        logits = logits.clone()
        logits[..., list(ENDS)] += bias
        return scores(logits, opens_word=opens_word)

    return biased


@torch.no_grad()
def forward(model, ids):
    """Logits of the last token; everything is computed anew."""
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def slow_search(model, context, score, width, limit, opens_word):
    """Hypotheses are lists of tokens; all that ranks before the width-th live one may end."""
    live, finished = [([], 0.0)], []
    for depth in range(limit):
        candidates = []
        for ids, total in live:
            values = score(forward(model, context + ids), opens_word=opens_word and depth == 0).tolist()
            candidates += [(total + value, ids, token) for token, value in enumerate(values) if value > -torch.inf]
        candidates.sort(key=lambda candidate: -candidate[0])
        grown = []
        for total, ids, token in candidates:
            if len(grown) == width:
                break
            if token in ENDS:
                finished.append((ids, total))
            else:
                grown.append(([*ids, token], total))

        def mean(hypothesis):
            return hypothesis[1] / (len(hypothesis[0]) + 1)

        if len(finished) >= width or finished and max(map(mean, grown)) <= max(map(mean, finished)):
            break
        live = grown
    return max(finished or live, key=mean)[0]


def feed_context(model, context):
    """A feeder that holds the context, and the logits of its end."""
    feeder = Feeder(model)
    rows = [FedRow(token, i, -1, ALL, i) for i, token in enumerate(context)]
    return feeder, feeder.feed(Request(rows, num_predicting=1))[-1]


def search(model, context, score, width, limit, opens_word=False):
    feeder, logits = feed_context(model, context)
    place = {"order": len(context), "position": len(context)}
    options = {"width": width, "limit": limit, "ends": ENDS, "opens_word": opens_word, **place}
    return feeder, [token for token, _ in feeder.run(beam_search(feeder.lane, logits, score, **options))]


contexts = st.lists(st.integers(10, VOCAB - 1), min_size=1, max_size=8)


@given(
    contexts,
    st.sampled_from(["llama", "falcon"]),
    st.integers(0, 2),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([0.0, 2.0, 3.0, 5.0]),
    st.integers(1, 6),
    st.booleans(),
)
@hypothesis_settings(max_examples=40)
def test_search_equals_the_slow_reference(model_of, context, name, seed, width, bias, limit, opens_word):
    model = model_of(name, VOCAB, seed)
    prepare(model)
    score = liking(model, bias)
    feeder, ids = search(model, context, score, width, limit, opens_word)
    assert ids == slow_search(model, context, score, width, limit, opens_word)
    assert feeder.lane.fed_ids == context + ids


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_cache_is_that_of_tokens_fed_one_by_one(model_of, name, width, bias):
    """Entries, integers and what they predict next."""
    model, context = model_of(name, VOCAB, 0), [20, 31, 42]
    searched, ids = search(model, context, liking(model, bias), width, 8)
    assert ids
    other, _ = feed_context(model, context)
    for place, token in enumerate(ids, start=len(context)):
        other.feed(Request([FedRow(token, place, -1, ALL, place)], num_predicting=1))
    lane, other_lane = searched.lane, other.lane
    assert lane.num_keys == other_lane.num_keys == len(context) + len(ids)
    assert lane.fed_ids == other_lane.fed_ids == lane.kept_ids()
    assert (lane.keys[:, : lane.num_keys] == other_lane.keys[:, : lane.num_keys]).all()
    for one, two in zip(lane.cache.layers, other_lane.cache.layers, strict=True):
        for name in ("keys", "values"):
            states = (getattr(layer, name)[:, :, : layer.length] for layer in (one, two))
            torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
    last = Request([FedRow(77, lane.num_keys, -1, ALL, lane.num_keys)], num_predicting=1)
    torch.testing.assert_close(*(f.feed(last) for f in (searched, other)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_search_costs_a_call_a_token(model_of, width):
    """All live hypotheses are fed in one; at most one more call than the winner has tokens, and one for the end."""
    model = model_of("llama", VOCAB, 0)
    feeder, ids = search(model, [20, 31, 42], liking(model, -99.0), width, 7)
    assert len(ids) == 7
    assert feeder.lane.counters.calls == 1 + 7
    assert feeder.lane.counters.fed_tokens == 3 + 7 * width


@pytest.mark.parametrize("name", ["llama", "falcon"])
@pytest.mark.parametrize("block", [INTERLEAVED, {"layout": "turns", "policy": "wait_k", "k": 1}])
@pytest.mark.parametrize("seed", [0, 3])
def test_width_one_is_greedy(model_of, with_ends, monkeypatch, name, block, seed):
    """The session takes the greedy path for a width of 1; through the search it writes the same."""
    encoder = encoder_of(with_ends, **block)
    policy = encoder.settings.config.policies[0] if block is not INTERLEAVED else ModelDriven(read_threshold=1e-9)
    outcomes = []
    for width in (1, 2):
        session = ChunkedSession(
            model=model_of(name, VOCAB, seed), encoder=encoder, policy=policy, beam_width=width, max_target_tokens=60
        )
        monkeypatch.setattr("simulmask_plugin.streaming.chunk_session.beam_search", one_hypothesis)
        written = drive(session, "the dog abc cat".split())
        fed = session.lane.fed_ids
        outcomes.append((written, session.target_ids, fed[: session.lane.num_keys]))
    (*greedy, greedy_fed), (*searched, searched_fed) = outcomes
    assert greedy == searched
    assert searched_fed[: len(greedy_fed)] == greedy_fed


def one_hypothesis(*args, width, **options):
    assert width == 2, "the session hands on another width"
    return beam_search(*args, width=1, **options)
