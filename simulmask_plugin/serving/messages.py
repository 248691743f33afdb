"""JSON messages on a websocket, and how its connection ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from simulmask_plugin.serving.conversation import Refused
from simulmask_plugin.serving.service import Service

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
"""Codes with which a websocket closes."""

GOODBYE = 5.0
"""Seconds that a client has to take the reason for which its connection ends."""


class BadMessage(ValueError):
    """A message that no client of the protocol sends; the connection ends."""


@dataclass(slots=True)
class Messages:
    """The messages of one client, until nothing has been sent or received for a while.

    Args:
        socket: accepted.
        idle: how long that may be, in seconds.
        limit: ends what works with the messages.
    """

    socket: WebSocket
    idle: float
    limit: asyncio.Timeout

    def _goes_on(self) -> None:
        """Put the limit off, though not for every message: each time leaves a timer behind for a while."""
        when, before = asyncio.get_running_loop().time() + self.idle, self.limit.when()
        if before is not None and when > before + self.idle / 8:
            self.limit.reschedule(when)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the client sends, until it goes.

        Raises:
            BadMessage: if it is no JSON object.
        """
        while (message := await self.socket.receive())["type"] == "websocket.receive":
            self._goes_on()
            try:
                value = json.loads(message.get("text") or "")
            except (ValueError, RecursionError) as error:
                raise BadMessage(f"Expected JSON as text: {error}.") from error
            if not isinstance(value, dict):
                raise BadMessage("Expected a JSON object.")
            yield value

    async def send(self, message: dict[str, Any]) -> None:
        """Send something.

        Raises:
            WebSocketDisconnect: if the client is gone.
        """
        await self.socket.send_text(json.dumps(message, ensure_ascii=False))
        self._goes_on()


Talk = Callable[[Messages, Service], Awaitable[None]]
"""Talks to one client until it goes."""


async def converse(
    socket: WebSocket, service: Service, talk: Talk, described: Callable[[Exception], dict[str, Any]]
) -> None:
    """Let a client talk, while there is room for it; a fault ends its connection, and it is told the reason.

    Args:
        socket: of the client.
        service: that it wants.
        talk: the protocol.
        described: a fault as the protocol says it.
    """
    await socket.accept()
    idle = service.limits.idle
    fault: Exception
    try:
        async with asyncio.timeout(idle) as limit:
            with service.client():
                await talk(Messages(socket, idle, limit), service)
        return
    except WebSocketDisconnect:
        return
    except TimeoutError:
        fault = BadMessage(f"Nothing has happened for {idle:g} seconds.")
    except (Refused, BadMessage) as error:
        fault = error
    with suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(GOODBYE):
            await socket.send_text(json.dumps(described(fault), ensure_ascii=False))
            await socket.close(TRY_AGAIN_LATER if isinstance(fault, Refused) else POLICY_VIOLATION)
