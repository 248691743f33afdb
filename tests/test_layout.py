"""One sequence with three integers per token; `~` marks a look-ahead row, `.` no label."""

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.prefix import Prefix
from simulmask_plugin.policies import ReadSchedule

COLUMNS = ("source_unit", "num_read", "labels", "num_hidden")
slot_lengths = st.integers(1, 9)


def lay_out(source, target, g, rows, look_ahead=None):
    pieces = reference.pieces_of(1, source, 1, target)
    layout = reference.package_rows(pieces, g, look_ahead, rows=rows, positions="modified_alibi")
    return reference.show(layout, *COLUMNS)


# Source units a | b c, target units p q | r.
WAIT_1 = {
    "look_ahead": """
        token        P  a  b  c  H  p q~  q  r  E
        source_unit -1  0  1  1 -1 -1  2 -1 -1 -1
        num_read     2  2  2  2  1  1  1  2  2  2
        labels       .  .  .  .  .  p  q  r  r  E
        num_hidden   0  0  0  0  2  2  2  0  0  0""",
    "query_unit": """
        token        P  a  b  c  H  p  q  r  E
        source_unit -1  0  1  1 -1 -1 -1 -1 -1
        num_read     2  2  2  2  1  2  2  2  2
        labels       .  .  .  .  .  p  q  r  E
        num_hidden   0  0  0  0  2  0  0  0  0""",
    "own_unit": """
        token        P  a  b  c  H  p  q  r  E
        source_unit -1  0  1  1 -1 -1 -1 -1 -1
        num_read     2  2  2  2  1  1  1  2  2
        labels       .  .  .  .  .  p  q  r  E
        num_hidden   0  0  0  0  2  2  2  0  0""",
    "next_unit": """
        token        P  a  b  c  H  p  q  r  E
        source_unit -1  0  1  1 -1 -1 -1 -1 -1
        num_read     2  2  2  2  1  1  2  2  2
        labels       .  .  .  .  .  p  q  r  E
        num_hidden   0  0  0  0  2  2  0  0  0""",
}
ALL_READ = """
        token        P  a  b  c  H  p  q  r  E
        source_unit -1  0  1  1 -1 -1 -1 -1 -1
        num_read     2  2  2  2  2  2  2  2  2
        labels       .  .  .  .  .  p  q  r  E
        num_hidden   0  0  0  0  0  0  0  0  0"""


@pytest.mark.parametrize("rows", CONVENTIONS)
def test_golden_wait_1(rows):
    assert lay_out([1, 2], [2, 1], (1, 2, 2), rows) == reference.shown(WAIT_1[rows])


@pytest.mark.parametrize("rows", CONVENTIONS)
def test_rows_are_all_the_same_once_everything_has_been_read(rows):
    """wait-2, read-2 and offline."""
    assert lay_out([1, 2], [2, 1], (2, 2, 2), rows) == reference.shown(ALL_READ)


GOLDEN_LOOK_AHEAD = {
    "wait-2": (
        (2, 3, 3, 3),
        """
        token        P  a  b  c  H p~  p  q  r  E
        source_unit -1  0  1  2 -1  3 -1 -1 -1 -1
        num_read     3  3  3  3  2  2  3  3  3  3
        labels       .  .  .  .  .  p  q  q  r  E
        num_hidden   0  0  0  0  1  1  0  0  0  0""",
    ),
    "read-2": (
        (2, 2, 3, 3),
        """
        token        P  a  b  c  H  p q~  q  r  E
        source_unit -1  0  1  2 -1 -1  3 -1 -1 -1
        num_read     3  3  3  3  2  2  2  3  3  3
        labels       .  .  .  .  .  p  q  r  r  E
        num_hidden   0  0  0  0  1  1  1  0  0  0""",
    ),
    "the end of sentence reads the rest": (
        (0, 1, 1, 3),
        """
        token        P  a  b  c  H p~  p  q r~  r  E
        source_unit -1  0  1  2 -1  3 -1 -1  3 -1 -1
        num_read     3  3  3  3  0  0  1  1  1  3  3
        labels       .  .  .  .  .  p  q  q  r  E  E
        num_hidden   0  0  0  0  3  3  2  2  2  0  0""",
    ),
    "the source is never read to its end": (
        (1, 1, 1, 2),
        """
        token        P  a  b  c  H  p  q r~  r  E
        source_unit -1  0  1  2 -1 -1 -1  3 -1 -1
        num_read     3  3  3  3  1  1  1  1  2  2
        labels       .  .  .  .  .  p  q  r  E  E
        num_hidden   0  0  0  0  2  2  2  2  1  1""",
    ),
}


