"""The paths of the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from simulmask_plugin import __version__
from simulmask_plugin.serving import mt_server, stream
from simulmask_plugin.serving.conversation import Refused
from simulmask_plugin.serving.live import PRIVATE, Event
from simulmask_plugin.serving.messages import converse
from simulmask_plugin.serving.service import Full, Service
from simulmask_plugin.serving.wishes import Wish

STATIC = Path(__file__).with_name("static")


class Text(BaseModel):
    """A whole source, and what is wanted."""

    model_config = ConfigDict(extra="forbid")
    text: str
    decision: dict[str, Any] | None = Field(
        None,
        description="policy and its parameters, laal or latency, as in GET /model",
        examples=[{"policy": "wait_k", "k": 3}],
    )
    source_lang: str | None = Field(None, description="of a model trained on several language pairs")
    target_lang: str | None = None
    session: str | None = Field(None, description="name that the events are to have", min_length=1, max_length=64)


class ServerSentEvents(StreamingResponse):
    """The events of a session."""

    media_type = "text/event-stream"


class Reason(BaseModel):
    """Why nothing is translated."""

    reason: str


def make_app(service: Service) -> FastAPI:
    """The application; its description is at /openapi.json."""
    app = FastAPI(
        title="simulmask serve",
        version=__version__,
        description="Simultaneous translation; the websockets /stream and /mt are described in docs/serving.md.",
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/model")
    def model() -> dict[str, Any]:
        """What the model is, and what a client may choose."""
        return service.info

    @app.post("/translate", response_class=ServerSentEvents, responses={422: {"model": Reason}, 503: {"model": Reason}})
    async def translate(text: Text) -> Response:
        """Translate a text while it is read; the answer is a stream of events, each with JSON as its data.

        - **started**: `decision` in full
        - **read**: `unit` of the source, `g` units read by now, `ms` since the start
        - **write**: `text` to append, number of the target `unit`, `g`, `ms`, `probability`
        - **finished**: the whole `text`, `units`, `laal`, whether it was `truncated`, `ms`
        - **error**: the `reason` for which the session has ended

        All of them have the name of the `session`.

        A choice that the model cannot do and a text that is too long are refused with 422, a client for whom there is
        no room with 503.
        """
        events = told(service, text)
        try:
            first = await anext(events)
        except Refused as error:
            return JSONResponse({"reason": str(error)}, 503 if isinstance(error, Full) else 422)
        if first["type"] == "error":
            return JSONResponse({"reason": first["reason"]}, 422)
        return ServerSentEvents(as_lines(events))

    @app.websocket("/stream")
    async def stream_socket(socket: WebSocket) -> None:
        await converse(socket, service, stream.stream, stream.described)

    @app.websocket("/")
    @app.websocket("/mt")
    async def speech_socket(socket: WebSocket) -> None:
        await converse(socket, service, mt_server.translate_speech, mt_server.described)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def told(service: Service, text: Text) -> AsyncIterator[Event]:
    """The events of the session of a text; it ends with them.

    Raises:
        Refused: before the first one, if there is no room or the text is too long.
    """
    with service.client():
        session = service.open(Wish(text.decision, text.source_lang, text.target_lang, text.session))
        try:
            session.read(text.text)
            session.end()
            async for event in session.events():
                yield event
        finally:
            session.cancel()


async def as_lines(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """Events as a stream has them."""
    async for event in events:
        if event["type"] not in PRIVATE:
            yield f"event: {event.pop('type')}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
