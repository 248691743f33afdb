"""Other programs, run with a log."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL = 15
"""Lines of a log that an error holds."""


class ProgramFailed(RuntimeError):
    """A program ended with an error; the message holds the end of its log."""


def run_program(
    name: str,
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Run a program and add its output to a log.

    The log is locked as long as the program lives, even where it outlives this process: whoever is started again after
    a kill must not write beside it.

    Args:
        name: of the program, for the error.
        command: the program and its arguments.
        log: what it prints is appended here.
        environment: variables beside those of this process.
        prepare: called before the program starts, once the log is ours.

    Raises:
        ProgramFailed: if its exit code is not 0, or it is still running from before.
    """
    with log.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the program inherits it with the file
        except BlockingIOError:
            raise ProgramFailed(
                f"{name} is still running: another process writes {log}. Wait for it, or stop it."
            ) from None
        prepare()
        code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | environment, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
        raise ProgramFailed(f"{name} stopped with code {code}; the end of {log}:\n{tail}")
