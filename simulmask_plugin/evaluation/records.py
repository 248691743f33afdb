"""What is kept beside results: JSON objects that one call writes and the next one compares with what is there now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json


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


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values are not the same, sorted; a key that only one has is one of them."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
