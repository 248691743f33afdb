"""Numbers that users write."""

import pytest

from simulmask_plugin.options import check_integer, check_name, check_number


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


def test_integer_beyond_the_end_is_refused():
    check_integer("k", 9, least=1, most=9)
    with pytest.raises(ValueError, match=r"^k must be an integer of at least 1 and at most 9 \(words\), got 10\.$"):
        check_integer("k", 10, least=1, most=9, unit="words")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=rf"^weight must be above 0, got {value}\.$"):
        check_number("weight", value, expected="be above 0", holds=lambda weight: not weight <= 0)


@pytest.mark.parametrize("name", ["a", "wmt22_zh-en", "Qwen 2.5", "模型", "k1+k2"])
def test_name_of_a_file_is_accepted(name):
    check_name("--name", name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a,b", ".", "-x", " a", "a ", "a\n", "a  b", "\u200b", None])
def test_name_that_would_leave_its_folder_or_split_a_list_is_refused(name):
    with pytest.raises(ValueError, match=r"^--name: a name is made of letters, digits and single spaces, with"):
        check_name("--name", name)
