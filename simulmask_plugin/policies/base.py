"""What a policy is: how many source units are wanted before target unit t is written, and whether to write it then.

A policy is one dataclass whose fields are its parameters. Keys of the block, options of commands, keys of an
evaluation, names of runs and titles come from these fields; the schedule of training and READ or WRITE in streaming
come from `Policy.wanted`, so that the two cannot drift apart. Adding a policy: docs/add-a-policy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from simulmask_plugin.options import MOST_UNITS, Must, between, check_fields

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor


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


Units = Annotated[int, between(1, MOST_UNITS, "source units")]
"""A parameter that counts source units."""

Probability = Annotated[float, Must("lie between 0 and 1 (a probability)", lambda p: 0 < p < 1)]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a policy may look at before a unit is written.

    Attributes:
        logits: (tokens,) fp32, of the row that predicts the next target token, or whether the read ends.
        read_end: id of the end of read, where the model predicts one (interleaved).
        fewer: the same logits of a row that sees `Policy.fewer` source units less; None: no unit would be left, or the
            policy does not ask for them.
        attention: (units,) what the row pays to each source unit that was read, a mean over the heads that align.
        probe: of the model, gives the probability that one unit more would hardly change these logits; see `fewer`.
    """

    logits: Tensor
    read_end: int | None = None
    fewer: Tensor | None = None
    probe: Callable[[Tensor, Tensor | None], float] | None = None
    attention: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """The parameter of a policy that decides how long it waits: latency grows from the loosest to the strictest.

    Attributes:
        key: its name.
        loosest: a value with which hardly any unit waits; above 0.
        strictest: one with which hardly any unit does not.
        in_odds: whether it is a probability, whose odds are what matters near 0 and 1.
    """

    key: str
    loosest: float
    strictest: float
    in_odds: bool = False

    def at(self, share: float) -> float:
        """The value at a share of the way from loosest to strictest, on a logarithmic scale; it has six digits."""
        first, last = (value / (1 - value) if self.in_odds else value for value in (self.loosest, self.strictest))
        value = first * (last / first) ** share
        return float(f"{value / (1 + value) if self.in_odds else value:.6g}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to WRITE; a subclass names itself in ``POLICIES``, and its fields are its parameters.

    Attributes:
        name: as the key ``policy`` has it.
        from_data: whether g comes from the data in training.
        needs_column: whether every row has to bring its g; a row of other data comes whole where it has none.
        streams: whether it can decide on unseen text.
        trains: whether it can give the schedules of a training.
        draws: whether `make_schedule` draws; its schedules then differ from epoch to epoch.
        needs_probe: whether it asks the model's probe.
        needs_heads: whether it looks at the attention of the heads that align.
        needs_read_end: whether it looks at the end of read, which only some layouts predict.
        run_keys: parameters that only streaming has; the block has no such keys.
        in_label: whether a run is named after the policy, too, and not after its parameters alone.
        threshold: the parameter that `simulmask calibrate` finds for a latency; None: the policy has none.
        spelled: parameters whose values have their names before them in the name of a run.
        asks_model: whether `accepts` looks at the model; set for every subclass.
    """

    name: ClassVar[str]
    from_data: ClassVar[bool] = False
    needs_column: ClassVar[bool] = False
    streams: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    needs_probe: ClassVar[bool] = False
    needs_heads: ClassVar[bool] = False
    needs_read_end: ClassVar[bool] = False
    run_keys: ClassVar[tuple[str, ...]] = ()
    in_label: ClassVar[bool] = True
    threshold: ClassVar[Threshold | None] = None
    spelled: ClassVar[tuple[str, ...]] = ()
    asks_model: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Note whether the policy looks at the model."""
        cls.asks_model = cls.accepts is not Policy.accepts

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_fields(self, f"{self.name}: ")

    def wanted(self, t: int) -> float:
        """Source units wanted before target unit t = 1, 2, ... is written; never decreases; inf means all."""
        raise NotImplementedError

    def accepts(self, evidence: Evidence) -> bool:
        """Whether to WRITE now that the wanted units have been read; if not, one unit more is read."""
        return True

    def latest(self, t: int) -> float:
        """Source units after which target unit t is written whatever the model predicts; inf: never."""
        return math.inf

    @property
    def fewer(self) -> int:
        """How many source units less `Evidence.fewer` is to see; 0: it is not looked at."""
        return 0

    def make_schedule(self, num_source: int, num_target: int, random: Generator | None) -> ReadSchedule:
        """The schedule of a training example, g(t) = min(wanted(t), S).

        Args:
            num_source: S.
            num_target: T.
            random: for a policy that draws; None: of those that it may draw, the one that READs most often.
        """
        return roll_out(self, num_source, num_target)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(field.name for field in fields(cls))

    def values(self) -> dict[str, Any]:
        """The parameters that are set, by name."""
        return {key: value for key in self.parameters() if (value := getattr(self, key)) is not None}

    @classmethod
    def label(cls, values: Mapping[str, Any]) -> str:
        """Name of a run with these parameters, e.g. wait_k-3."""
        is_named = cls.in_label or not values
        parts = (f"{key}{value}" if key in cls.spelled else str(value) for key, value in values.items())
        return "-".join([*([cls.name] if is_named else []), *parts])

    @property
    def title(self) -> str:
        """The policy over a picture, e.g. "wait_k k=3"."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.values().items())])


@dataclass(frozen=True, kw_only=True)
class Following(Policy):
    """Follows a schedule that is known; it is what parity streams with."""

    name = "following"
    schedule: ReadSchedule

    def wanted(self, t: int) -> float:
        """g(t)."""
        return self.schedule.num_read[t - 1]


def roll_out(policy: Policy, num_source: int, num_target: int) -> ReadSchedule:
    """Return the schedule g(t) = min(policy.wanted(t), S) for t = 1..T + 1."""
    return ReadSchedule(tuple(int(min(policy.wanted(t), num_source)) for t in range(1, num_target + 2)), num_source)


def decide(wanted: float, num_read: int, source_finished: bool) -> Action:
    """READ until the wanted units have been read or the source has ended, then WRITE."""
    return Action.READ if num_read < wanted and not source_finished else Action.WRITE
