"""The READs and WRITEs of a session, each with g, its time, and the probability of what was written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulmask_plugin.policies import Action
from simulmask_plugin.text.units import UnitTokenizer


@dataclass(slots=True)
class Recorder:
    """What a session that has one tells it.

    Args:
        clock: seconds since the sentence began.

    Attributes:
        steps: as JSON, in their order: ``{"action": "READ", "text": "Haus", "g": 3, "time": 0.02}`` and ``{"action":
            "WRITE", "text": "a house", "g": 3, "time": 0.05, "units": [["a", 0.91], ["house", 0.87]]}``. g counts the
            source units that have been read, those of a READ among them; a unit has the product of the probabilities
            that the model gave to its tokens, each after all before it.
        tokens: since the last WRITE, each with its log-probability.
    """

    clock: Callable[[], float]
    steps: list[dict[str, Any]] = field(default_factory=list, init=False)
    tokens: list[tuple[int, float]] = field(default_factory=list, init=False)

    def read(self, text: str, num_read: int) -> None:
        """A READ has ended."""
        self._add(Action.READ, text, num_read)

    def write(self, target: UnitTokenizer, num_read: int) -> None:
        """A WRITE has ended; it is none without a token."""
        if not self.tokens:
            return
        left = iter(log_probability for _, log_probability in self.tokens)
        ids = [token for token, _ in self.tokens]
        units = [[target.text(unit), round(math.exp(sum(next(left) for _ in unit)), 6)] for unit in target.cut(ids)]
        self.tokens.clear()
        self._add(Action.WRITE, target.text(ids), num_read, units=units)

    def _add(self, action: Action, text: str, num_read: int, **more: Any) -> None:
        self.steps.append({"action": action.name, "text": text, "g": num_read, "time": round(self.clock(), 6), **more})
