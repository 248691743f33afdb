"""A policy that looks at the model: where it does not accept, more is read, and what is written then has parity."""

import numpy as np
import pytest
import torch
from driving import Asks, encoder_of, layout_of, steps

from simulmask_plugin.policies import Action, Offline, WaitK
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.parity import scored_rows, training_logits

VOCAB = 320
WORDS = "the dog abc house cd xyz a".split()
BLOCKS = {
    "prefix": {},
    "alibi": {"positions": "modified_alibi"},
    "tokens": {"target_units": "token"},
    "slots": {"layout": "slots", "slot_length": 5},
    "turns": {"layout": "turns"},
}
WAIT_1 = Decision.from_dict({"policy": "wait_k", "k": 1})
every_block = pytest.mark.parametrize("name", BLOCKS)


class Confidence:
    """Accepts when the likeliest token has at least this probability, and keeps its answers."""

    def __init__(self, probability):
        self.probability, self.answers = probability, []

    def __call__(self, evidence):
        self.answers.append(float(evidence.logits.softmax(dim=-1).max()) >= self.probability)
        return self.answers[-1]


def stream(model, encoder, probability, *, ahead=False):
    """The session, what the policy answered, the logits of each row, and the units read and tokens of every write."""
    confidence, rows, writes = Confidence(probability), {}, []
    session = open_session(model, encoder, WAIT_1, max_target_tokens=120)
    session.policy, session.max_unit_tokens = Asks(answer=confidence), 3
    session.trace = lambda *row: rows.__setitem__(row[:-1], row[-1])
    for _ in steps(session, WORDS, ahead=ahead):
        num_tokens = len(session.target_ids) - sum(num for _, num in writes)
        if num_tokens:
            writes.append((session.num_read, num_tokens))
    return session, confidence.answers, rows, writes


@pytest.mark.parametrize("seed", range(3))
@every_block
def test_unit_that_is_not_accepted_waits_and_has_parity(model_of, byte_level, name, seed):
    encoder = encoder_of(byte_level, policy="schedule", **BLOCKS[name])
    model = model_of("falcon" if name == "alibi" else "llama", VOCAB, seed)
    session, answers, rows, writes = stream(model, encoder, 0.1)
    assert not all(answers), "nothing was refused"
    layout = layout_of(encoder, session, writes, WORDS)
    training = training_logits(model, encoder.settings, layout)
    keys = {(token, kind): index for index, token, kind in scored_rows(layout)}
    if name == "turns":
        keys = {(int(index),): int(index) for index in np.flatnonzero(layout.labels >= 0) - 1}
    fed = keys.keys() & rows.keys()
    assert len(fed) >= len(session.target_ids)
    for key in fed:
        torch.testing.assert_close(rows[key], training[keys[key]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "turns"])
def test_source_that_arrives_ahead_changes_nothing(model_of, byte_level, name):
    encoder = encoder_of(byte_level, policy="schedule", **BLOCKS[name])
    model = model_of("falcon" if name == "alibi" else "llama", VOCAB, 0)
    outcomes = [stream(model, encoder, 0.1, ahead=ahead) for ahead in (False, True)]
    (one, one_answers, *_), (two, two_answers, *_) = outcomes
    assert one_answers == two_answers
    assert one.target_ids == two.target_ids


def turns(model, encoder, policy):
    session = open_session(model, encoder, WAIT_1, max_target_tokens=9)
    session.policy = policy
    return session


def test_header_of_a_turn_is_fed_once(model_of, byte_level):
    """The policy sees what it predicts, and so does the WRITE."""
    model, encoder = model_of("llama", VOCAB, 0), encoder_of(byte_level, policy="schedule", **BLOCKS["turns"])
    asked, other = turns(model, encoder, Asks(answer=lambda evidence: True)), turns(model, encoder, WaitK(k=1))
    for session in (asked, other):
        session.read("the")
        assert session.action() is Action.WRITE
        session.write()
    assert asked.counters == other.counters
    assert asked.lane.fed_ids == other.lane.fed_ids


@pytest.mark.parametrize("accepts", [False, True])
def test_header_of_a_turn_makes_room_for_more_source(model_of, byte_level, accepts):
    """Also where more is read though the policy would WRITE."""
    model, encoder = model_of("llama", VOCAB, 0), encoder_of(byte_level, policy="schedule", **BLOCKS["turns"])
    asked, other = turns(model, encoder, Asks(answer=lambda evidence: accepts)), turns(model, encoder, Offline())
    for session in (asked, other):
        session.read("the")
        session.action()
        session.read("dog")
        session.finish_source()
        session.write()
    assert asked.lane.kept_ids() == asked.lane.fed_ids == other.lane.fed_ids
    assert asked.counters.calls == other.counters.calls + 1
