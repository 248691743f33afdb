"""What results were made from: records beside them, and SHA-256 of texts, weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simulmask_plugin.config.model_settings import FILE_NAME
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.streaming.aids import AID_FILES

MODEL_FILES = (
    *("*.safetensors", "*.bin", "*.index.json", "config.json", "adapter_config.json", "simulmask.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken"),
)
"""Of a model's folder, what decides on its outputs: weights, configuration, settings of training, tokenizer."""
NO_WEIGHTS = ("training_args.bin", *AID_FILES.values())
"""What lies beside them under such a name, but decides on nothing, or only on the policies that ask it."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a file that is written once more has another time, on every file system."""


def save(record: Path, values: Mapping[str, Any]) -> None:
    """Write a record, completely or not at all."""
    write_text(record, json.dumps(values, indent=2) + "\n")


def saved(record: Path) -> dict[str, Any]:
    """The content of a record; empty if it is missing or damaged, so that what it was about is made again."""
    try:
        values = read_json(record)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], made: str) -> None:
    """Raise a ValueError that names the keys that differ if a folder was made with something else than there is now.

    simulmask.json may differ: `simulmask calibrate` adds to it, and what a run takes from it has keys of its own.
    """
    keys = (key for key in before.keys() | now.keys() if not key.endswith(FILE_NAME))
    changed = sorted(key for key in keys if before.get(key) != now.get(key))
    if changed:
        raise ValueError(
            f"{folder} {made} ({', '.join(changed)} changed); take another output directory, or delete this one."
        )


def model_files(folder: str | Path) -> list[Path]:
    """The files of a model's folder that decide on what it writes, by name."""
    found = {path for pattern in MODEL_FILES for path in Path(folder).glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name not in NO_WEIGHTS)


class Digests:
    """SHA-256 of files, saved next to the results, so that the next call does not read 16 GB of weights again.

    A file is read whole, and again only once its size or the time of its last change (in nanoseconds) is another. So
    every change of content is noticed wherever the file lies, and none by a copy or a move; but not one after which
    somebody has set size and time back to what they were.

    Args:
        store: JSON file that keeps them, by path, size and time.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.known: dict[str, list[object]] = saved(store)

    def of(self, path: Path) -> str:
        """SHA-256 of a file, in hexadecimal digits.

        Raises:
            OSError: if it cannot be read.
        """
        path, status = path.resolve(), path.stat()
        seen: list[object] = [status.st_size, status.st_mtime_ns]
        if self.known.get(str(path), [])[:2] != seen:
            self.known[str(path)] = [*seen, _sha256(path, status.st_size, status.st_mtime_ns)]
        return str(self.known[str(path)][2])

    def save(self) -> None:
        """Save the digests, except of files so new that another change could have the same time."""
        settled = {path: seen for path, seen in self.known.items() if int(str(seen[1])) < time.time_ns() - SETTLED}
        save(self.store, settled)


@cache
def _sha256(path: Path, size: int, time_ns: int) -> str:
    """Of a file as it is now; a study asks for one model many times, and for a few files at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
