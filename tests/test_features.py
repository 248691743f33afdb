"""From a row of data to the tokens of an example, and the draws per example and epoch."""

import json
from collections import Counter
from dataclasses import fields
from math import ceil

import numpy as np
import pytest
from driving import data_row, encoder_of, processed
from hypothesis import given
from hypothesis import strategies as st
from reference import pieces_of, scheduled_pieces, settings_of

from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.batches.features import (
    FEATURE_COLUMNS,
    ExampleEncoder,
    Row,
    ScheduleSampler,
    from_feature,
    longest_layout,
    schedule_of,
    to_feature,
)
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import Example
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.prompts import Prompt

ROW = Row("the dog", "abc abcde xyz", "English", "German")


def test_golden_example(byte_level):
    example = encoder_of(byte_level, policy="offline").encode(ROW)
    assert byte_level.decode(example.input_ids) == "Tr: the dog\nAs: abc abcde xyz<eos>"
    assert example.num_prompt == len(byte_level.encode("Tr:"))
    assert example.num_header == len(byte_level.encode("\nAs:"))
    assert len(example.source_lengths) == 2
    assert len(example.target_lengths) == 3


@pytest.mark.parametrize(
    "before, header, text",
    [
        ("Tr:\n", "<pad>", "Tr:\nthe dog<pad> abc abcde xyz<eos>"),
        ("", "\n", "the dog\nabc abcde xyz<eos>"),
        ("{source_lang}:", " {target_lang}:", "English: the dog German: abc abcde xyz<eos>"),
    ],
)
def test_a_space_stands_before_the_first_unit_unless_white_space_does(byte_level, before, header, text):
    settings = ModelSettings(SimulMaskConfig.from_dict({"policy": "offline"}), Prompt(before, header))
    assert byte_level.decode(ExampleEncoder(byte_level, settings).encode(ROW).input_ids) == text


@pytest.mark.parametrize("row_lang, used", [("French", "French"), (None, "English")])
def test_languages_of_the_row_come_before_those_of_the_block(byte_level, row_lang, used):
    settings = ModelSettings(SimulMaskConfig.from_dict({"policy": "offline"}), Prompt("{source_lang}:", ":"))
    before, _, _ = ExampleEncoder(byte_level, settings).frame(row_lang, None)
    assert byte_level.decode(before) == f"{used}:"


@pytest.mark.parametrize("side, row", [("source", ("  ", "a")), ("target", ("a", "\n"))])
def test_empty_side_is_refused(byte_level, side, row):
    with pytest.raises(ValueError, match=f"The {side} is empty .*; remove the row or give it a text"):
        encoder_of(byte_level, policy="offline").encode(Row(*row, "English", "German"))


def test_tokenizer_without_end_of_sentence_is_refused(byte_level):
    class WithoutEnd:
        eos_token_id = None

    with pytest.raises(ValueError, match="no end-of-sentence token; set tokenizer.eos_token before training"):
        encoder_of(WithoutEnd(), policy="offline")


@pytest.mark.parametrize("column, full", [(None, ()), ([1, 2, 2], (1, 2, 2, 2)), ([1, 1, 1, 2], (1, 1, 1, 2))])
def test_features_round_trip(byte_level, column, full):
    example = encoder_of(byte_level, policy="schedule").encode(ROW)
    again, schedule = from_feature(to_feature(example, column))
    assert schedule == full
    for field in ("input_ids", "num_prompt", "source_lengths", "num_header", "target_lengths"):
        assert np.array_equal(getattr(again, field), getattr(example, field))


