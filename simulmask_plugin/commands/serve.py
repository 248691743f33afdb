"""``simulmask serve``: a trained model for many clients."""

from __future__ import annotations

from pathlib import Path

from simulmask_plugin.commands.arguments import ServeOptions
from simulmask_plugin.serving.server import make_server, make_service
from simulmask_plugin.serving.service import Limits
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.translator import load


def run_serve(options: ServeOptions) -> int:
    """Serve until the process is ended.

    Raises:
        ValueError: if the model cannot be streamed like this.
    """
    translator = load(
        options.model,
        options.adapter,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
    )
    name = Path(options.model).name
    service = make_service(
        name,
        translator,
        Decision.from_dict({"policy": options.policy, **options.keys}),
        Limits(clients=options.clients, words=options.words, message_bytes=options.message_bytes, idle=options.idle),
        lanes=options.lanes,
        max_keys=options.tokens,
        max_target_tokens=options.max_target_tokens,
        threads=options.threads,
    )
    print(f"{name} is served at http://{options.host}:{options.port}", flush=True)
    try:
        make_server(service, host=options.host, port=options.port, names=options.names).run()
    finally:
        service.engine.close()
    return 0
