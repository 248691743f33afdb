"""Many sessions at once do what each does alone: the same actions, texts and costs, however many lanes there are."""

from itertools import count

import pytest
import torch
from driving import encoder_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.lane import ALL, FedRow, Request
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.pool import PATIENCE, Pool

WAIT_2 = {"policy": "wait_k", "k": 2}
RUNS = {
    "prefix": ({**WAIT_2, "positions": "group"}, {}),
    "alibi": ({**WAIT_2, "positions": "modified_alibi"}, {}),
    "own unit": ({**WAIT_2, "rows": "own_unit"}, {"policy": "read_n", "n": 2}),
    "tokens": ({**WAIT_2, "target_units": "token"}, {}),
    "slots": ({**WAIT_2, "layout": "slots", "slot_length": 3}, {"policy": "wait_k", "k": 1}),
    "turns": ({**WAIT_2, "layout": "turns"}, {}),
    "interleaved": ({"layout": "interleaved"}, {"read_threshold": 0.004}),
    "beams": ({"layout": "interleaved"}, {"read_threshold": 0.004, "beam_width": 3}),
    "recomputed": ({**WAIT_2, "positions": "contiguous"}, {"recompute": True}),
}


def translating(session, words):
    """All that a session does with a sentence."""
    left, actions = list(words), []
    while not session.finished:
        if (yield from session.deciding()) is Action.READ:
            session.read(left.pop(0))
            if not left:
                session.finish_source()
            actions.append(Action.READ)
        else:
            actions.append((yield from session.writing()))
    return actions, session.target_ids, session.counters, session.lane.kept_ids()


def jobs(model, encoder, decision, sentences):
    def job(words):
        return lambda lane: translating(open_session(model, encoder, decision, max_target_tokens=16, lane=lane), words)

    return [job(words) for words in sentences]


def one_by_one(model, encoder, decision, sentences):
    sessions = [open_session(model, encoder, decision, max_target_tokens=16) for _ in sentences]
    return [session.run(translating(session, words)) for session, words in zip(sessions, sentences, strict=True)]


sentence = st.lists(st.sampled_from("the dog cat abc xyz abcde cd".split()), min_size=1, max_size=9)


@pytest.mark.parametrize("name", RUNS)
@hypothesis_settings(max_examples=8)
@given(sentences=st.lists(sentence, min_size=1, max_size=12), num_lanes=st.integers(1, 5), seed=st.integers(0, 3))
def test_a_pool_does_what_its_sessions_do_alone(model_of, with_ends, name, sentences, num_lanes, seed):
    block, run = RUNS[name]
    family = "falcon" if block.get("positions") == "modified_alibi" else "llama"
    model, encoder, decision = (
        model_of(family, len(with_ends), seed),
        encoder_of(with_ends, **block),
        Decision.from_dict(run),
    )
    pooled = dict(Pool(model, num_lanes).run(jobs(model, encoder, decision, sentences)))
    assert [pooled[number] for number in range(len(sentences))] == one_by_one(model, encoder, decision, sentences)


@pytest.mark.parametrize("family", ["bloom", "mpt", "gemma2", "gemma3", "qwen3"])
def test_every_kind_of_family_is_pooled(model_of, with_ends, family):
    model, encoder, decision = model_of(family, len(with_ends), 0), encoder_of(with_ends, **WAIT_2), Decision()
    sentences = [["the", "dog", "abc"], ["cat"], ["xyz", "cd", "the", "abcde", "dog"], ["abc", "cat"]]
    pooled = dict(Pool(model, 2).run(jobs(model, encoder, decision, sentences)))
    assert [pooled[number] for number in range(4)] == one_by_one(model, encoder, decision, sentences)


def test_a_lane_that_is_free_takes_the_next_sentence_at_once(model_of, with_ends):
    """Far fewer calls than one after the other, and never more sessions than lanes."""
    model, encoder, decision = model_of("llama", len(with_ends), 0), encoder_of(with_ends, **WAIT_2), Decision()
    opened, sentences = [], [["the", "dog", "abc"][: 1 + i % 3] for i in range(20)]

    def noted():
        for job in jobs(model, encoder, decision, sentences):
            opened.append(1)
            yield job

    calls, ended = [], 0
    handle = model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(1), with_kwargs=True)
    try:
        results = Pool(model, 4).run(noted())
        for _, (_, _, counters, _) in results:
            ended += 1
            assert len(opened) - ended <= 4
            assert counters.calls
    finally:
        handle.remove()
    alone = sum(counters.calls for _, _, counters, _ in one_by_one(model, encoder, decision, sentences))
    assert len(calls) < alone / 2


