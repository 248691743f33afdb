"""The session: what it feeds, what that costs, when it reads, writes and stops."""

import pytest
import torch
from driving import (
    HEADER,
    PROMPT,
    SOURCE,
    TARGET,
    Calls,
    Forced,
    actions_of,
    drive,
    encoder_of,
    session_of,
    steps,
    target_ids_of,
)

from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import Row
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.policies import Action, ReadN, WaitK, roll_out
from simulmask_plugin.streaming.decoding import Chooser
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.parity import scored_rows, training_logits

WAIT_1 = {"policy": "wait_k", "k": 1}


def forced_session(model, encoder, source=SOURCE, target=TARGET, **options):
    """A session that writes the given target."""
    forced = Forced(target_ids_of(encoder, source, target))
    return session_of(model, encoder, choose=forced.choose, max_unit_tokens=99, **options)


@pytest.fixture(scope="session")
def llama(model_of, byte_level):
    return model_of("llama", len(byte_level), 0)


GOLDEN_CALLS = {
    # One word after the other; the look-ahead row of a word is fed before, its kept row behind the next source word.
    ("look_ahead", False): [
        [*PROMPT, " the", *HEADER],
        [" cat"],
        [" dog", " cat"],
        [" abcde"],
        [" abc", " abcde"],
        [" xyz"],
    ],
    # The source is there: both rows in one call.
    ("look_ahead", True): [
        [*PROMPT, " the", " dog", " abc", *HEADER],
        [" cat", " cat"],
        [" abcde", " abcde"],
        [" xyz"],
    ],
    ("own_unit", False): [[*PROMPT, " the", *HEADER], [" cat"], [" dog", " abcde"], [" abc", " xyz"]],
}


@pytest.mark.parametrize("rows, ahead", GOLDEN_CALLS)
def test_golden_calls(llama, byte_level, rows, ahead):
    session = forced_session(llama, encoder_of(byte_level, rows=rows, **WAIT_1))
    with Calls(llama, byte_level) as calls:
        written = drive(session, SOURCE.split(), ahead=ahead)
    assert written == TARGET.split()
    assert calls == GOLDEN_CALLS[rows, ahead]
    assert session.counters.calls == len(calls)
    assert session.counters.fed_tokens == sum(map(len, calls))
    assert session.counters.written_tokens == 3


def test_token_units_are_fed_once(llama, byte_level):
    session = forced_session(llama, encoder_of(byte_level, target_units="token", **WAIT_1))
    with Calls(llama, byte_level) as calls:
        drive(session, SOURCE.split())
    assert calls == [[*PROMPT, " the", *HEADER], [" dog", " cat"], [" abc", " abcde"], [" xyz"]]


def test_the_cache_grows_past_its_first_buffers(llama, byte_level):
    source, target = " ".join(["abc the dog"] * 50), " ".join(["cat abc"] * 70)
    session = forced_session(llama, encoder_of(byte_level, policy="wait_k", k=3), source, target)
    drive(session, source.split())
    assert len(session.lane.fed_ids) > 256
    assert session.lane.cache.layers[0].keys.shape[2] == 512


# Reading, writing, stopping


class Script:
    """Chooses tokens in the given order; None is the end of sentence."""

    def __init__(self, tokenizer, *texts):
        self.left = [
            tokenizer.eos_token_id if text is None else tokenizer.convert_tokens_to_ids(text) for text in texts
        ]

    def __call__(self, logits, index, opening):
        return self.left.pop(0)


def test_early_end_of_sentence_means_read(llama, byte_level):
    encoder = encoder_of(byte_level, **WAIT_1)
    session = session_of(llama, encoder, choose=Script(byte_level, "Ġthe", None, None, None, "Ġcat", None, None))
    session.read("a")
    assert session.write() == "the"  # its look-ahead row predicts the end of sentence
    assert session.action() is Action.READ
    session.read("b")
    assert session.action() is Action.WRITE
    assert session.write() is None  # so does its kept row, which sees "a b"
    assert not session.finished
    assert session.action() is Action.READ
    session.read("c")
    assert session.action() is Action.WRITE
    assert session.write() is None  # and the same row with "a b c"
    assert session.action() is Action.READ
    session.finish_source()
    assert session.action() is Action.WRITE
    assert session.write() == "cat"
    assert session.write() is None
    assert session.finished
    assert not session.truncated


