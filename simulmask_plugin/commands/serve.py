"""``simulmask serve``: a trained model for many clients."""

from __future__ import annotations

from pathlib import Path
from socket import AF_INET, AF_INET6, create_server

from simulmask_plugin.commands.arguments import ServeOptions
from simulmask_plugin.options import MOST_AT_ONCE, MOST_TOKENS, check_integer
from simulmask_plugin.serving.server import make_server, make_service
from simulmask_plugin.serving.service import Limits
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.translator import load
from simulmask_plugin.training.machine import check_device

BOUNDS = {
    "port": 65535,
    "lanes": MOST_AT_ONCE,
    "threads": MOST_AT_ONCE,
    "clients": None,
    "words": None,
    "tokens": MOST_TOKENS,
    "message_bytes": None,
    "max_target_tokens": MOST_TOKENS,
}
"""The most that an option may be; None: there is none."""


def run_serve(options: ServeOptions) -> int:
    """Serve until the process is ended.

    Raises:
        ValueError: if the model cannot be streamed like this.
    """
    for key, most in BOUNDS.items():
        if (value := getattr(options, key)) is not None:
            check_integer(f"--{key.replace('_', '-')}", value, least=0 if key == "port" else 1, most=most)
    if not options.idle > 0:
        raise ValueError(f"--idle must be more than 0 seconds, got {options.idle:g}.")
    check_device(options.device)
    translator = load(
        options.model,
        options.adapter,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
    )
    name = Path((options.adapter or options.model).split(",")[-1].strip()).name  # that of the last training
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
    is_v6 = ":" in options.host
    try:
        with create_server((options.host, options.port), family=AF_INET6 if is_v6 else AF_INET) as listening:
            host = f"[{options.host}]" if is_v6 else options.host
            print(f"{name} is served at http://{host}:{listening.getsockname()[1]}", flush=True)
            make_server(service, [options.host, *options.names]).run([listening])
    finally:
        service.engine.close()
    return 0
