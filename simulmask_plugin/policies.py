"""Decision policies: how many source units are wanted before target unit t is written.

A policy is one function of t (1-based) and its own keyword parameters. Everything else (the schedule in
training, READ or WRITE while streaming) is derived from it below, so that the two cannot drift apart.
Adding a policy is one function and one entry of ``POLICIES``; see docs/add-a-policy.md.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from simulmask_plugin.options import MOST_UNITS, check_integer


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


Policy = Callable[[int], float]
"""Maps t = 1, 2, ... to the source units wanted before target unit t; never decreases; inf means all."""


def wait_k(t: int, *, k: int) -> float:
    """Wanted units k + t - 1 (Ma et al., 2019, https://arxiv.org/abs/1810.08398, section 3)."""
    return k + t - 1


def read_n(t: int, *, n: int) -> float:
    """Wanted units n * ceil(t / n): n units are read, then n are written, and so on."""
    return n * -(-t // n)


def offline(t: int) -> float:
    """Wanted units: all of them, for every t."""
    return math.inf


POLICIES: dict[str, Callable[..., float]] = {"wait_k": wait_k, "read_n": read_n, "offline": offline}
"""Their keyword-only parameters are those of the policy, in source units; positive integers."""

SCHEDULE = "schedule"
"""Name of the policy whose g(t) is a column of the training data; it cannot decide on unseen text."""


def parameters_of(name: str) -> tuple[str, ...]:
    """Return the names of a policy's parameters; none of a name that is not in ``POLICIES``."""
    if name not in POLICIES:
        return ()
    parameters = inspect.signature(POLICIES[name]).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def make_policy(name: str, **parameters: int) -> Policy:
    """Return the policy with its parameters bound.

    Raises:
        ValueError: if the name is unknown, or a parameter is missing, superfluous or not a positive integer.
    """
    if name not in POLICIES:
        raise ValueError(f"Unknown policy {name!r}; expected one of {', '.join(sorted(POLICIES))}.")
    expected = parameters_of(name)
    if set(parameters) != set(expected):
        raise ValueError(
            f"Policy {name} takes the parameters ({', '.join(expected) or 'none'}), "
            f"got ({', '.join(sorted(parameters)) or 'none'})."
        )
    for key, value in parameters.items():
        check_integer(f"{name}: {key}", value, least=1, most=MOST_UNITS, unit="source units")
    return partial(POLICIES[name], **parameters)


def roll_out(policy: Policy, num_source: int, num_target: int) -> ReadSchedule:
    """Return the schedule g(t) = min(policy(t), S) for t = 1..T + 1."""
    return ReadSchedule(tuple(int(min(policy(t), num_source)) for t in range(1, num_target + 2)), num_source)


def decide(policy: Policy, num_read: int, num_written: int, source_finished: bool) -> Action:
    """READ until the policy's wish for the next target unit is met or the source has ended, then WRITE."""
    wanted = policy(num_written + 1)
    return Action.READ if num_read < wanted and not source_finished else Action.WRITE
