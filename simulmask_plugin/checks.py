"""Checks of the numbers and names that users write. True and False, which Python takes for integers, are none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

NAME = re.compile(r"\w[\w.+-]*(?: [\w.+-]+)*")
"""Of what becomes a file or folder, and may stand in a list that commas part."""

MOST_UNITS = 10_000
"""Source units of a k, an n or a document: more than any sentence has."""
MOST_AT_ONCE = 1_024
"""Jobs, threads and hypotheses of a beam."""
MOST_TOKENS = 1_000_000
"""Of a slot, an offset or what a sentence may write: the longest context that any model has."""


def check_integer(what: str, value: object, *, least: int, most: int | None = None, unit: str = "") -> None:
    """Raise a ValueError unless value is an integer of at least ``least`` (and at most ``most``).

    Args:
        what: is to be checked: a key.
        value: its value.
        least: the smallest that makes sense.
        most: the largest; None: there is none.
        unit: says what it counts.
    """
    end = ""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        if most is None or value <= most:
            return
        end = f" and at most {most}"
    counted = f" ({unit})" if unit else ""
    raise ValueError(f"{what} must be an integer of at least {least}{end}{counted}, got {value!r}.")


def check_number(what: str, value: object, *, expected: str, holds: Callable[[float], bool]) -> None:
    """Raise a ValueError unless value is a finite number that ``holds``.

    Args:
        what: is to be checked: a key.
        value: its value.
        expected: what it must, e.g. "lie in 0..1".
        holds: whether it does.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise ValueError(f"{what} must {expected}, got {value!r}.")


def check_name(what: str, value: object) -> None:
    """Raise a ValueError unless value can be the name of a file or folder, and stays where it belongs."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(
            f"{what}: a name is made of letters, digits and single spaces, with . + _ and - inside, got {value!r}."
        )
