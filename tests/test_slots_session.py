"""Streaming of the layout `slots`: ends of sentence that come too early, and slots of another length."""

import pytest
import torch
from driving import POLICIES, Forced, drive, encoder_of, steps, target_ids_of
from hypothesis import given, settings
from hypothesis import strategies as st

from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import Row
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.parity import scored_rows, training_logits
from simulmask_plugin.streaming.slots_session import SlotsSession

SLOTS = {"layout": "slots", "positions": "slots"}
EXACT_ROWS = ["look_ahead", "own_unit", "next_unit"]
VOCAB = 320


words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=6)


def forced_session(model, encoder, row):
    forced = Forced(target_ids_of(encoder, row.source, row.target))
    (policy,) = encoder.settings.config.policies
    options = {"choose": forced.choose, "trace": forced.trace, "max_unit_tokens": 99}
    return SlotsSession(model=model, encoder=encoder, policy=policy, **options), forced


@given(st.data(), words, words, st.sampled_from(EXACT_ROWS), st.integers(1, 9))
@settings(max_examples=40)
def test_an_end_of_sentence_that_comes_too_early_reads_as_a_schedule_would(
    model_of, byte_level, data, source, target, rows, slot_length
):
    """Also where the source that is read then opens a slot or a segment."""
    model = model_of("llama", VOCAB, 0)
    encoder = encoder_of(byte_level, rows=rows, slot_length=slot_length, **POLICIES["wait-1"], **SLOTS)
    row = Row(" ".join(source), " ".join(target), "English", "German")
    session, forced = forced_session(model, encoder, row)
    refusals = data.draw(st.lists(st.integers(0, 2), min_size=len(target), max_size=len(target)))

    def choose(logits, index, opening):
        if opening and session.num_written < len(target) and refusals[session.num_written]:
            if not session.source_finished:
                refusals[session.num_written] -= 1
                return byte_level.eos_token_id
        return forced.choose(logits, index, opening)

    session.choose, session.trace = choose, forced.rows_of_last_call
    g = []
    for _ in steps(session, source):
        g += [session.num_read] * (session.num_written - len(g))
    layout = lay_out(encoder.settings.config, encoder.encode(row), ReadSchedule((*g, len(source)), len(source)))
    assert session.lane.kept_ids() == layout.input_ids[layout.source_unit < len(source)].tolist()[:-1]
    if rows == "own_unit":
        return  # a row that refused is asked again with more source than training gives it
    training = training_logits(model, encoder.settings, layout)
    for index, token, kind in scored_rows(layout):
        if kind != "look_ahead":
            torch.testing.assert_close(forced.rows[token, kind], training[index], atol=1e-4, rtol=0)


WORDS = "abc the dog cd xyz abcde cat".split()


def fed_rows(model, encoder, decision):
    """The integers of all that a greedy session leaves in the cache."""
    session = open_session(model, encoder, decision, max_target_tokens=12)
    drive(session, WORDS)
    return session.lane.keys[:, : session.lane.num_keys].tolist()


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_slot_length_of_the_decision_gives_the_positions_of_a_training_with_it(model_of, byte_level, name):
    model = model_of(name, len(byte_level), 0)
    trained_8, trained_3 = (
        encoder_of(byte_level, slot_length=length, **POLICIES["wait-1"], **SLOTS) for length in (8, 3)
    )
    overridden = fed_rows(model, trained_8, Decision.from_dict({"policy": "wait_k", "k": 1, "slot_length": 3}))
    assert overridden == fed_rows(model, trained_3, Decision.from_dict({"k": 1}))
    assert overridden != fed_rows(model, trained_8, Decision.from_dict({"k": 1}))
    assert trained_8.settings.config.layout.slot_length == 8
