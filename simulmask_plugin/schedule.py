"""Read schedules: how many source units are read before each target unit is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """What a simultaneous policy decides at each step."""

    READ = "READ"
    WRITE = "WRITE"


@dataclass(frozen=True, slots=True)
class ReadSchedule:
    """Monotonic schedule g(t): source units read before target unit t is written.

    Attributes:
        num_read: g(1), ..., g(T), g(T + 1), stored 0-based; the last entry is for the end of sentence.
        num_source: S, the number of source units.

    Raises:
        ValueError: if g is empty, holds anything but integers, decreases or leaves 0..S.
    """

    num_read: tuple[int, ...]
    num_source: int

    def __post_init__(self) -> None:
        """Check the three conditions above."""
        if not self.num_read:
            raise ValueError("A schedule needs at least g(1), the units read before the end of sentence; got none.")
        for t, now in enumerate(self.num_read, start=1):
            if not isinstance(now, int) or isinstance(now, bool):
                raise ValueError(f"g must hold integers, got g({t})={now!r}.")
        for t, now in enumerate(self.num_read, start=1):
            if not 0 <= now <= self.num_source:
                raise ValueError(f"g must lie in 0..{self.num_source} (the source units), got g({t})={now}.")
            if t < len(self.num_read) and self.num_read[t] < now:
                raise ValueError(f"g must never decrease, got g({t})={now} > g({t + 1})={self.num_read[t]}.")

    @property
    def num_target(self) -> int:
        """T, the number of target units (the end of sentence is not one)."""
        return len(self.num_read) - 1

    @classmethod
    def from_column(cls, values: Sequence[int], num_source: int, num_target: int) -> ReadSchedule:
        """Check a schedule that a data column gives: T values, or T + 1 with the end of sentence.

        With T values the end of sentence is written once the whole source has been read.

        Raises:
            ValueError: if the length is neither T nor T + 1, or g is not a schedule.
        """
        if len(values) not in (num_target, num_target + 1):
            raise ValueError(
                f"The schedule has {len(values)} values; expected {num_target} (one per target unit) "
                f"or {num_target + 1} (with the end of sentence)."
            )
        full = tuple(values) if len(values) == num_target + 1 else (*values, num_source)
        return cls(full, num_source)


def parse_schedule(text: str) -> tuple[int, ...]:
    """Read g from a command line, e.g. "1,2,3".

    Raises:
        ValueError: if something in it is no integer.
    """
    try:
        return tuple(int(value) for value in text.split(","))
    except ValueError:
        raise ValueError(f'A schedule is a list of integers such as "1,2,3", got {text!r}.') from None