def test_row_that_asked_too_early_is_fed_again(llama, byte_level):
    """Its entry leaves the cache, and comes back behind the word that was read."""
    encoder = encoder_of(byte_level, **WAIT_1)
    session = session_of(llama, encoder, choose=Script(byte_level, None, None, "Ġcat", None, None))
    with Calls(llama, byte_level) as calls:
        drive(session, SOURCE.split())
    assert calls == [
        [*PROMPT, " the", *HEADER],
        [" dog", *HEADER],
        [" abc", *HEADER],
        [" cat"],
    ]
    assert byte_level.decode(session.lane.kept_ids()) == "Tr: the dog abc\nAs: cat"


class EagerToStop:
    """Greedy, with a model that likes to end the sentence."""

    def __init__(self, encoder, bias):
        self.greedy, self.bias = Chooser(encoder, []), bias
        self.eos = encoder.tokenizer.eos_token_id

    def __call__(self, logits, index, opening):
        logits = logits.clone()
        logits[self.eos] += self.bias
        return self.greedy(logits, index, opening)


@pytest.mark.parametrize("rows", CONVENTIONS)
@pytest.mark.parametrize("bias", [0, 2, 4, 6])
@pytest.mark.parametrize("policy", [WaitK(k=1), ReadN(n=2)], ids=["wait-1", "read-2"])
def test_what_is_written_does_not_depend_on_how_early_the_source_arrives(model_of, byte_level, rows, bias, policy):
    """An end of sentence from a row that did not see all of the source means READ, whether it has arrived or not."""
    encoder = encoder_of(byte_level, rows=rows, policy="offline")
    for seed in range(3):
        written = []
        for ahead in (False, True):
            session = session_of(
                model_of("llama", len(byte_level), seed),
                encoder,
                policy,
                max_target_tokens=25,
                choose=EagerToStop(encoder, bias),
            )
            drive(session, "abc the dog cd xyz abcde".split(), ahead=ahead)
            written.append((session.target_ids, session.truncated))
        assert written[0] == written[1]


def test_unit_ends_when_it_has_enough_tokens(llama, byte_level):
    inner = byte_level.convert_tokens_to_ids("x")
    session = session_of(
        llama,
        encoder_of(byte_level, **WAIT_1),
        choose=lambda logits, index, opening: inner,
        max_unit_tokens=3,
        max_target_tokens=7,
    )
    assert drive(session, ["a", "b", "c"]) == ["xxx", "xxx", "x"]


def test_actions_follow_the_policy(llama, byte_level):
    session = forced_session(llama, encoder_of(byte_level, policy="wait_k", k=2))
    assert actions_of(session, SOURCE.split()) == "RRWRWWW"


def test_attention_that_cannot_take_the_mask_is_refused(model_of, byte_level, monkeypatch):
    model = model_of("llama", len(byte_level), 1)
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="'flash_attention_2' cannot take the mask"):
        open_session(model, encoder_of(byte_level, **WAIT_1), Decision())


def test_every_unit_after_the_first_opens_a_word(llama, byte_level):
    encoder = encoder_of(byte_level, **WAIT_1)
    session = session_of(llama, encoder, max_target_tokens=40, max_unit_tokens=4)
    starts = {len(session.target_ids) for _ in steps(session, SOURCE.split())} - {0}
    openers = [session.target_ids[start] for start in starts if start < len(session.target_ids)]
    assert openers
    assert all(encoder.target.opens_word[token] for token in openers)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_another_k_at_inference_has_the_rows_that_training_with_it_would_have(llama, byte_level, k):
    """Trained at 3: layout and positions stay, the schedule is that of k."""
    encoder = encoder_of(byte_level, policy="wait_k", k=3)
    policy = encoder.settings.inference_policy(k=k)
    example = encoder.encode(Row(SOURCE, TARGET, "English", "German"))
    layout = lay_out(encoder.settings.config, example, roll_out(policy, 3, 3))
    training = training_logits(llama, encoder.settings, layout)
    forced = Forced(target_ids_of(encoder, SOURCE, TARGET))
    session = session_of(llama, encoder, policy, choose=forced.choose, trace=forced.trace)
    drive(session, SOURCE.split())
    for index, token, kind in scored_rows(layout):
        torch.testing.assert_close(forced.rows[token, kind], training[index], atol=1e-4, rtol=0)
