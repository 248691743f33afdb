"""Languages that are written without spaces between words, told by name or code."""

import re

from simulmask_plugin.units import CHARACTER, WORD

CHINESE = frozenset({"chinese", "mandarin", "cantonese", "zh", "zho", "chi", "cmn", "yue"})
JAPANESE = frozenset({"japanese", "ja", "jpn"})


def is_chinese(language: str) -> bool:
    """Whether this names Chinese: Chinese, Simplified Chinese, zh, zh-CN, zho_Hans, ..."""
    return not CHINESE.isdisjoint(_parts(language))


def is_japanese(language: str) -> bool:
    """Whether this names Japanese: Japanese, ja, ja-JP, jpn_Jpan, ..."""
    return not JAPANESE.isdisjoint(_parts(language))


def unit_of(language: str) -> str:
    """Returns the unit that sentences of a language are counted in: words, or characters where no space parts words."""
    return CHARACTER if is_chinese(language) or is_japanese(language) else WORD


def _parts(language: str) -> list[str]:
    return re.findall(r"[^\W_]+", language.casefold())
