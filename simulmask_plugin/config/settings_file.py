"""simulmask.json as a file: read strictly, since what it says decides on every result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from simulmask_plugin import __version__
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.options import check_known

VERSION, SEAL = "simulmask_plugin", "sha256"
"""Keys of the version that wrote the file, and of the digest of all else; earlier versions wrote none."""


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write a simulmask.json, sealed."""
    sealed = {VERSION: __version__, **content}
    text = json.dumps({**sealed, SEAL: _digest(sealed)}, indent=2, ensure_ascii=False)
    write_text(path, f"{text}\n")


def read_settings(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Return the content of a simulmask.json, version and seal left out.

    Args:
        path: of the file.
        known: its other keys.

    Raises:
        ValueError: if it is no JSON object, was written by a newer version, was changed since, or has a key that
            nothing reads.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again from the training's output.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no object, {content!r}); copy it again from the training's output.")
    version = content.get(VERSION, __version__)
    if not isinstance(version, str) or _parts(version) > _parts(__version__):
        raise ValueError(
            f"{path} was written by simulmask_plugin {version}, and this is {__version__}, which may not know all that "
            "it says; install that version, or a newer one."
        )
    check_known(content, (VERSION, *known, SEAL), f"{path}: ")
    if SEAL in content and content.pop(SEAL) != _digest(content):
        raise ValueError(
            f"{path} is not as the training wrote it: somebody has changed it, and the model does not know. Copy it "
            f"again from the training's output; if the change is right, delete the key {SEAL}."
        )
    return {key: value for key, value in content.items() if key != VERSION}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
