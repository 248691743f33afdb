"""Read schedules g(t) and the actions that they stand for."""

import pytest
from hypothesis import given
from reference import actions, schedules

from simulmask_plugin.policies import Action, ReadSchedule, parse_schedule

R, W = Action.READ, Action.WRITE


@pytest.mark.parametrize(
    "num_read, num_source, expected",
    [
        ((1, 2, 3, 3), 3, [R, W, R, W, R, W, W]),  # wait-1
        ((2, 3, 3), 3, [R, R, W, R, W, W]),  # wait-2
        ((2, 2, 4, 4, 5), 5, [R, R, W, W, R, R, W, W, R, W]),  # read-2
        ((3, 3), 3, [R, R, R, W, W]),  # offline
        ((0, 1), 1, [W, R, W]),
        ((1, 1), 3, [R, W, W]),  # the source is never read to its end
    ],
)
def test_golden_actions(num_read, num_source, expected):
    """Of the reference that policies are compared with, too."""
    assert ReadSchedule(num_read, num_source).num_target == len(num_read) - 1 == expected.count(W) - 1
    assert actions(num_read) == expected


@given(schedules())
def test_actions_hold_one_read_per_unit_and_one_write_per_unit_and_end(values):
    schedule = ReadSchedule(*values)
    taken = actions(schedule.num_read)
    assert taken.count(R) == schedule.num_read[-1]
    assert taken.count(W) == schedule.num_target + 1
    assert taken[-1] is W


@pytest.mark.parametrize(
    "num_read, message",
    [
        ((), r"needs at least g\(1\).*got none"),
        ((1, 4), r"g must lie in 0\.\.3 \(the source units\), got g\(2\)=4"),
        ((-1, 2), r"g must lie in 0\.\.3 \(the source units\), got g\(1\)=-1"),
        ((1, 3, 2, 3), r"g must never decrease, got g\(2\)=3 > g\(3\)=2"),
        ((1.0, 2.5), r"g must hold integers, got g\(1\)=1\.0"),
        (("1", "2"), r"g must hold integers, got g\(1\)='1'"),
        ((1, None), r"g must hold integers, got g\(2\)=None"),
    ],
)
def test_what_is_no_schedule_is_refused(num_read, message):
    with pytest.raises(ValueError, match=message):
        ReadSchedule(num_read, 3)


def test_column_without_end_of_sentence_ends_after_the_whole_source():
    assert ReadSchedule.from_column([1, 2], 5, 2) == ReadSchedule((1, 2, 5), 5)


def test_column_with_end_of_sentence_is_taken_as_it_is():
    assert ReadSchedule.from_column([1, 2, 4], 5, 2) == ReadSchedule((1, 2, 4), 5)


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3, 4]])
def test_column_of_another_length_is_refused(values):
    with pytest.raises(ValueError, match=rf"has {len(values)} values; expected 2 \(one .*\) or 3 \(with the end"):
        ReadSchedule.from_column(values, 5, 2)


def test_schedule_of_a_command_line_is_a_list_of_integers():
    assert parse_schedule("1,2, 3") == (1, 2, 3)
    with pytest.raises(ValueError, match="A schedule is a list of integers such as \"1,2,3\", got '1,x'"):
        parse_schedule("1,x")
