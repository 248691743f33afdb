"""A real server on a free port of this machine, in a thread, and clients of it."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import httpx
from driving import encoder_of
from websockets.sync.client import connect

from simulmask_plugin.serving.server import make_server, make_service
from simulmask_plugin.serving.service import Limits, Service
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.translator import Translator

LIMITS = {"clients": 64, "words": 40, "message_bytes": 4096, "idle": 60.0}
MAX_TARGET_TOKENS = 16


@dataclass
class Served:
    """Where a model is served."""

    service: Service
    translator: Translator
    port: int

    def url(self, path, scheme="http"):
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def connect(self, path="/stream", **options):
        return connect(self.url(path, "ws"), **options)

    def post(self, text, decision=None, **options):
        body = {"text": text} | ({} if decision is None else {"decision": decision})
        return httpx.post(self.url("/translate"), json=body, **options)


def translator_of(model_of, tokenizer, family="llama", seed=0, **block) -> Translator:
    return Translator(model_of(family, len(tokenizer), seed), encoder_of(tokenizer, **block))


@contextmanager
def serving(
    translator, *, lanes=4, max_keys=None, decision=None, port=0, max_target_tokens=MAX_TARGET_TOKENS, **limits
) -> Iterator[Served]:
    service = make_service(
        "tiny",
        translator,
        Decision.from_dict(decision or {}),
        Limits(**LIMITS | limits),
        lanes=lanes,
        max_keys=max_keys,
        max_target_tokens=max_target_tokens,
        threads=1,
    )
    listening = socket.create_server(("127.0.0.1", port))
    port = listening.getsockname()[1]
    server = make_server(service)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield Served(service, translator, port)
    finally:
        server.should_exit = True
        thread.join()
        service.engine.close()


def server_sent(answer):
    """The events of a stream, as those of a socket."""
    blocks = [block.split("\n", 1) for block in answer.text.rstrip("\n").split("\n\n")]
    return [{"type": kind.removeprefix("event: "), **json.loads(data.removeprefix("data: "))} for kind, data in blocks]


def send(client, kind, **fields):
    client.send(json.dumps({"type": kind, **fields}))


def receive(client, timeout=20):
    return json.loads(client.recv(timeout=timeout))


def events_of(client):
    """The events of a session, up to its last one."""
    events = []
    while not events or events[-1]["type"] not in ("finished", "error"):
        events.append(receive(client))
    return events


def streamed(client, text, decision=None):
    """The events of a whole session, whose source arrives at once."""
    send(client, "start", **({} if decision is None else {"decision": decision}))
    send(client, "read", text=text)
    send(client, "end")
    return events_of(client)
