"""Units of scripts without spaces between words, and where a unit ends that is written token by token."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from simulmask_plugin.text.pieces import whole_characters

UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\u3000-\u303F\u3099-\u309C\u30FB\u30FC\uFE30-\uFE4F\uFF00-\uFFEF"
)
"""Characters of these scripts and of their punctuation, as the inside of a regular expression's class."""

if TYPE_CHECKING:
    import regex

_BEGIN_CHARACTERS = (*(bytes([lead]) for lead in range(0xE3, 0xEA)), b"\xef\xbc", b"\xef\xbd")
"""First bytes of UTF-8 that suffice: kana, ideographs and their punctuation. Others may become a mark or a letter."""

AN_IDEOGRAPH, A_RUN = "\u6211", "a"
"""A unit of each kind. What may follow a unit depends only on its kind."""


_UNIT = rf"(?=[{UNSPACED}])\X|(?:(?=[^{UNSPACED}\s])\X)+"


@cache
def _compiled(pattern: str) -> regex.Pattern[str]:
    import regex  # here, since few texts are in characters, and the command line starts faster without it

    return regex.compile(pattern)


def split_characters(word: str) -> list[str]:
    """Cut text without white space into characters of unspaced scripts and whole runs of all others.

    A character keeps its combining marks, an emoji everything joined to it.
    """
    return _compiled(_UNIT).findall(word)


def needs_space(before: str, after: str) -> bool:
    """Whether these units need a space between them to be cut there, like "iPhone" and "15"."""
    return all(match.start() != len(before) for match in _compiled(_UNIT).finditer(before + after))


def kind_of(text: str) -> str:
    """AN_IDEOGRAPH or A_RUN, by the last unit of the text."""
    units = split_characters(text)
    return AN_IDEOGRAPH if units and _compiled(f"[{UNSPACED}]").match(units[-1]) else A_RUN


def ends_character(unit: bytes, following: bytes) -> bool:
    """Whether a unit is complete, given the bytes of the next token, which may be a part of a character."""
    before, missing = whole_characters(unit)
    if missing or not before.strip():
        return False
    after, part = whole_characters(following)
    if not after:
        return part.startswith(_BEGIN_CHARACTERS)
    return after[0].isspace() or not needs_space(before.lstrip(), after)
