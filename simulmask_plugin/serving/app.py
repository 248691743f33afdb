"""The paths of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from starlette.staticfiles import StaticFiles

from simulmask_plugin import __version__
from simulmask_plugin.serving.messages import converse
from simulmask_plugin.serving.service import Service
from simulmask_plugin.serving.stream import described, stream

STATIC = Path(__file__).with_name("static")


def make_app(service: Service) -> FastAPI:
    """The application; its description is at /openapi.json."""
    app = FastAPI(title="simulmask serve", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/model")
    def model() -> dict[str, Any]:
        """What the model is, and what a client may choose."""
        return service.info

    @app.websocket("/stream")
    async def stream_socket(socket: WebSocket) -> None:
        await converse(socket, service, stream, described)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app
