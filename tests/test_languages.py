"""Which languages are written without spaces, by the names and codes that data sets give them."""

import pytest

from simulmask_plugin.languages import is_chinese, is_japanese, unit_of


@pytest.mark.parametrize("name", ["Chinese", "chinese", "zh", "zh-CN", "zho_Hans", "Chinese (Simplified)", "cmn"])
def test_chinese_is_known_by_name_and_code(name):
    assert (is_chinese(name), is_japanese(name), unit_of(name)) == (True, False, "character")


@pytest.mark.parametrize("name", ["Japanese", "ja", "ja_JP", "jpn_Jpan", "JA"])
def test_japanese_is_known_by_name_and_code(name):
    assert (is_chinese(name), is_japanese(name), unit_of(name)) == (False, True, "character")


@pytest.mark.parametrize("name", ["English", "de", "Javanese", "Korean", "jav", ""])
def test_other_languages_are_counted_in_words(name):
    assert unit_of(name) == "word"
