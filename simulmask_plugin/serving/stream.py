"""The websocket /stream: text in as it arrives, every READ and WRITE out; its messages are in docs/serving.md."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocketDisconnect

from simulmask_plugin.options import read
from simulmask_plugin.serving.conversation import Conversation, Refused, TooLong
from simulmask_plugin.serving.live import PRIVATE, Event
from simulmask_plugin.serving.messages import BadMessage, Messages
from simulmask_plugin.serving.service import Service
from simulmask_plugin.serving.wishes import Wish


@dataclass(frozen=True, slots=True)
class Read:
    """Source text that has arrived."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The source is complete."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The session is to end where it is."""


KINDS: Mapping[Any, type[Wish | Read | End | Cancel]] = {"start": Wish, "read": Read, "end": End, "cancel": Cancel}
"""What a client may send, by its type."""


async def stream(messages: Messages, service: Service) -> None:
    """Talk to one client: one session after the other.

    Raises:
        BadMessage: if it sends something else.
    """
    client = _Client(messages, service)
    try:
        async for message in messages:
            try:
                client.take(_parsed(message))
            except TooLong as error:
                await messages.send({"type": "error", "reason": str(error), "fatal": False, "session": client.drop()})
            except Refused as error:
                await messages.send({"type": "error", "reason": str(error), "fatal": False})
    finally:
        client.drop()


def described(fault: Exception) -> Event:
    """A fault that ends the connection."""
    return {"type": "error", "reason": str(fault), "fatal": True}


def _parsed(message: dict[str, Any]) -> Wish | Read | End | Cancel:
    kind = message.pop("type", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadMessage(f"type must be one of {', '.join(KINDS)}, got {kind!r}.")
    try:
        return read(KINDS[kind], message, f"{kind}: ")
    except ValueError as error:
        raise BadMessage(str(error)) from error


class _Client:
    """A client and its session, if one is open."""

    def __init__(self, messages: Messages, service: Service) -> None:
        self._messages, self._service = messages, service
        self._session: Conversation | None = None
        self._telling: asyncio.Task[None] | None = None

    def take(self, message: Wish | Read | End | Cancel) -> None:
        """Do what the client wants; what comes after a session that has ended by itself is no fault.

        Raises:
            Refused: if that cannot be.
        """
        session = self._session
        if isinstance(message, Wish):
            if session is not None and not session.is_over:
                raise Refused("A session is open; end or cancel it before another one starts.")
            self._session = self._service.open(message)
            self._telling = asyncio.create_task(self._tell(self._session))
        elif session is None:
            raise Refused("No session is open; start one.")
        elif isinstance(message, Cancel):
            self.drop()
            self._session = None
        elif not session.is_over:
            session.read(message.text) if isinstance(message, Read) else session.end()

    async def _tell(self, session: Conversation) -> None:
        with suppress(WebSocketDisconnect):
            async for event in session.events():
                if event["type"] == "error":
                    event |= {"fatal": False}
                if event["type"] not in PRIVATE:
                    await self._messages.send(event)

    def drop(self) -> str | None:
        """End the session where it is, if there is one, and return its id."""
        if self._session is None or self._telling is None:
            return None
        self._telling.cancel()
        self._session.cancel()
        return self._session.id
