"""JSON from users and earlier runs, read strictly: errors name file, line and column."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Never

from simulmask_plugin.files.texts import BOM, read_text


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, see `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str, *, line: int | None = None) -> Any:
    """Return the value of a JSON text.

    ``where`` is its origin for messages, usually a file, ``line`` its line there; None: it is the whole file.

    Raises:
        ValueError: with file, line and column; for invalid JSON, a key that occurs twice in an object, a number that is
            not finite, or too deep nesting.
    """
    place = where if line is None else f"{where}:{line}"
    if text.startswith(BOM):
        raise ValueError(f"{place}: expected JSON, got a byte order mark; save the file as UTF-8 without one.")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno if line is None else line}"
        is_trailing = text[error.pos : error.pos + 1] in ("]", "}") and text[: error.pos].rstrip().endswith(",")
        remedy = "; remove the comma before it" if is_trailing else ""
        raise ValueError(f"{place}: expected JSON, got: {error.msg} at column {error.colno}{remedy}.") from error
    except RecursionError as error:
        raise ValueError(f"{place}: expected JSON with a few levels, got too deeply nested brackets.") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} occurs twice in one object; remove one.")
        values[key] = value
    return values


def _refuse(constant: str) -> Never:
    raise ValueError(f"expected a number, got {constant}, which JSON does not have.")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"expected a number, got {digits}, which is too large.")
    return value
