"""The server's parts, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from simulmask_plugin.attention.families import family_of
from simulmask_plugin.serving.app import make_app
from simulmask_plugin.serving.engine import Engine
from simulmask_plugin.serving.guard import Guard
from simulmask_plugin.serving.model_info import ModelInfo
from simulmask_plugin.serving.service import Limits, Service
from simulmask_plugin.serving.wishes import Wishes
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.pool import Pool
from simulmask_plugin.streaming.translator import Translator


def make_service(
    name: str,
    translator: Translator,
    default: Decision,
    limits: Limits,
    *,
    lanes: int,
    max_keys: int | None = None,
    max_target_tokens: int = 512,
    threads: int | None = None,
) -> Service:
    """A model at work; its engine is to be closed.

    Args:
        name: of the model, for clients.
        translator: the model.
        default: what decides in a session whose client does not say it.
        limits: of the clients.
        lanes: sessions at once.
        max_keys: of a session, see `Pool`.
        max_target_tokens: after which a session ends.
        threads: of the CPU, for the model; None: as torch has it.

    Raises:
        ValueError: if the model cannot be streamed like this.
    """
    settings, wishes = translator.encoder.settings, Wishes(translator, default, max_target_tokens)
    info = ModelInfo(settings, wishes, limits).content(name, family_of(translator.model.config).name)
    engine = Engine(Pool(translator.model, lanes, max_keys), wishes, threads)
    return Service(engine, settings.config.source_units, info, limits)


def make_server(service: Service, names: Sequence[str] = ()) -> uvicorn.Server:
    """What serves it to clients that know it under these names, see `Guard`, on a socket that listens."""
    config = uvicorn.Config(
        Guard(make_app(service), frozenset(name.lower() for name in names), service.limits),
        http=partial(Http, patience=service.limits.idle),  # type: ignore[arg-type]
        ws="websockets-sansio",
        ws_max_size=service.limits.message_bytes,
        limit_concurrency=2 * service.limits.clients + 64,  # half-open ones among them, and those that want the page
        timeout_graceful_shutdown=2,
        log_level="warning",
        server_header=False,
    )
    return uvicorn.Server(config)


class Http(H11Protocol):
    """Ends connections on which no request arrives, which uvicorn would hold for ever.

    Args:
        patience: in seconds, from the connection or the last answer to the next whole head of a request.
        options: as uvicorn has them.
    """

    def __init__(self, *, patience: float, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next one."""
        self._wait()
        super().on_response_complete()  # which may begin with it

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to another protocol."""
        self._wait_no_more()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self._wait_no_more()

    def _wait(self) -> None:
        self._wait_no_more()
        self._deadline = self.loop.call_later(self._patience, self._end, self.cycle)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _end(self, last: object) -> None:
        if self.cycle is last:
            if last is None:
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
            self.transport.close()