def asking(num_rows, times=None):
    """A job that has rows fed, so many times or without end."""

    def job(lane):
        num_fed = 0
        while num_fed != times:
            yield Request([FedRow(1, i, -1, ALL, i) for i in range(num_rows)], 1)
            lane.crop(0)
            num_fed += 1
        return num_fed

    return job


@pytest.mark.parametrize("num_rows", [2, 20])
def test_no_request_is_passed_over_for_ever(model_of, num_rows):
    """Neither one of a rare length nor a prompt, however many others there are."""
    pool = Pool(model_of("llama", 50, 0), 16)
    for number in range(4):
        pool.start(number, asking(1))
    pool.start(4, asking(num_rows, times=1))
    steps = next(i for i in count(1) if pool.step())
    assert steps <= PATIENCE + 2


def test_a_call_that_fails_fails_only_for_those_that_the_model_cannot_take(model_of, with_ends, caplog):
    model, encoder, decision = model_of("llama", len(with_ends), 0), encoder_of(with_ends, **WAIT_2), Decision()
    sentences = [["the", "dog", "abc"], ["cat", "xyz"], ["abc", "cat"]]
    (bad,) = encoder.source_units("xyz", before="cat")

    def fail(module, args, kwargs):
        is_prompt = kwargs["input_ids"].shape[1] > 4
        if is_prompt and (kwargs["input_ids"] == bad[-1]).any():
            raise RuntimeError("out of memory")

    def caught(job):
        def run(lane):
            try:
                return (yield from job(lane))
            except RuntimeError as error:
                return error

        return run

    handle = model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        pooled = dict(Pool(model, 3).run(map(caught, jobs(model, encoder, decision, sentences))))
    finally:
        handle.remove()
    assert str(pooled.pop(1)) == "out of memory"
    alone = one_by_one(model, encoder, decision, [sentences[0], sentences[2]])
    assert [done[:2] for done in pooled.values()] == [done[:2] for done in alone]
    assert "A call for 3 sentences failed (out of memory); each is fed alone." in caplog.text


def test_a_session_that_is_too_long_fails_before_the_call(model_of):
    pool = Pool(model_of("llama", 50, 0), 2, max_keys=8)

    def job(lane):
        try:
            yield from asking(9)(lane)
        except ValueError as error:
            return str(error)

    pool.start(0, job)
    assert pool.step() == [(0, "The sentence has more than 8 tokens, both sides counted.")]
    pool.start(1, asking(8, times=1))
    assert pool.step() == [(1, 1)]


def test_a_session_that_waits_for_source_holds_up_nobody(model_of):
    pool, source = Pool(model_of("llama", 50, 0), 2), []

    def waiting(lane):
        while not source:
            yield None
        return source

    pool.start(0, waiting)
    assert (pool.step(), pool.asks, pool.has_room) == ([], False, True)
    pool.start(1, asking(1, times=3))
    assert not pool.has_room
    assert [pool.step() for _ in range(3)] == [[], [], [(1, 3)]]
    source.append("the")
    assert pool.step() == [(0, source)]


def test_a_session_that_is_stopped_leaves_its_lane(model_of):
    pool, ends = Pool(model_of("llama", 50, 0), 1), []

    def job(lane):
        try:
            yield from asking(1)(lane)
        finally:
            ends.append(lane.num_keys)

    pool.start(0, job)
    pool.step()
    pool.stop(0)
    pool.stop(0)
    assert (ends, pool.has_room, pool.asks) == ([0], True, False)


def test_no_sentences_need_no_call(model_of):
    assert list(Pool(model_of("llama", 50, 0), 2).run([])) == []


def test_logits_of_a_pool_are_those_of_a_session(model_of, with_ends):
    model, encoder = model_of("llama", len(with_ends), 0), encoder_of(with_ends, **WAIT_2)
    seen = {}

    def job(number):
        def run(lane):
            session = open_session(model, encoder, Decision(), max_target_tokens=8, lane=lane)
            session.trace = lambda *row: seen.setdefault(number, []).append(row[-1])
            return translating(session, ["the", "dog", "abc", "cat"][: number + 1])

        return run

    list(Pool(model, 4).run([job(number) for number in range(4)]))
    pooled, seen = seen, {}
    for number in range(4):
        list(Pool(model, 1).run([job(number)]))
    for number, rows in seen.items():
        for own, other in zip(pooled[number if number in pooled else 0], rows, strict=True):
            torch.testing.assert_close(own, other, atol=1e-4, rtol=0)