@pytest.mark.parametrize("name", GOLDEN_LOOK_AHEAD)
def test_golden_look_ahead(name):
    g, expected = GOLDEN_LOOK_AHEAD[name]
    assert lay_out([1, 1, 1], [1, 1, 1], g, "look_ahead") == reference.shown(expected)


def test_only_the_chosen_units_get_a_look_ahead_row():
    layout = lay_out([1, 1, 1], [1, 1, 1], (1, 2, 3, 3), "look_ahead", [False, True, True])
    assert layout[0] == "token P a b c H p q~ q r E"


def test_without_chosen_units_look_ahead_is_next_unit():
    args = [1, 1, 1], [2, 1, 1], (1, 2, 3, 3)
    assert lay_out(*args, "look_ahead", [False] * 3) == lay_out(*args, "next_unit")


@pytest.mark.parametrize("name", ["prefix", "slots"])
@given(st.data(), st.sampled_from(sorted(CONVENTIONS)), slot_lengths)
def test_layout_equals_the_reference(name, data, rows, slot_length):
    pieces, g = data.draw(reference.scheduled_pieces(num_next_header=data.draw(st.integers(0, 3))))
    num_source, num_target = len(pieces.source), len(pieces.target)
    look_ahead = data.draw(st.none() | st.lists(st.booleans(), min_size=num_target, max_size=num_target))
    if name == "prefix":
        block = {"positions": "modified_alibi"}
        expected = reference.lay_out(pieces, g, rows, look_ahead)
    else:
        block = {"layout": "slots", "positions": "slots", "slot_length": slot_length}
        expected = reference.lay_out_slots(pieces, g, rows, slot_length, look_ahead)
    layout = reference.package_rows(pieces, g, look_ahead, rows=rows, **block)
    assert layout.input_ids.tolist() == [row.id for row in expected]
    assert layout.position.tolist() == [row.place for row in expected]
    assert layout.num_read.tolist() == [row.sees for row in expected]
    assert layout.source_unit.tolist() == [num_source if row.is_look_ahead else row.unit for row in expected]
    assert layout.labels.tolist() == reference.labels(expected)
    assert layout.parts == tuple(row.part for row in expected)
    in_example = layout.token != -1
    assert in_example.tolist() == [row.id not in pieces.next_header for row in expected]
    assert (layout.example.input_ids[layout.token] == layout.input_ids)[in_example].all()
    if name == "prefix":
        assert layout.num_hidden.tolist() == reference.num_hidden(expected)
        assert layout.after_source.tolist() == [row.part in ("header", "target") for row in expected]


def test_parts_that_do_not_add_up_are_our_own_mistake():
    example = reference.pieces_of(1, [1, 2], 1, [2]).example()
    with pytest.raises(AssertionError, match="8 tokens, but the parts hold 9"):
        type(example)(example.input_ids, 2, example.source_lengths, 1, example.target_lengths)


def test_schedule_of_another_example_is_our_own_mistake():
    example = reference.pieces_of(1, [1, 2], 1, [2]).example()
    with pytest.raises(AssertionError, match="ReadSchedule"):
        Prefix().lay_out(example, ReadSchedule((1, 2, 2), 2), CONVENTIONS["look_ahead"])
