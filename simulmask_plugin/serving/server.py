"""The server's parts, put together."""

from __future__ import annotations

import uvicorn

from simulmask_plugin.attention.families import family_of
from simulmask_plugin.serving.app import make_app
from simulmask_plugin.serving.engine import Engine
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


def make_server(service: Service, *, host: str, port: int) -> uvicorn.Server:
    """What serves it."""
    config = uvicorn.Config(
        make_app(service),
        host=host,
        port=port,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=service.limits.message_bytes,
        limit_concurrency=2 * service.limits.clients + 64,  # half-open ones among them, and those that want the page
        timeout_graceful_shutdown=2,
        log_level="warning",
        server_header=False,
    )
    return uvicorn.Server(config)
