"""A session whose source arrives while it runs, and the events that its client is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.lane import LiveSteps
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.simulation import lagging
from simulmask_plugin.text.units import TOKEN

Event = dict[str, Any]
"""What a client is told, by its type; see docs/serving.md."""

PRIVATE = ("granted", "waits")
"""Types of events that it is not told: the session stands in line, and it has read all that has arrived."""

Tell = Callable[[Event], None]

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""Ends the text of tokens that end inside a character."""


@dataclass(slots=True)
class Source:
    """The source of a session, as far as it has arrived.

    Attributes:
        units: all of them; they may be revised until they are read.
        num_read: how many the session has read.
        is_complete: no more will arrive.
        num_updates: how often something has arrived.
        num_revised: units that were read and are others by now.
    """

    units: list[str] = field(default_factory=list)
    num_read: int = 0
    is_complete: bool = False
    num_updates: int = 0
    num_revised: int = 0

    def add(self, units: Sequence[str], *, is_complete: bool = False) -> None:
        """Take more of it."""
        self.units += units
        self.is_complete |= is_complete
        self.num_updates += 1

    def revise(self, units: Sequence[str], *, is_complete: bool = False) -> None:
        """Take all of it as it is by now; what was read stays as it was."""
        read = self.units[: self.num_read]
        self.num_revised = sum(old != new for old, new in zip_longest(read, units[: self.num_read]))
        self.units = read
        self.add(units[self.num_read :], is_complete=is_complete)

    @property
    def has_more(self) -> bool:
        """Whether there are units that were not read."""
        return self.num_read < len(self.units)

    def read(self) -> str:
        """The next unit."""
        self.num_read += 1
        return self.units[self.num_read - 1]


@dataclass(slots=True)
class Narrator:
    """Turns what a recorder hears of a session into events.

    Args:
        session: with a recorder.
        recorder: the same one.
        tell: takes an event.

    Attributes:
        text: of all units that were written.
        delays: g of each of them.
    """

    session: Session
    recorder: Recorder
    tell: Tell
    text: str = field(default="", init=False)
    delays: list[int] = field(default_factory=list, init=False)

    def go_on(self) -> None:
        """Tell what has happened since."""
        for step in self.recorder.steps:
            at = {"g": step["g"], "ms": _milliseconds(step["time"])}
            if step["action"] == Action.READ.name:
                self.tell({"type": "read", "unit": step["text"], **at})
                continue
            for text, (_, probability) in zip(self._pieces(step["units"]), step["units"], strict=True):
                self.delays.append(step["g"])
                unit = len(self.delays)
                self.tell({"type": "write", "text": text, "unit": unit, **at, "probability": probability})
        self.recorder.steps.clear()

    def _pieces(self, units: list[tuple[str, float]]) -> list[str]:
        """The text that each of these units adds to that of the session, with the space before it."""
        target = self.session.encoder.target
        text = target.text(self.session.target_ids)
        if target.unit == TOKEN and not self.session.finished:
            text = text.rstrip(UNFINISHED)
        added = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += added
        ends, end = [], 0
        for unit, _ in units[:-1]:
            end = max(end, added.find(unit, end) + len(unit))
            ends.append(end)
        starts = [0, *ends]
        return [added[start:end] for start, end in zip(starts, [*ends, len(added)], strict=True)]

    def end(self) -> None:
        """Tell that it is finished, and first what is left of a text that ends inside a character."""
        session, g = self.session, self.session.num_read
        (rest,) = self._pieces([("", 1.0)])
        ms = _milliseconds(self.recorder.clock())
        if rest:
            self.tell({"type": "write", "text": rest, "unit": len(self.delays), "g": g, "ms": ms, "probability": None})
        self.tell(
            {
                "type": "finished",
                "text": self.text,
                "units": len(self.delays),
                "laal": round(lagging(self.delays, g, len(self.delays)), 3) if self.delays and g else None,
                "truncated": session.truncated,
                "ms": ms,
            }
        )


def live(session: Session, source: Source, narrator: Narrator) -> LiveSteps[None]:
    """READ what has arrived, WRITE what the policy allows, and tell both, until the sentence ends.

    Source that arrives before the policy wants it waits, so that g does not depend on when it arrives.
    """
    while not session.finished:
        if (yield from session.deciding()) is Action.WRITE:
            yield from session.writing()
        elif source.has_more:
            session.read(source.read())
            if source.is_complete and not source.has_more:
                session.finish_source()
        elif source.is_complete:
            session.finish_source()
        else:
            seen = source.num_updates
            narrator.tell({"type": "waits", "updates": seen})
            while source.num_updates == seen:
                yield None
        narrator.go_on()
    narrator.end()


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
