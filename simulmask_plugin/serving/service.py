"""What all clients share: the engine, what they are told of the model, and what they may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from simulmask_plugin.serving.conversation import Conversation, Refused
from simulmask_plugin.serving.engine import Engine
from simulmask_plugin.serving.wishes import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may ask for.

    Attributes:
        clients: connections at once.
        words: of a session's source; characters, where the model counts those.
        message_bytes: of one message, or one request.
        idle: seconds after which a connection ends on which nothing happens.
    """

    clients: int
    words: int
    message_bytes: int
    idle: float


class Full(Refused):
    """There is no room for another client."""


@dataclass(slots=True)
class Service:
    """Opens sessions for clients, while there is room.

    Args:
        engine: that streams them.
        unit: of the model's source.
        info: what GET /model says.
        limits: of the clients.
    """

    engine: Engine
    unit: str
    info: dict[str, Any]
    limits: Limits
    _num_clients: int = field(default=0, init=False)

    @contextmanager
    def client(self) -> Iterator[None]:
        """While this is entered, there is one client more.

        Raises:
            Full: if there is no room.
        """
        if self._num_clients >= self.limits.clients:
            raise Full(f"The server has {self._num_clients} clients, as many as it takes; try again later.")
        self._num_clients += 1
        try:
            yield
        finally:
            self._num_clients -= 1

    def open(self, wish: Wish) -> Conversation:
        """Open a session."""
        return Conversation(self.engine, wish, self.unit, self.limits.words)
