"""Metrics of other programs (COMET, BLEURT, OmniSTEval): a command each, in whatever environment it needs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulmask_plugin.prompts import placeholders

FILES = ("source", "hypothesis", "reference", "instances")
"""What a command may name in braces: three line-aligned texts, and SimulEval's instances.log."""

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def check_commands(commands: Mapping[str, Any]) -> None:
    """Refuse a command that is no text or names a file that does not exist.

    Raises:
        ValueError: naming the metric.
    """
    for name, command in commands.items():
        if not isinstance(command, str) or not command.strip():
            raise ValueError(f"extra_metrics.{name} must be a command, got {command!r}.")
        for file in placeholders(command):
            if file not in FILES:
                known = ", ".join(f"{{{known}}}" for known in FILES)
                raise ValueError(f"extra_metrics.{name}: unknown file {{{file}}}; expected {known}.")


def run_commands(
    commands: Mapping[str, str], instances: Sequence[Mapping[str, Any]], directory: Path
) -> dict[str, float]:
    """Return the score of each metric: the last number that its command prints.

    A score is kept in extra_metrics.json beside the instances, and measured again only by another command.

    Args:
        commands: by name of the metric.
        instances: SimulEval's log of the run.
        directory: of the run.

    Raises:
        RuntimeError: if a command fails or prints no number; the message holds the end of what it printed.
    """
    files = {name: directory / f"{name}.txt" for name in FILES[:3]} | {"instances": directory / "instances.log"}
    if commands:
        for name, key in zip(FILES, ("source", "prediction", "reference"), strict=False):
            files[name].write_text("".join(f"{one[key].strip()}\n" for one in instances), encoding="utf-8")
    store = directory / "extra_metrics.json"
    known = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    for name, command in commands.items():
        if known.get(name, {}).get("command") != command:
            known[name] = {"command": command, "score": _run(name, command, files)}
            store.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return {name: known[name]["score"] for name in commands}


def _run(name: str, command: str, files: Mapping[str, Path]) -> float:
    words = [word.format(**files) for word in shlex.split(command)]
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"extra_metrics.{name}: {words[0]} cannot be started: {error}") from error
    numbers = NUMBER.findall(result.stdout)
    if result.returncode or not numbers:
        reason = f"stopped with code {result.returncode}" if result.returncode else "printed no number"
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
        raise RuntimeError(f"extra_metrics.{name}: {shlex.join(words)} {reason}:\n{tail}")
    return float(numbers[-1])
