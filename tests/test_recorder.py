"""A recorded session tells its READs and WRITEs in order, and how probable the model has found what it wrote."""

import math
from itertools import accumulate

import pytest
import torch
from driving import Forced, encoder_of, session_of, steps

from simulmask_plugin.policies import ModelDriven, Offline, WaitK
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.recompute_session import RecomputeSession
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.slots_session import SlotsSession
from simulmask_plugin.streaming.unit_session import StreamingSession

SOURCE = "abc the dog cd xyz".split()
WAIT_2 = {"policy": "wait_k", "k": 2}
TURNS = {**WAIT_2, "layout": "turns"}
VOCAB = 320


class Clock:
    """Another second whenever it is asked."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


def recorded(new, model, encoder, policy, **options):
    """A session that has ended, and what was done as its driver saw it."""
    session = new(
        model=model, encoder=encoder, policy=policy, max_target_tokens=12, recorder=Recorder(Clock()), **options
    )
    return session, list(steps(session, SOURCE))


def assert_told(session, done):
    """What the recorder knows is what the driver saw; g counts what was read until then."""
    told, seen = session.recorder.steps, [(action, text) for action, text in done if text]
    assert [(step["action"], step["text"]) for step in told if step["text"]] == [(a.name, text) for a, text in seen]
    assert [step["g"] for step in told] == list(accumulate(step["action"] == "READ" for step in told))
    assert [step["time"] for step in told] == list(range(1, len(told) + 1))


def units_of(session):
    return [tuple(unit) for step in session.recorder.steps if step["action"] == "WRITE" for unit in step["units"]]


def expected_units(session, log_probabilities):
    """The units of all that was written, each with the product of the probabilities of its tokens."""
    target, left = session.encoder.target, iter(log_probabilities)
    units = [(target.text(ids), sum(next(left) for _ in ids)) for ids in target.cut(session.target_ids)]
    return [(text, pytest.approx(math.exp(total), rel=1e-4, abs=1e-6)) for text, total in units]


@pytest.mark.parametrize(
    ("new", "block"),
    [
        (StreamingSession, WAIT_2),
        (StreamingSession, {**WAIT_2, "target_units": "token", "rows": "query_unit"}),
        (SlotsSession, {**WAIT_2, "layout": "slots"}),
        (RecomputeSession, {"policy": "offline", "positions": "contiguous"}),
    ],
)
def test_unit_is_as_probable_as_the_row_before_each_token_says(model_of, byte_level, new, block):
    """The row that predicts it last, if more source was read after an end of sentence that came too early."""
    rows = Forced([])
    encoder = encoder_of(byte_level, **block)
    session, done = recorded(new, model_of("llama", VOCAB, 1), encoder, WaitK(k=2), trace=rows.rows_of_last_call)
    assert_told(session, done)
    before = [
        next(rows.rows[i, kind] for kind in KINDS if (i, kind) in rows.rows)
        for i in range(-1, len(session.target_ids) - 1)
    ]
    tokens = zip(session.target_ids, before, strict=True)
    expected = [float(row[: len(byte_level)].log_softmax(-1)[token]) for token, row in tokens]
    assert units_of(session) == expected_units(session, expected)
    assert len(expected) > 5


KINDS = ("header", "kept", "look_ahead")
"""Of the rows of a token: the one that predicts the next token comes first."""


@pytest.mark.parametrize("block", [TURNS, {"layout": "interleaved"}])
@pytest.mark.parametrize("beam_width", [1, 3])
def test_unit_of_a_chunk_is_as_probable_as_the_stock_model_says(model_of, with_ends, block, beam_width):
    model, encoder = model_of("llama", VOCAB, 0), encoder_of(with_ends, **block)
    policy = WaitK(k=2) if block is TURNS else ModelDriven(read_threshold=0.004)
    assert_told(*recorded(ChunkedSession, model, encoder, policy, beam_width=beam_width))
    policy = Offline() if block is TURNS else ModelDriven(read_threshold=0.999)
    session, _ = recorded(ChunkedSession, model, encoder, policy, beam_width=beam_width)  # one chunk, plain causal text
    fed, written = session.lane.kept_ids(), session.target_ids
    start = next(i for i in range(len(fed)) if fed[i:] == written[: len(fed) - i])
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([[*fed[:start], *written]])).logits[0, start - 1 :, : len(with_ends)]
    expected = [float(row[token]) for row, token in zip(rows.log_softmax(-1), written, strict=False)]
    assert units_of(session) == expected_units(session, expected)
    assert len(expected) > 5


def test_session_without_a_recorder_computes_no_probability(model_of, byte_level, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "log_softmax", None)
    assert list(steps(session_of(model_of("llama", VOCAB, 1), encoder_of(byte_level, **WAIT_2)), SOURCE))
