"""Random schedules for training: parity then holds for whatever a policy does while streaming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from simulmask_plugin.options import Must
from simulmask_plugin.policies.band import Band
from simulmask_plugin.policies.base import ReadSchedule, Units, roll_out

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, kw_only=True)
class RandomWalk(Band):
    """g(t) = t - 1 + lag(t): a lag drawn for every example and epoch, and a walk around it from unit to unit.

    Multi-path training (Elbayad et al., 2020, https://arxiv.org/abs/2005.08595) draws one lag for a whole sentence.
    What a policy does that looks at the model is no wait-k: it waits here and catches up there.
    """

    name = "random"
    streams = False
    draws = True
    most: Units = 12
    """The largest lag."""
    wander: Annotated[float, Must("be at least 0 (source units)", lambda value: value >= 0)] = 1.0
    """Standard deviation of the change of the lag from a target unit to the next, in source units; 0: multi-path."""

    def make_schedule(self, num_source: int, num_target: int, random: Generator | None) -> ReadSchedule:
        """One walk; it is reflected by no bound, but stays there until it turns."""
        if random is None:
            return roll_out(self, num_source, num_target)
        lag, read = float(random.integers(self.least, self.most + 1)), 0
        schedule = []
        for t, change in enumerate(random.normal(0, self.wander, num_target + 1)):
            lag = min(max(lag + change * (t > 0), self.least), self.most)
            read = max(read, min(t + round(lag), num_source))
            schedule.append(read)
        return ReadSchedule(tuple(schedule), num_source)
