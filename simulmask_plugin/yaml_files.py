"""YAML files with ``key=value`` overrides, read as LLaMA-Factory reads its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_yaml(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Read a YAML file; an override such as ``simulmask.k=5`` replaces one key, however deep.

    Raises:
        ValueError: if there is no such file, or it is no mapping of keys to values.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if not Path(path).is_file():
        remedy = "; name the YAML before the keys that you replace" if "=" in str(path) else ""
        raise ValueError(f"{path}: no such file{remedy}.")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"Overrides have the form key=value, got {override!r}.")
    try:
        content = OmegaConf.load(path)
    except YAMLError as error:
        raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(content):
        raise ValueError(f"{path}: expected a mapping of keys to values.")
    values = OmegaConf.to_container(OmegaConf.merge(content, OmegaConf.from_cli(overrides)))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


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
