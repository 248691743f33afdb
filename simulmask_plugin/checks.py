"""Checks of the numbers that users write. True and False, which Python counts among the integers, are none."""

from __future__ import annotations

from collections.abc import Callable


def check_integer(what: str, value: object, *, least: int, unit: str = "") -> None:
    """Raise a ValueError unless value is an integer of at least ``least``; ``unit`` says what it counts."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        counted = f" ({unit})" if unit else ""
        raise ValueError(f"{what} must be an integer of at least {least}{counted}, got {value!r}.")


def check_number(what: str, value: object, *, expected: str, holds: Callable[[float], bool]) -> None:
    """Raise a ValueError unless value is a number that ``holds``; ``expected`` is what it must, e.g. "lie in 0..1"."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not holds(value):
        raise ValueError(f"{what} must {expected}, got {value!r}.")
