"""One session as the event loop sees it: text goes in, events come out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from simulmask_plugin.serving.engine import Engine
from simulmask_plugin.serving.live import Event, Source
from simulmask_plugin.serving.wishes import Wish
from simulmask_plugin.text.units import Arriving

LONGEST_UNIT = 1000
"""Characters of a word."""

LAST = ("finished", "error")
"""Types of the last event of a session."""


class Refused(ValueError):
    """What a client has sent is not taken; the message says why."""


class TooLong(Refused):
    """The source of a session has become too long, and the session has ended."""


class Conversation:
    """A session of one client.

    Args:
        engine: that streams it.
        wish: of the client.
        unit: of the source.
        max_units: that it may have.

    Attributes:
        id: the client's, or one that says nothing about other sessions.
        is_over: whether its last event was taken.
    """

    def __init__(self, engine: Engine, wish: Wish, unit: str, max_units: int) -> None:
        self.id, self.is_over = wish.session or secrets.token_hex(8), False
        self._engine, self._max_units = engine, max_units
        self._arriving, self._num_units, self._num_updates, self._is_complete = Arriving(unit), 0, 0, False
        self._source, self._events = Source(), asyncio.Queue[Event]()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody listens any more
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._number = engine.open(wish, self._source, tell)

    def read(self, text: str) -> None:
        """Take more source; a word that it ends with goes on until white space follows.

        Raises:
            Refused: if the source was complete.
            TooLong: if it gets too long.
        """
        self._check_open()
        self._put(self._arriving.add(text))

    def end(self) -> None:
        """The source is complete.

        Raises:
            Refused: if it was already.
            TooLong: if it gets too long.
        """
        self._check_open()
        self._put(self._arriving.end(), is_complete=True)

    def _check_open(self) -> None:
        if self._is_complete:
            raise Refused("The source is complete; start another session for more.")

    def _put(self, units: Sequence[str], *, is_complete: bool = False) -> None:
        self._num_units += len(units)
        longest = max(self._arriving.num_begun, *map(len, units), 0)
        if self._num_units > self._max_units or longest > LONGEST_UNIT:
            self.cancel()
            self.is_over = True
            raise TooLong(f"At most {self._max_units} words of at most {LONGEST_UNIT} characters go into a session.")
        self._is_complete = is_complete
        if units or is_complete:
            self._engine.put(lambda: self._source.add(units, is_complete=is_complete))

    def revise(self, units: Sequence[str], *, is_complete: bool) -> None:
        """Take all of the source as it is by now, see `Source.revise`; the session may have ended."""
        self._num_updates += 1
        self._engine.put(lambda: self._source.revise(units, is_complete=is_complete))

    @property
    def num_revised(self) -> int:
        """Units that were read, and have been revised since."""
        return self._source.num_revised

    def cancel(self) -> None:
        """End it where it is."""
        self._engine.stop(self._number)

    async def settled(self) -> AsyncIterator[Event]:
        """Yield its events until it has read all that it was given by `revise`, or has ended."""
        async for event in self.events():
            yield event
            if event["type"] == "waits" and event["updates"] >= self._num_updates:
                return

    async def events(self) -> AsyncIterator[Event]:
        """Yield its events as they happen, up to the last one."""
        while not self.is_over:
            event = await self._events.get()
            self.is_over = event["type"] in LAST
            yield event | {"session": self.id}
