"""Policies that count units and look at nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simulmask_plugin.policies.base import Policy, Units


@dataclass(frozen=True, kw_only=True)
class WaitK(Policy):
    """Wanted units k + t - 1 (Ma et al., 2019, https://arxiv.org/abs/1810.08398, section 3)."""

    name = "wait_k"
    k: Units
    """Source units."""

    def wanted(self, t: int) -> float:
        """Units: k before the first target unit, one more before each that follows."""
        return self.k + t - 1


@dataclass(frozen=True, kw_only=True)
class ReadN(Policy):
    """Wanted units n * ceil(t / n): n units are read, then n are written, and so on."""

    name = "read_n"
    n: Units
    """Source units."""

    def wanted(self, t: int) -> float:
        """The next multiple of n."""
        return self.n * -(-t // self.n)


@dataclass(frozen=True, kw_only=True)
class Offline(Policy):
    """Wanted units: all of them, for every t."""

    name = "offline"

    def wanted(self, t: int) -> float:
        """All of them."""
        return math.inf
