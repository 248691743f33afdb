"""Policies whose lag varies within a band."""

from __future__ import annotations

from dataclasses import dataclass

from simulmask_plugin.policies.base import Policy, Units


@dataclass(frozen=True, kw_only=True)
class Band(Policy):
    """Unit t is written with a lag of `least` to `most` source units: with wait-k, it is always k."""

    least: Units = 1
    """The smallest lag."""
    most: Units
    """The largest lag."""

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if self.least > self.most:
            raise ValueError(f"{self.name}: least is {self.least}, more than most, which is {self.most}.")

    def wanted(self, t: int) -> float:
        """With the smallest lag."""
        return self.least + t - 1
