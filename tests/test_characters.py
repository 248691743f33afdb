"""Characters of unspaced scripts and runs of others, and where one ends that is written token by token."""

import pytest

from simulmask_plugin.text.characters import A_RUN, AN_IDEOGRAPH, ends_character, kind_of, needs_space, split_characters


@pytest.mark.parametrize("before, after", [("用", "iPhone"), ("iPhone", "用"), ("我", "们"), ("5", "。"), ("วั", "ส")])
def test_two_scripts_part_themselves(before, after):
    assert not needs_space(before, after)
    assert split_characters(before + after) == [before, after]


@pytest.mark.parametrize("before, after", [("iPhone", "15"), ("한국어", "2개"), ("我", "\u0301x"), ("👩\u200d", "👧")])
def test_white_space_is_needed_where_nothing_else_parts_two_units(before, after):
    assert needs_space(before, after)
    assert split_characters(before + after) != [before, after]


@pytest.mark.parametrize(
    "unit, following, ends",
    [
        ("我", "们", True),
        ("我", "a", True),
        ("a", "b", False),
        ("a", " b", True),
        ("a", "我", True),
        (" ", "a", False),  # a space alone is no unit yet
        ("👩", "\u200d", False),
        ("👩\u200d", "👧", False),
        ("か", "\u3099", False),
        ("a", "\ufffd", False),
        ("我", "\ufffd", True),
    ],
)
def test_golden_ends(unit, following, ends):
    assert ends_character(unit.encode(), following.encode()) == ends


@pytest.mark.parametrize("whole, size", [("们", 1), ("们", 2), ("。", 1), ("の", 2), ("，", 2)])
def test_a_part_of_an_ideograph_ends_the_unit_before(whole, size):
    assert ends_character("我".encode(), whole.encode()[:size])
    assert ends_character(b"a", whole.encode()[:size])


@pytest.mark.parametrize("mark", ["\u200d", "\ufe0f", "\u0301", "\U0001f3fd", "\u0e31"])
def test_a_part_of_what_may_be_a_mark_does_not(mark):
    for size in range(1, len(mark.encode())):
        assert not ends_character("我".encode(), mark.encode()[:size])


def test_a_unit_does_not_end_inside_a_character():
    assert not ends_character("们".encode()[:2], "我".encode())


@pytest.mark.parametrize(
    "text, kind", [("a我", AN_IDEOGRAPH), ("我a", A_RUN), ("", A_RUN), ("วั", AN_IDEOGRAPH), ("3", A_RUN)]
)
def test_kind_is_that_of_the_last_unit(text, kind):
    assert kind_of(text) == kind
