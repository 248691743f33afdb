"""How text of a language is counted: the unit of latency and sacrebleu's tokenizer, by name, code or script.

====================================  =========  =========
language                              unit       tokenizer
====================================  =========  =========
Chinese, Cantonese                    character  zh
Japanese                              character  ja-mecab
Thai, Lao, Khmer, Burmese, Tibetan    character  char
Korean, which has spaces              word       ko-mecab
every other                           word       13a
====================================  =========  =========

The tokenizers of Chinese, Japanese and Korean are those that sacrebleu itself takes for them. For the scripts that have
spaces between phrases or syllables only, and no tokenizer of their own there, BLEU counts characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from simulmask_plugin.text.units import CHARACTER, WORD


@dataclass(frozen=True, slots=True)
class Counting:
    """How text of a language is counted."""

    unit: str
    """word, or character where no space parts words."""
    tokenizer: str
    """Of sacrebleu."""


SPACED = Counting(WORD, "13a")
CHINESE = Counting(CHARACTER, "zh")
JAPANESE = Counting(CHARACTER, "ja-mecab")
KOREAN = Counting(WORD, "ko-mecab")
UNSPACED = Counting(CHARACTER, "char")

NAMES = {
    **dict.fromkeys(("chinese", "mandarin", "cantonese", "hans", "hant", "hani"), CHINESE),
    **dict.fromkeys(("japanese", "jpan"), JAPANESE),
    **dict.fromkeys(("korean", "kore", "hang"), KOREAN),
    **dict.fromkeys(("thai", "lao", "laotian", "laoo", "khmer", "cambodian", "khmr"), UNSPACED),
    **dict.fromkeys(("burmese", "myanmar", "shan", "mymr", "tibetan", "dzongkha", "tibt"), UNSPACED),
}
"""English names, and codes of scripts (ISO 15924), anywhere in the name of a language: Simplified Chinese, zho_Hans."""

CODES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "hak", "gan", "lzh"), CHINESE),
    **dict.fromkeys(("ja", "jpn"), JAPANESE),
    **dict.fromkeys(("ko", "kor"), KOREAN),
    **dict.fromkeys(
        ("th", "tha", "lo", "km", "khm", "my", "mya", "bur", "shn", "bo", "bod", "tib", "dz", "dzo"), UNSPACED
    ),
}
"""Codes of languages (ISO 639), at the beginning only: en-MY is English, of Malaysia."""

ROMAN = "latn"
"""Code of the script of pinyin and the like, which have spaces."""

SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA", "HENTAIGANA"), JAPANESE),
    **dict.fromkeys(("CJK", "BOPOMOFO"), CHINESE),
    "HANGUL": KOREAN,
    **dict.fromkeys(("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI"), UNSPACED),
}
"""How the Unicode names of letters begin."""

KANA = 0.1
"""Share of kana among kana and Chinese characters from which a text is Japanese."""


def counting_of_name(language: str) -> Counting | None:
    """How a language is counted, by its English name or its code; None: not one of those that are told apart here."""
    parts = re.findall(r"[^\W_]+", language.casefold())
    if ROMAN in parts:
        return SPACED
    named = [NAMES[part] for part in parts if part in NAMES]
    return named[0] if named else CODES.get(parts[0]) if parts else None


def counting_of_text(text: str) -> Counting:
    """How a text is counted, by the script of most of its letters."""
    letters = Counter(SCRIPTS.get(re.split("[ -]", unicodedata.name(c, ""))[0], SPACED) for c in text if c.isalpha())
    if letters[JAPANESE] > KANA * (letters[JAPANESE] + letters[CHINESE]):
        letters[JAPANESE] += letters.pop(CHINESE, 0)
    return max(letters, key=letters.__getitem__, default=SPACED)


def unit_of(language: str) -> str:
    """Returns the unit that sentences of a language are counted in: words, or characters where no space parts words."""
    return (counting_of_name(language) or SPACED).unit
