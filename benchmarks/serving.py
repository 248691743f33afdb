"""How long the clients of `simulmask serve` wait for what a word of theirs brings; prints a Markdown table.

    python benchmarks/serving.py output/demo/merged output/demo/data/test.source --policy wait_k --k 3

The server is a process of its own. Each client is one connection on which sentences are typed, so many words a second,
and each beginning at a random moment. Of every word after which a unit was written, the time is taken from sending it
until the first unit arrives that was written with its g.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect


async def typed(client: ClientConnection, words: list[str], pause: float) -> list[float]:
    """Seconds from each word to the first unit that it brings, for one sentence."""
    sent: list[float] = []

    async def type_words() -> None:
        for word in words:
            await asyncio.sleep(pause)
            sent.append(time.perf_counter())
            await client.send(json.dumps({"type": "read", "text": f"{word} "}))
        await client.send(json.dumps({"type": "end"}))

    await client.send(json.dumps({"type": "start"}))
    typing = asyncio.create_task(type_words())
    waited: dict[int, float] = {}
    event: dict[str, Any] = {"type": ""}
    while event["type"] not in ("finished", "error"):
        event = json.loads(await client.recv())
        if event["type"] == "write":
            waited.setdefault(event["g"], time.perf_counter() - sent[event["g"] - 1])
    assert event["type"] == "finished", event
    await typing
    return list(waited.values())


async def client(url: str, sentences: list[list[str]], pause: float, delay: float) -> list[float]:
    """The same for sentences after each other, on one connection."""
    await asyncio.sleep(delay)
    async with connect(url) as connection:
        return [second for words in sentences for second in await typed(connection, words, pause)]


async def clients(url: str, number: int, sentences: list[list[str]], share: int, rate: float) -> list[float]:
    """The same for so many clients at once, each with its share of the sentences."""
    drawn = random.Random(number)
    endless = cycle(sentences)
    shares = [list(islice(endless, share)) for _ in range(number)]
    waits = await asyncio.gather(*(client(url, each, 1 / rate, drawn.random() / rate) for each in shares))
    return [second for found in waits for second in found]


def main() -> None:
    """Measure 1, 8 and 32 clients, on one server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("source", help="sentences that are typed, one a line", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sentences", type=int, default=8, help="of a client")
    parser.add_argument("--rate", type=float, default=2.5, help="words a second of a client")
    args, of_server = parser.parse_known_args()
    sentences = [line.split() for line in args.source.read_text(encoding="utf-8").splitlines()]
    command = [sys.executable, "-m", "simulmask_plugin", "serve", args.model, "--port", "0", *of_server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://(\S+)", server.stdout.readline())
            assert found is not None, "the server has not begun"
            url = f"ws://{found[1]}/stream"
            asyncio.run(clients(url, 2, sentences, 2, args.rate))  # the first calls of a model are slow
            print("| clients | words a second | measured | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
            for number in args.clients:
                waits = asyncio.run(clients(url, number, sentences, max(args.sentences, 24 // number), args.rate))
                p50, p99 = 1000 * np.percentile(waits, [50, 99])
                print(f"| {number} | {number * args.rate:g} | {len(waits)} | {p50:.1f} | {p99:.1f} |", flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
