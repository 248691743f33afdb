"""YAML files with ``key=value`` overrides, and checks of what users write in them."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simulmask_plugin.files.texts import read_text

NAME = re.compile(r"\w[\w.+-]*(?: [\w.+-]+)*")
"""Of what becomes a file or folder, and may stand in a list that commas part."""

MOST_UNITS = 10_000
"""Source units of a k, an n or a document: more than any sentence has."""
MOST_AT_ONCE = 1_024
"""Jobs, threads and hypotheses of a beam."""
MOST_TOKENS = 1_000_000
"""Of a slot, an offset or what a sentence may write: the longest context that any model has."""


def check_integer(what: str, value: object, *, least: int, most: int | None = None, unit: str = "") -> None:
    """Raise a ValueError unless value is an integer of at least ``least`` (and at most ``most``).

    Args:
        what: is to be checked: a key.
        value: its value.
        least: the smallest that makes sense.
        most: the largest; None: there is none.
        unit: says what it counts.
    """
    end = ""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        if most is None or value <= most:
            return
        end = f" and at most {most}"
    counted = f" ({unit})" if unit else ""
    raise ValueError(f"{what} must be an integer of at least {least}{end}{counted}, got {value!r}.")


def check_number(what: str, value: object, *, expected: str, holds: Callable[[float], bool]) -> None:
    """Raise a ValueError unless value is a finite number that ``holds``.

    Args:
        what: is to be checked: a key.
        value: its value.
        expected: what it must, e.g. "lie in 0..1".
        holds: whether it does.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise ValueError(f"{what} must {expected}, got {value!r}.")


def check_name(what: str, value: object) -> None:
    """Raise a ValueError unless value can be the name of a file or folder, and stays where it belongs."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(
            f"{what}: a name is made of letters, digits and single spaces, with . + _ and - inside, got {value!r}."
        )


def read_yaml(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Read a YAML file; an override such as ``simulmask.k=5`` replaces one key, however deep.

    Raises:
        ValueError: if there is no such file, it is no mapping of keys to values, or as `check_values`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not Path(path).is_file():
        remedy = "; name the YAML before the keys that you replace" if "=" in str(path) else ""
        raise ValueError(f"{path}: no such file{remedy}.")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"Overrides have the form key=value, got {override!r}.")
    where = str(path)
    try:
        content = OmegaConf.load(io.StringIO(read_text(path)))
        where = " ".join(overrides) or where
        if not OmegaConf.is_dict(content):
            raise ValueError(f"{path}: expected a mapping of keys to values.")
        values = OmegaConf.to_container(OmegaConf.merge(content, OmegaConf.from_cli(overrides)))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from error
    except TypeError as error:  # of OmegaConf, for a list in the place of a mapping
        raise ValueError(f"{where} does not go with {path}: {error}; replace such a key in the file.") from error
    except RecursionError as error:
        raise ValueError(f"{where} is no valid YAML: brackets within brackets without end.") from error
    assert isinstance(values, dict)
    check_values(values, where=str(path))
    return {str(key): value for key, value in values.items()}


def check_values(values: Mapping[Any, Any], *, where: str) -> None:
    """Refuse values that nothing can be made of.

    Raises:
        ValueError: naming the key of a number that is not finite, of NUL, or of ``${...}``, which LLaMA-Factory leaves
            as it is.
    """
    for key, fault in _faults(values):
        raise ValueError(f"{where}: {key}: {fault}.")


def _faults(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and the fault of every value that nothing can be made of."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _faults(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from _faults(inner, f"{key}, entry {number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"expected a number, got {value}"
    elif isinstance(value, str) and "\0" in value:
        yield key, f"expected a text, got NUL in {value!r}"
    elif isinstance(value, str) and "${" in value:
        yield key, f"nothing fills in {value!r}; write what it stands for"


def check_keys(values: Mapping[str, Any], *, known: Iterable[str], needed: Iterable[str], where: str) -> None:
    """Check the keys of a YAML.

    Raises:
        ValueError: naming the file and the first key that is unknown, or missing or empty.
    """
    known = list(known)
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}.")
    for key in needed:
        if not values.get(key):
            raise ValueError(f"{where}: the key {key} is missing or empty.")


def yaml_text(value: Any) -> str:
    """A value as one would write it into a YAML, on one line."""
    if isinstance(value, str) and value and value == value.strip() and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)
