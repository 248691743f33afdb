"""How languages are counted, by the names and codes that data sets give them, and by the script of a text."""

import unicodedata

import pytest
from sacrebleu.metrics import BLEU

from simulmask_plugin.text.characters import split_characters
from simulmask_plugin.text.languages import (
    CHINESE,
    JAPANESE,
    KOREAN,
    SPACED,
    UNSPACED,
    counting_of_name,
    counting_of_text,
    unit_of,
)
from simulmask_plugin.text.units import CHARACTER

NAMES = {
    CHINESE: ["Chinese", "chinese", "zh", "zh-CN", "zho_Hans", "Chinese (Simplified)", "cmn", "yue_Hant", "Cantonese"],
    JAPANESE: ["Japanese", "ja", "ja_JP", "jpn_Jpan", "JA"],
    KOREAN: ["Korean", "ko", "ko-KR", "kor_Hang"],
    UNSPACED: ["Thai", "th", "th_TH", "tha_Thai", "Lao", "lo", "lao_Laoo", "Khmer", "km", "khm_Khmr", "Burmese", "my"]
    + ["mya_Mymr", "Tibetan", "bod_Tibt", "Dzongkha"],
    SPACED: ["zho_Latn", "Chinese (Latn)"],
}


@pytest.mark.parametrize(("counting", "name"), [(counting, name) for counting in NAMES for name in NAMES[counting]])
def test_language_is_known_by_name_and_code(counting, name):
    assert counting_of_name(name) == counting


@pytest.mark.parametrize(
    "name", ["English", "de", "Javanese", "jav", "en-MY", "es_BO", "fr-KM", "Thailand", "中文", "", "-"]
)
def test_other_languages_are_not_told_apart(name):
    """A code is one at the beginning alone: en-MY is English of Malaysia, and no Burmese."""
    assert counting_of_name(name) is None
    assert unit_of(name) == "word"


@pytest.mark.parametrize(
    ("name", "unit"), [("Korean", "word"), ("Chinese", "character"), ("th", "character"), ("ja", "character")]
)
def test_languages_without_spaces_are_counted_in_characters(name, unit):
    assert unit_of(name) == unit


TEXTS = {
    "我们在 Berlin 的中国人很多。": CHINESE,
    "彼は東京大学の学生です。": JAPANESE,
    "ソフトウェア開発": JAPANESE,
    "나는 학교에 갑니다 (KTX).": KOREAN,
    "ฉันไปโรงเรียนทุกวัน": UNSPACED,
    "ខ្ញុំទៅសាលារៀន": UNSPACED,
    "ຂ້ອຍໄປໂຮງຮຽນ": UNSPACED,
    "ကျွန်တော်ကျောင်းသွားတယ်": UNSPACED,
    "བོད་སྐད": UNSPACED,
    "Ein Satz über 北京.": SPACED,
    "यह एक वाक्य है": SPACED,
    "12 %": SPACED,
    "": SPACED,
}


@pytest.mark.parametrize(("text", "counting"), TEXTS.items())
def test_script_of_most_letters_decides(text, counting):
    assert counting_of_text(text) == counting


def test_scripts_without_spaces_are_those_that_units_of_characters_are_cut_in():
    """But for the halves, and other forms of marks, of which no text is made."""
    letters = [chr(code) for code in range(0x10000) if chr(code).isalpha()]
    counted = {letter for letter in letters if counting_of_text(letter).unit == CHARACTER}
    cut = {letter for letter in letters if len(split_characters(f"{letter}b")) == 2}
    assert not counted - cut
    assert {unicodedata.name(letter).split()[0] for letter in cut - counted} <= {
        *("FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC", "VERTICAL", "MASU")
    }


RIGHT_AND_OTHER = {
    CHINESE: ("我们去了中国的学校", "我们去了美国的学校"),
    KOREAN: ("나는 학교에 갑니다", "나는 집에 갑니다"),
    UNSPACED: ("ฉันไปโรงเรียนทุกวัน", "ฉันไปตลาดทุกวัน"),
}


@pytest.mark.parametrize(("counting", "sentences"), RIGHT_AND_OTHER.items(), ids=[c.tokenizer for c in RIGHT_AND_OTHER])
def test_one_wrong_word_is_not_a_wrong_sentence(counting, sentences):
    """As it is for 13a, which takes the sentence for one word, or a Korean word with its particles."""
    right, other = sentences
    found, of_words = (
        BLEU(tokenize=tokenizer, max_ngram_order=2).sentence_score(other, [right]).precisions[0]
        for tokenizer in (counting.tokenizer, "13a")
    )
    assert found > of_words + 10
