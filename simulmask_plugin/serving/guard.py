"""Who may talk to the server, and how much at once: pages of other sites must not reach one on this machine."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from simulmask_plugin.serving.service import Limits

LOG = logging.getLogger(__name__)

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of all answers: the page asks no other host, and no other page shows it."""


@dataclass(frozen=True, slots=True)
class Guard:
    """An application of which no page of another site gets anything.

    A browser says with ``Origin`` which page asks, and with ``Host`` what it takes the server for. The two must be the
    same, and the host an address, localhost or one of the names: any other name somebody else may have pointed here.

    Args:
        app: what is guarded.
        names: of the server.
        limits: of a client.
    """

    app: ASGIApp
    names: frozenset[str]
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        fault, is_socket = self._fault(Headers(scope=scope)), scope["type"] == "websocket"
        if fault is not None:
            LOG.warning(fault)
            refusal = WebSocketClose() if is_socket else PlainTextResponse(fault, status_code=403)
            await refusal(scope, receive, send)
        elif is_socket:
            await self.app(scope, receive, send)
        else:
            try:
                await self.app(scope, self._limited(receive), self._timed(send))
            except TimeoutError:  # the client takes nothing; uvicorn closes what was not completed
                return

    def _fault(self, headers: Headers) -> str | None:
        """Why the client is not served; None: it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _name_in(host)
        if name not in self.names | {"localhost"} and not _is_address(name):
            return f"This server is not known as {host!r}; start it with --names {name or 'HOST'} if it should be."
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"A page of {origin!r} may not use this server."
        return None

    def _limited(self, receive: Receive) -> Receive:
        size, is_whole = 0, False

        async def limited() -> Message:
            nonlocal size, is_whole
            try:
                async with asyncio.timeout(None if is_whole else self.limits.idle):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"Nothing has arrived for {self.limits.idle:g} seconds.") from error
            size, is_whole = size + len(message.get("body", b"")), not message.get("more_body", False)
            if size > self.limits.message_bytes:
                raise HTTPException(413, f"A request has at most {self.limits.message_bytes} bytes.")
            return message

        return limited

    def _timed(self, send: Send) -> Send:
        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            async with asyncio.timeout(self.limits.idle):
                await send(message)

        return timed


def _name_in(host: str) -> str:
    """The name or the address of a ``Host``, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
