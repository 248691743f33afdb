"""Other programs, run with a log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

TAIL = 15
"""Lines of a log that an error holds."""


class ProgramFailed(RuntimeError):
    """A program ended with an error; the message holds the end of its log."""


def run_program(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run a program and add its output to a log.

    Args:
        name: of the program, for the error.
        command: the program and its arguments.
        log: what it prints is appended here.
        environment: variables beside those of this process.

    Raises:
        ProgramFailed: if its exit code is not 0.
    """
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | environment, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
        raise ProgramFailed(f"{name} stopped with code {code}; the end of {log}:\n{tail}")