BLOCKS = {
    "wait-1": {"policy": "wait_k", "k": 1},
    "wait-9": {"policy": "wait_k", "k": 9},
    "several k": {"policy": "wait_k", "k": [9, 3, 1, 100]},
    "read-3": {"policy": "read_n", "n": 3},
    "offline": {"policy": "offline"},
    "schedule": {"policy": "schedule"},
    "a share of the look-ahead rows": {"policy": "wait_k", "k": 1, "look_ahead_rate": 0.5},
    "no look-ahead rows": {"policy": "wait_k", "k": 1, "rows": "own_unit"},
    "turns": {"policy": "wait_k", "k": 3, "layout": "turns"},
    "turns, offline": {"policy": "offline", "layout": "turns"},
    "interleaved": {"layout": "interleaved"},
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@given(scheduled_pieces(num_next_header=2, least=1))
def test_longest_layout_is_that_of_the_longest_schedule_drawn(block, scheduled):
    config, (pieces, g) = settings_of(**block).config, scheduled
    example, column = pieces.example(), g if config.has_schedule_column else None
    schedules = [schedule_of(example, column, config, i) for i in range(max(1, len(config.policies)))]
    # in chunks, what is never read has no place
    left_out = config.layout.name != "prefix" and example.source_lengths[schedules[-1].num_read[-1] :].sum()
    lengths = []
    for schedule in schedules:
        increases = np.flatnonzero(np.diff(schedule.num_read))
        flags = np.zeros(schedule.num_target, dtype=bool)
        flags[increases[: ceil(config.layout.look_ahead_share * len(increases))]] = True
        lengths.append(len(lay_out(config, example, schedule, flags).input_ids))
    assert longest_layout(config, to_feature(example, column)) == max(lengths) + left_out


@given(scheduled_pieces(num_next_header=2))
def test_a_sentence_that_is_read_at_once_takes_one_segment_of_slots(scheduled):
    config = settings_of(**BLOCKS["offline"], layout="slots", slot_length=3).config
    example = scheduled[0].example()
    layout = lay_out(config, example, schedule_of(example, None, config))
    assert longest_layout(config, to_feature(example, None)) == layout.position[-1] + 1


@pytest.mark.parametrize(
    "block, num_look_ahead", [("offline", 0), ("wait-9", 0), ("wait-1", 1), ("several k", 1), ("no look-ahead rows", 0)]
)
def test_no_sentence_of_exactly_cutoff_len_is_lost(byte_level, block, num_look_ahead):
    """Two source words, three target words: wait-1 has g = 1 2 2 2, that is one look-ahead row."""
    encoder = encoder_of(byte_level, **BLOCKS[block])
    row = data_row(ROW.source, ROW.target)
    most = len(encoder.encode(ROW).input_ids) + num_look_ahead
    assert len(processed(encoder, row, cutoff_len=most)) == 1
    assert not processed(encoder, row, cutoff_len=most - 1)


EXAMPLES = [pieces_of(1, [1, 2, 1, 1], 1, [1] * length).example() for length in range(4, 64)]


def drawn(seed=0, epoch=0, **block):
    sampler = ScheduleSampler(settings_of(**block), seed)
    return [sampler.draw(example, (), epoch) for example in EXAMPLES]


@pytest.mark.parametrize("layout", [{}, {"layout": "slots", "slot_length": 3}], ids=["prefix", "slots"])
def test_the_longest_that_is_drawn_is_the_longest_layout(layout):
    """Half of the look-ahead rows are drawn, in some epochs rounded up; cutoff_len counts slots as full."""
    block = {"policy": "wait_k", "k": 1, "look_ahead_rate": 0.5, **layout}
    config = settings_of(**block).config
    collator = SimulMaskCollator(settings_of(**block), pad_token_id=0)
    for number, example in enumerate(EXAMPLES[:8]):
        feature, lengths = to_feature(example, None), set()
        for epoch in range(20):
            collator.set_epoch(epoch)
            made = collator.lay_out(feature)
            lengths.add(len(made.input_ids) if not layout else made.position[-1] + 1 + (~made.is_kept).sum())
        assert max(lengths) == longest_layout(config, feature), number


def test_one_policy_draws_nothing():
    (schedule, look_ahead), *_ = drawn(policy="wait_k", k=2, look_ahead_rate=1)
    assert schedule == ReadSchedule((2, 3, 4, 4, 4), 4)
    assert look_ahead is None


def test_multi_path_draws_every_k_about_equally():
    schedules = [one for epoch in range(10) for one, _ in drawn(epoch=epoch, policy="wait_k", k="1-4")]
    counts = Counter(schedule.num_read[0] for schedule in schedules)
    assert counts.keys() == {1, 2, 3, 4}
    assert all(abs(count / len(schedules) - 1 / 4) < 0.06 for count in counts.values())


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_look_ahead_rate_is_the_share_of_units(rate):
    """Of those after which source is read, as exactly as whole units allow."""
    draws = [one for epoch in range(10) for one in drawn(epoch=epoch, policy="wait_k", k=1, look_ahead_rate=rate)]
    reads = [np.diff(schedule.num_read) > 0 for schedule, _ in draws]
    assert all(abs((flags & can).sum() - rate * can.sum()) < 1 for (_, flags), can in zip(draws, reads, strict=True))
    chosen, can = np.concatenate([flags for _, flags in draws]), np.concatenate(reads)
    assert abs(chosen[can].mean() - rate) < 0.02
    assert not chosen[~can].any()


def test_every_unit_is_as_likely_to_get_a_look_ahead_row():
    flags = [drawn(epoch=epoch, policy="wait_k", k=1, look_ahead_rate=0.5)[0][1] for epoch in range(400)]
    shares = np.mean(flags, axis=0)
    assert (abs(shares[:-1] - 0.5) < 0.1).all(), "the last unit reads nothing"


@pytest.mark.parametrize("rate", [0, 1])
def test_units_are_only_drawn_where_a_share_gets_a_look_ahead_row(rate):
    """Other settings without look-ahead rows allow no rate, see test_config.py."""
    assert all(flags is None for _, flags in drawn(policy="wait_k", k=1, look_ahead_rate=rate))


MULTI_PATH = {"policy": "wait_k", "k": "1-4", "look_ahead_rate": 0.5}


@given(st.integers(0, 2**32), st.integers(0, 1000))
def test_the_draw_of_k_does_not_depend_on_the_look_ahead_rate(seed, epoch):
    one, other = (
        ScheduleSampler(settings_of(**(MULTI_PATH | {"look_ahead_rate": rate})), seed).draw(EXAMPLES[0], (), epoch)[0]
        for rate in (0.5, 1)
    )
    assert one == other


def test_schedule_column_is_taken_as_it_is():
    sampler = ScheduleSampler(settings_of(policy="schedule", look_ahead_rate=1), 0)
    assert sampler.draw(EXAMPLES[0], (1, 1, 2, 4, 4), 0) == (ReadSchedule((1, 1, 2, 4, 4), 4), None)


def test_a_feature_has_the_fields_of_an_example_and_the_schedule(byte_level):
    feature = to_feature(encoder_of(byte_level, policy="schedule").encode(ROW), [1, 2, 2])
    assert feature.keys() == set(FEATURE_COLUMNS) == {field.name for field in fields(Example)} | {"schedule"}
    assert json.loads(json.dumps(feature)) == feature


def test_missing_schedule_column_is_refused():
    with pytest.raises(ValueError, match="policy: schedule needs the column `schedule` in every row"):
        drawn(policy="schedule")
