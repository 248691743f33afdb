"""Numbers that users write."""

import pytest

from simulmask_plugin.checks import check_integer, check_number


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_what_is_no_integer_of_at_least_one_is_refused(value):
    with pytest.raises(ValueError, match=rf"^k must be an integer of at least 1 \(words\), got {value!r}\.$"):
        check_integer("k", value, least=1, unit="words")


def test_least_integer_is_accepted():
    check_integer("offset", 0, least=0)
    with pytest.raises(ValueError, match=r"^offset must be an integer of at least 0, got -1\.$"):
        check_integer("offset", -1, least=0)


@pytest.mark.parametrize("value", [1.5, -1, True, "0.5", None, float("nan")])
def test_what_is_no_number_of_the_kind_is_refused(value):
    with pytest.raises(ValueError, match=rf"^rate must lie in 0\.\.1, got {value!r}\.$"):
        check_number("rate", value, expected="lie in 0..1", holds=lambda rate: 0 <= rate <= 1)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_number_of_the_kind_is_accepted(value):
    check_number("rate", value, expected="lie in 0..1", holds=lambda rate: 0 <= rate <= 1)
