"""The layout `slots`; `~` marks a look-ahead row, `.` no label. N is the next header, a..d source, p..r target."""

from dataclasses import replace

import pytest
import reference
from driving import data_row, encoder_of, processed
from hypothesis import assume, given
from hypothesis import strategies as st

from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import from_feature, to_feature
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.slots import SlotPlanner, Slots
from simulmask_plugin.policies import ReadSchedule

slot_lengths = st.integers(1, 9)
DRAWN = ("position", "num_read", "labels")


def lay_out(source, target, g, slot_length):
    return laid_out(reference.pieces_of(1, source, 1, target, 1), g, slot_length)


def laid_out(pieces, g, slot_length, rows="look_ahead"):
    return reference.package_rows(pieces, g, rows=rows, slot_length=slot_length, **SLOTS)


SLOTS = {"layout": "slots", "positions": "slots"}


# Source and target units of given lengths, g, slot length.
GOLDEN = {
    "figure 2: c fills the reserved slot without moving p, d opens a slot right after the current output": (
        ([1, 1, 1, 1], [1, 1, 1], (2, 3, 4, 4), 3),
        """
        token     P  a  b  c  H p~  p  q  N  d  H  r  E
        position  0  1  2  3  4  5  5  6  7  8 11 12 13
        num_read  4  4  4  4  2  2  3  3  4  4  4  4  4
        labels    .  .  .  .  .  p  q  q  r  .  .  r  E""",
    ),
    "b is read in time for its slot, c d (one unit) is not; p q is one unit": (
        ([1, 1, 2], [2, 1], (1, 3, 3), 3),
        """
        token     P  a  b  H  p  q  N  c  d  H  r  E
        position  0  1  2  4  5  6  7  8  9 11 12 13
        num_read  3  3  3  1  1  1  3  3  3  3  3  3
        labels    .  .  .  .  p  q  r  .  .  .  r  E""",
    ),
    "a slot that overflows before anything is written has no header, nor has the one that follows it": (
        ([1, 2, 2], [1, 1], (3, 3, 3), 3),
        """
        token     P  a  b  c  d  e  H  p  q  E
        position  0  1  2  3  4  5  7  8  9 10
        num_read  3  3  3  3  3  3  3  3  3  3
        labels    .  .  .  .  .  .  .  p  q  E""",
    ),
    "a b c (one unit) is longer than a slot and gets two, whose rest d fills": (
        ([3, 1, 1], [1, 1], (1, 2, 3), 2),
        """
        token     P  a  b  c  d  H p~  p  q  N  e  H  E
        position  0  1  2  3  4  5  6  6  7  8  9 11 12
        num_read  3  3  3  3  3  1  1  2  2  3  3  3  3
        labels    .  .  .  .  .  .  p  q  q  E  .  .  E""",
    ),
    "a slot that is written behind before anything is read is reserved all the same": (
        ([1, 2], [1, 1], (0, 1, 2), 2),
        """
        token     P  a  H p~  p  q  N  b  c  H  E
        position  0  1  3  4  4  5  6  7  8  9 10
        num_read  2  2  0  0  1  1  2  2  2  2  2
        labels    .  .  .  p  q  q  E  .  .  .  E""",
    ),
    "source that is never read has no place": (
        ([1, 1], [1], (1, 1), 2),
        """
        token     P  a  H  p  E
        position  0  1  3  4  5
        num_read  2  2  1  1  1
        labels    .  .  .  p  E""",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    args, expected = GOLDEN[name]
    assert reference.show(lay_out(*args), *DRAWN) == reference.shown(expected)


GOLDEN_MASKS = {
    "figure 2": (
        ([1, 1, 1, 1], [1, 1, 1], (2, 3, 4, 4), 3),
        """
           P a b c H p p q N d H r E
        P  1 0 0 0 0 0 0 0 0 0 0 0 0
        a  1 1 0 0 0 0 0 0 0 0 0 0 0
        b  1 1 1 0 0 0 0 0 0 0 0 0 0
        c  1 1 1 1 0 0 0 0 0 0 0 0 0
        H  1 1 1 0 1 0 0 0 0 0 0 0 0
        p~ 1 1 1 0 1 1 0 0 0 0 0 0 0
        p  1 1 1 1 1 0 1 0 0 0 0 0 0
        q  1 1 1 1 1 0 1 1 0 0 0 0 0
        N  1 1 1 1 1 0 1 1 1 0 0 0 0
        d  1 1 1 1 1 0 1 1 1 1 0 0 0
        H  1 1 1 1 1 0 1 1 1 1 1 0 0
        r  1 1 1 1 1 0 1 1 1 1 1 1 0
        E  1 1 1 1 1 0 1 1 1 1 1 1 1""",
    ),
    "b is in the first slot, but read only together with c": (
        ([1, 1, 2], [1, 1], (1, 3, 3), 3),
        """
           P a b H p N c d H q E
        P  1 0 0 0 0 0 0 0 0 0 0
        a  1 1 0 0 0 0 0 0 0 0 0
        b  1 1 1 0 0 0 0 0 0 0 0
        H  1 1 0 1 0 0 0 0 0 0 0
        p  1 1 0 1 1 0 0 0 0 0 0
        N  1 1 1 1 1 1 0 0 0 0 0
        c  1 1 1 1 1 1 1 0 0 0 0
        d  1 1 1 1 1 1 1 1 0 0 0
        H  1 1 1 1 1 1 1 1 1 0 0
        q  1 1 1 1 1 1 1 1 1 1 0
        E  1 1 1 1 1 1 1 1 1 1 1""",
    ),
}


@pytest.mark.parametrize("name", GOLDEN_MASKS)
def test_golden_mask(name):
    args, expected = GOLDEN_MASKS[name]
    header, *lines = (line.split() for line in expected.strip().splitlines())
    layout = lay_out(*args)
    assert [reference.NAMES[i] for i in layout.input_ids] == header == [name.rstrip("~") for name, *_ in lines]
    assert reference.package_mask([layout])[0] == [[int(cell) for cell in cells] for _, *cells in lines]


@given(st.data(), reference.scheduled_pieces(num_next_header=1), st.sampled_from(sorted(CONVENTIONS)), slot_lengths)
def test_no_target_token_is_moved_by_source_that_is_read_later(data, drawn, rows, slot_length):
    """Any other source from unit g(t) on, and any other schedule after it."""
    pieces, g = drawn
    t = data.draw(st.integers(0, len(pieces.target) - 1))
    others = data.draw(st.lists(st.integers(1, 20), max_size=6))
    num_source = g[t] + len(others)
    assume(num_source)
    later = data.draw(st.lists(st.integers(g[t], num_source), min_size=len(g) - t - 1, max_size=len(g) - t - 1))
    other = replace(pieces, source=[*pieces.source[: g[t]], *([20] * length for length in others)])
    last = sum(map(len, pieces.target[: t + 1])) - 1  # token of unit t
    positions = []
    for changed, read in ((pieces, g), (other, (*g[: t + 1], *sorted(later)))):
        layout = laid_out(changed, read, slot_length, rows)
        index = layout.token - layout.example.source_end - layout.example.num_header
        positions.append(dict(zip(index.tolist(), layout.position.tolist(), strict=True)))
    assert [positions[0][i] for i in range(last + 1)] == [positions[1][i] for i in range(last + 1)]


@given(reference.scheduled_pieces(num_next_header=2), st.sampled_from(sorted(CONVENTIONS)), slot_lengths)
def test_positions_are_those_of_the_layout(drawn, rows, slot_length):
    pieces, g = drawn
    layout = laid_out(pieces, g, slot_length, rows)
    num_look_ahead = (layout.source_unit == len(pieces.source)).sum()
    schedule = ReadSchedule(g, len(pieces.source))
    longest = Slots(slot_length=slot_length).longest(layout.example, [schedule], CONVENTIONS["next_unit"])
    assert longest == layout.position[-1] + 1
    assert len(layout.token) - num_look_ahead <= layout.position[-1] + 1


def test_planner_places_units_and_output():
    planner = SlotPlanner(num_prompt=2, num_header=1, num_next_header=1, slot_length=3)
    assert planner.read(2) == (2, False)
    assert planner.header_start == 5
    assert planner.write() == 6  # behind the header at 5
    assert planner.fits(1)
    assert planner.read(1) == (4, False)  # fills the slot exactly
    assert not planner.fits(1)
    assert planner.write() == 7
    assert planner.read(4) == (9, True)  # the next header stands at 8; two slots' worth of positions, 9..14
    assert planner.header_start == 15
    assert planner.read(3) == (15, False)  # nothing has been written: right behind, without a next header
    assert planner.write() == 19


# From the data to the batch


def test_next_header_travels_to_the_batch():
    settings = reference.settings_of(policy="wait_k", k=1, slot_length=2, **SLOTS)
    feature = to_feature(reference.pieces_of(1, [1, 2], 1, [1, 1], 1).example(), None)
    assert from_feature(feature)[0].next_header == (350,)
    batch = SimulMaskCollator(settings, pad_token_id=9, pad_to_multiple_of=4)([feature])
    assert [reference.NAMES.get(i, "_") for i in batch["input_ids"][0].tolist()] == list("PaHpNbcHqE__")
    assert batch["position_ids"][0].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]
    assert not batch["num_hidden"].any()
    assert not batch["after_source"].any()


def test_examples_that_might_take_more_positions_than_cutoff_len_are_left_out(byte_level):
    """Counted with full slots and a segment for each: no schedule may exceed it."""
    encoder = encoder_of(byte_level, policy="schedule", layout="slots", slot_length=4, rows="own_unit")
    prompt, header, next_header = map(len, encoder.frame(None, None))
    most = prompt + 2 * (4 + header) + next_header + len(byte_level.encode(" abc abd")) + 1
    row = data_row("dog cat the abc dog", "abc abd", [1, 5])
    assert len(processed(encoder, row, cutoff_len=most)) == 1
    assert not processed(encoder, row, cutoff_len=most - 1)


@pytest.mark.parametrize(
    "source, g, slots",
    [
        ([1, 1, 1, 1], (2, 3, 4, 4), [(1, 4, 3), (9, 10, 3)]),  # the example of Slots.lay_out
        ([2, 2, 5, 1], (4, 4, 4, 4), [(1, 3, 3), (3, 5, 3), (5, 11, 6)]),  # nothing stands between them
        ([2, 2], (0, 1, 2, 2), [(1, 3, 3), (8, 10, 3)]),  # the first slot stands open before it has source
    ],
)
def test_slots_are_runs_of_source_in_reserved_positions(source, g, slots):
    """First token, end, positions."""
    assert Slots(slot_length=3).slots(lay_out(source, [1, 1, 1], g, 3)) == slots
