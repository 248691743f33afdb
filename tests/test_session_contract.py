"""What every session promises, whatever its layout: one is tested by its layout being in the table."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from driving import POLICIES, Calls, assert_holds, drive, encoder_of, is_valid, parity, sentence_pairs, steps
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from layouts_driver import (
    BLOCKS,
    LAYOUTS,
    PROMISED,
    UNIT_BY_UNIT,
    block_of,
    drawn_blocks,
    ends_of,
    family_of,
    is_look_ahead,
    least_read,
    open_forced,
    open_greedy,
)
from reference import schedules, settings_of

from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.parity import scored_rows, training_logits
from simulmask_plugin.text.units import UNITS

VOCAB = 320
WORDS = "abc the dog cd xyz abcde cat".split()
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_block = pytest.mark.parametrize("name", BLOCKS)
words = st.lists(st.text("abcdexyz", min_size=1, max_size=6), min_size=1, max_size=6)
plans = st.integers(1, 6).flatmap(lambda num: st.tuples(st.just(num), schedules(num_target=num, least=1)))
ALIBI = [name for name, family in FAMILIES.items() if family.position == "alibi"]


def row_of(letters, num_target, schedule):
    g, num_source = schedule
    source, target = (letters * num_source)[:num_source], (letters[::-1] * num_target)[:num_target]
    return Row(" ".join(source), " ".join(target), "English", "German", g)


def rows_for(settings, rows):
    """The rows of data, with schedules that the layout takes."""
    least = least_read(settings)
    return [replace(row, schedule=tuple(max(now, least) for now in row.schedule)) for row in rows]


# Parity


@every_layout
@given(st.data(), words, plans, st.booleans())
@hypothesis_settings(max_examples=40)
def test_any_example_and_schedule_has_parity(model_of, with_ends, layout, data, letters, plan, reads_nothing_first):
    num_target, (g, num_source) = plan
    block = data.draw(drawn_blocks(layout, PROMISED))
    name = data.draw(st.sampled_from(ALIBI if block.get("positions") == "modified_alibi" else [*FAMILIES]))
    if reads_nothing_first and not least_read(settings_of(**block)):
        g = (0, *g[1:])
    row = row_of(letters, num_target, (g, num_source))
    assert_holds(parity(model_of(name, VOCAB, 0), with_ends, [row], block))


@every_layout
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_parity(model_of, with_ends, layout, name):
    """Chunks of two units, of one in which the target goes on, and of none but the end of sentence."""
    row = Row("abc the dog xyz", "cat abcde ab xyz", "English", "German", (2, 2, 3, 3, 4))
    assert_holds(parity(model_of(name, VOCAB, 0), with_ends, [row], block_of(layout)))


@pytest.mark.parametrize("name", PROMISED)
def test_every_policy_has_parity(model_of, with_ends, name):
    model = model_of(family_of(BLOCKS[name]), VOCAB, 0)
    for policy in POLICIES.values():
        block = BLOCKS[name] | policy | ({"slot_length": 5} if is_valid(BLOCKS[name] | {"slot_length": 5}) else {})
        if is_valid(block):
            assert_holds(parity(model, with_ends, rows_for(settings_of(**block), sentence_pairs()), block))


TEXTS = [("我们 是中国人", "the dog é😀 abcde"), ("abc 我😀", "我们是e\u0301人"), ("xyzab the", "ab cde the")]


@every_layout
def test_all_units_have_parity(model_of, both_with_ends, layout):
    """A word that arrives as several token units is there before the policy has asked for it."""
    for source_units, target_units, tokenizer in product(UNITS, UNITS, both_with_ends):
        block = block_of(layout, source_units=source_units, target_units=target_units)
        if is_valid(block):
            rows = [wait_1(encoder_of(tokenizer, **block), *texts) for texts in TEXTS]
            assert_holds(parity(model_of("llama", VOCAB, 0), tokenizer, rows, block))


def wait_1(encoder, source, target):
    """A row of data whose schedule is that of wait-1."""
    row = Row(source, target, "English", "German")
    example = encoder.encode(row)
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    return replace(row, schedule=tuple(min(t, num_source) for t in range(1, num_target + 2)))


# What the other conventions cannot promise


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in PROMISED])
@pytest.mark.parametrize("alibi", [False, True])
def test_what_promises_no_parity_differs(model_of, with_ends, name, alibi):
    """`query_unit` shows inner tokens more in training; `contiguous` counts source that has not arrived."""
    model = model_of("falcon" if alibi else "llama", VOCAB, 0)
    result = parity(model, with_ends, sentence_pairs(), BLOCKS[name] | POLICIES["wait-1"])
    assert result.same_ids
    assert result.max_abs_diff > 1e-3


@pytest.mark.parametrize("name", UNIT_BY_UNIT)
@pytest.mark.parametrize("alibi", [False, True])
def test_source_that_arrives_ahead_of_the_policy_has_parity(model_of, with_ends, name, alibi):
    """Look-ahead row and kept row are fed in one call."""
    model = model_of("falcon" if alibi else family_of(BLOCKS[name]), VOCAB, 0)
    for policy in ("wait-1", "wait-3", "read-2"):
        encoder = encoder_of(with_ends, **BLOCKS[name] | POLICIES[policy])
        for row in sentence_pairs():
            session, layout, streamed = open_forced(model, encoder, row)
            drive(session, row.source.split(), ahead=True)
            training = training_logits(model, encoder.settings, layout)
            for index, token, kind in scored_rows(layout):
                torch.testing.assert_close(streamed[token, kind], training[index], atol=1e-4, rtol=0)


# No peeking


def stream(model, encoder, words):
    """Every row that predicts: how much had been read, which it was, its logits."""
    seen = []
    session = open_greedy(model, encoder, max_target_tokens=60)
    session.trace = lambda *row: seen.append((session.num_read, *row))
    drive(session, words)
    return seen


@every_block
@pytest.mark.parametrize("alibi", [False, True])
def test_what_is_written_before_a_read_does_not_depend_on_later_words(model_of, with_ends, name, alibi):
    model = model_of("falcon" if alibi else family_of(BLOCKS[name]), VOCAB, 0)
    encoder = encoder_of(with_ends, **BLOCKS[name])
    everything = stream(model, encoder, WORDS)
    for changed in (1, 4, 6):
        other = stream(model, encoder, [*WORDS[:changed], "house", "zebra"])
        one, two = ([row for row in rows if row[0] <= changed] for rows in (everything, other))
        assert len(one) == len(two) > 0
        for (*one_row, one_logits), (*two_row, two_logits) in zip(one, two, strict=True):
            assert one_row == two_row
            assert torch.equal(one_logits, two_logits)


# What is fed


@every_layout
@given(st.data(), words, plans, st.booleans())
@hypothesis_settings(max_examples=40)
def test_the_cache_ends_as_the_training_sequence(model_of, with_ends, layout, data, letters, plan, ahead):
    """Without look-ahead rows, and without what ends the sentence; at a cost that is bounded."""
    num_target, ((*g, _), num_source) = plan
    block = data.draw(drawn_blocks(layout))
    encoder, model = encoder_of(with_ends, **block), model_of("llama", VOCAB, 0)
    layout = encoder.settings.config.layout
    if block.get("rows") == "own_unit":
        g[-1] = num_source  # the end of sentence, predicted before, leaves source that comes for it alone unfed
    row = row_of(letters, num_target, ((*g, num_source), num_source))
    unit_by_unit = not (layout.in_chunks or layout.splits)
    if ahead and not unit_by_unit:
        row = replace(row, schedule=(num_source,) * (num_target + 1))  # all in one chunk
    session, laid_out, _ = open_forced(model, encoder, row)
    drive(session, row.source.split(), ahead=ahead)
    expected, kept = laid_out.input_ids[~is_look_ahead(laid_out)].tolist(), session.lane.kept_ids()
    assert kept == expected[: len(kept)]
    assert set(expected[len(kept) :]) <= ends_of(encoder)
    if unit_by_unit:
        check_cost_of_units(session, laid_out, num_target, ahead=ahead, waits=block.get("rows") != "own_unit")
    elif layout.in_chunks:
        assert session.counters.fed_tokens == session.lane.num_keys == len(session.lane.fed_ids) == len(kept)


def check_cost_of_units(session, laid_out, num_target, *, ahead, waits):
    """Every token is fed once, and one row per unit again; at most two calls a token, one if the source is there.

    The end of sentence counts as a token, and what opens a segment of slots is a call of its own.
    """
    again = session.counters.fed_tokens - len(session.lane.kept_ids())
    num_written = len(session.target_ids) + 1
    num_segments = (laid_out.token == -1).sum() // max(1, len(laid_out.example.next_header))
    assert 0 <= again <= num_target + ahead * num_written  # a pair is fed before its unit has ended
    assert session.counters.calls <= (1 + (waits and not ahead)) * num_written + num_segments


@every_block
@pytest.mark.parametrize("ahead", [False, True])
def test_the_counters_hold_what_was_fed(model_of, with_ends, name, ahead):
    model, encoder = model_of("llama", VOCAB, 1), encoder_of(with_ends, **BLOCKS[name])
    session = open_greedy(model, encoder, max_target_tokens=30)
    with Calls(model, with_ends) as calls:
        drive(session, WORDS, ahead=ahead)
    assert session.counters.calls == len(calls)
    assert session.counters.fed_tokens == sum(map(len, calls))
    assert session.counters.written_tokens == len(session.target_ids)


@pytest.mark.parametrize("name", [name for name, block in BLOCKS.items() if "prefix_pairs" not in block])
def test_nothing_in_the_cache_is_copied_or_recomputed(model_of, with_ends, name):
    """The buffers stay where they are, the entries of earlier calls keep their bits."""
    session = open_greedy(model_of("llama", VOCAB, 0), encoder_of(with_ends, **BLOCKS[name]), max_target_tokens=40)
    places, entries = set(), []
    for action, _ in steps(session, WORDS):
        layers = session.lane.cache.layers
        if action is Action.READ or not layers:
            continue
        places.add(tuple(buffer.data_ptr() for layer in layers for buffer in (layer.keys, layer.values)))
        entries.append([layer.keys[:, :, : layer.length].clone() for layer in layers])
    assert len(places) == 1
    for earlier, later in zip(entries, entries[1:], strict=False):
        for before, after in zip(earlier, later, strict=True):
            assert torch.equal(before, after[:, :, : before.shape[2]])


# What is written, and when it ends


@every_block
@pytest.mark.parametrize("ahead", [False, True])
def test_written_text_is_that_of_the_ids(model_of, with_ends, name, ahead):
    """Of words. Whatever the units are, a model may have more rows than its tokenizer has tokens."""
    for units in UNITS:
        block = BLOCKS[name] | {"target_units": units}
        if is_valid(block):
            model = model_of("llama", len(with_ends) + 84, 3)
            session = open_greedy(model, encoder_of(with_ends, **block), max_target_tokens=30)
            written = drive(session, WORDS, ahead=ahead)
            text = with_ends.decode(session.target_ids)
            assert units != "word" or "".join("".join(written).split()) == "".join(text.split())
            assert max(session.target_ids) < len(with_ends)


@every_block
def test_session_ends_when_it_has_written_enough(model_of, with_ends, name):
    encoder, model = encoder_of(with_ends, **BLOCKS[name]), model_of("llama", VOCAB, 5)
    ends = list(ends_of(encoder))

    def dislike(module, args, output):
        output.logits[..., ends] -= 99

    hook = model.register_forward_hook(dislike)
    for limit, ahead in product((1, 2, 7, 60), (False, True)):
        session = open_greedy(model, encoder, max_target_tokens=limit)
        drive(session, WORDS, ahead=ahead)
        assert session.finished
        assert session.truncated
        assert len(session.target_ids) == limit
    hook.remove()


@every_block
def test_a_session_that_is_finished_takes_and_writes_no_more(model_of, with_ends, name):
    session = open_greedy(model_of("llama", VOCAB, 0), encoder_of(with_ends, **BLOCKS[name]), max_target_tokens=9)
    session.read(" ")
    assert session.num_read == 0, "white space is no unit"
    assert session.action() is Action.READ
    drive(session, WORDS)
    session.finish_source()
    with pytest.raises(ValueError, match="The session is finished; start a new one per sentence"):
        session.write()
    with pytest.raises(ValueError, match="The source is finished, but 'b' was read; start a new session"):
        session.read("b")


@every_layout
def test_languages_of_the_session_reach_the_prompt(model_of, with_ends, layout):
    settings = settings_of(**block_of(layout))
    settings = replace(settings, prompt=replace(settings.prompt, before="{source_lang}-{target_lang}:"))
    encoder = ExampleEncoder(with_ends, settings)
    session = open_greedy(model_of("llama", VOCAB, 0), encoder, target_lang="Dutch", max_target_tokens=9)
    drive(session, ["the"])
    assert with_ends.decode(session.lane.fed_ids).startswith("English-Dutch: the")
