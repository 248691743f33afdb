"""One sequence with three integers per token; `~` marks a look-ahead row, `.` no label."""

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.config.block import ROWS
from simulmask_plugin.layouts.base import IGNORE_INDEX
from simulmask_plugin.layouts.positions import Contiguous
from simulmask_plugin.layouts.prefix import prefix_layout
from simulmask_plugin.policies import ReadSchedule

# P = prompt, a..c = source, H = header, p..s = target, E = end of sentence
IDS = {10: "P", 20: "a", 21: "b", 22: "c", 300: "H", 400: "p", 401: "q", 402: "r", 403: "s", 2: "E"}


def lay_out(source, target, g, rows, look_ahead=None):
    pieces = reference.pieces_of(1, source, 1, target)
    return reference.package_rows(pieces, g, look_ahead, rows=rows, positions="modified_alibi")


def show(layout):
    """The integers of a layout as text, one column per token."""
    num_source = len(layout.example.source_lengths)
    names = [
        IDS[i] + ("~" if unit == num_source else "")
        for i, unit in zip(layout.input_ids, layout.source_unit, strict=True)
    ]
    labels = ["." if i == IGNORE_INDEX else IDS[i] for i in layout.labels]
    columns = {
        "token": names,
        "source_unit": layout.source_unit,
        "num_read": layout.num_read,
        "labels": labels,
        "num_hidden": layout.num_hidden,
    }
    return [" ".join(str(value) for value in [name, *values]) for name, values in columns.items()]


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


def lines(text):
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.mark.parametrize("rows", ROWS)
def test_golden_wait_1(rows):
    assert show(lay_out([1, 2], [2, 1], (1, 2, 2), rows)) == lines(WAIT_1[rows])


@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_all_the_same_once_everything_has_been_read(rows):
    """wait-2, read-2 and offline."""
    assert show(lay_out([1, 2], [2, 1], (2, 2, 2), rows)) == lines(ALL_READ)


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
    assert show(lay_out([1, 1, 1], [1, 1, 1], g, "look_ahead")) == lines(expected)


def test_only_the_chosen_units_get_a_look_ahead_row():
    layout = lay_out([1, 1, 1], [1, 1, 1], (1, 2, 3, 3), "look_ahead", [False, True, True])
    assert show(layout)[0] == "token P a b c H p q~ q r E"


def test_without_chosen_units_look_ahead_is_next_unit():
    args = [1, 1, 1], [2, 1, 1], (1, 2, 3, 3)
    assert show(lay_out(*args, "look_ahead", [False] * 3)) == show(lay_out(*args, "next_unit"))


@given(st.data(), reference.scheduled_pieces(), st.sampled_from(ROWS))
def test_layout_equals_the_reference(data, scheduled, rows):
    pieces, g = scheduled
    num_source, num_target = len(pieces.source), len(pieces.target)
    look_ahead = data.draw(st.none() | st.lists(st.booleans(), min_size=num_target, max_size=num_target))
    layout = reference.package_rows(pieces, g, look_ahead, rows=rows, positions="modified_alibi")
    expected = reference.lay_out(pieces, g, rows, look_ahead)
    assert layout.input_ids.tolist() == [row.id for row in expected]
    assert layout.token.tolist() == [row.place for row in expected]
    assert layout.num_read.tolist() == [row.sees for row in expected]
    assert layout.source_unit.tolist() == [num_source if row.is_look_ahead else row.unit for row in expected]
    assert layout.labels.tolist() == reference.labels(expected)
    assert layout.num_hidden.tolist() == reference.num_hidden(expected)
    assert layout.after_source.tolist() == [row.part in ("header", "target", "eos") for row in expected]


def test_parts_that_do_not_add_up_are_our_own_mistake():
    example = reference.pieces_of(1, [1, 2], 1, [2]).example()
    with pytest.raises(AssertionError, match="8 tokens, but the parts hold 9"):
        type(example)(example.input_ids, 2, example.source_lengths, 1, example.target_lengths)


def test_schedule_of_another_example_is_our_own_mistake():
    example = reference.pieces_of(1, [1, 2], 1, [2]).example()
    with pytest.raises(AssertionError, match="ReadSchedule"):
        prefix_layout(example, ReadSchedule((1, 2, 2), 2), rows="look_ahead", scheme=Contiguous())
