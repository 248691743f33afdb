"""Other programs, run with a log; they end with us, and so does what they have started."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil

TAIL = 15
"""Number of log lines in an error message."""
ENDS = ((signal.SIGINT, 5), (signal.SIGTERM, 10), (signal.SIGKILL, 10))
"""How a program is asked to end, and the seconds it has: as by Ctrl-C first, at which Python writes out its logs."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_stopped = Event()


class ProgramFailed(RuntimeError):
    """A program ended with an error; the message contains the end of its log."""


class Stopped(KeyboardInterrupt):
    """A signal has ended this process.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def programs_end_with_us() -> Iterator[None]:
    """While this is entered, Ctrl-C, SIGTERM and a closed terminal end what runs and all that it has started.

    Nothing starts afterwards. A signal that this process was started to ignore (nohup) stays ignored.

    Raises:
        Stopped: once nothing runs any more.
    """

    def stop(number: int, _: object) -> None:
        _stopped.set()
        _end(psutil.Process().children(recursive=True))
        raise Stopped(number)

    _stopped.clear()
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_program(
    name: str,
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Run a program and add its output to a log.

    The log is locked as long as the program lives, even if it outlives this process: a second call after a kill
    must not write to it at the same time.

    Args:
        name: of the program, for the error.
        command: the program and its arguments.
        log: what it prints is appended here.
        environment: variables beside those of this process.
        prepare: called before the program starts, once the log is ours.

    Raises:
        ProgramFailed: if its exit code is not 0, or it is still running from before.
        KeyboardInterrupt: if a signal has ended it with us.
    """
    with log.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the program inherits it with the file
        except BlockingIOError:
            raise ProgramFailed(
                f"{name} is still running: another process writes {log}. Wait for it, or stop it."
            ) from None
        prepare()
        with _started(command, stdout=file, stderr=file, env=os.environ | environment) as process:
            code = process.wait()
    if code:
        printed = log.read_text(encoding="utf-8", errors="replace")
        raise ProgramFailed(f"{name} stopped with code {code}; the end of {log}:\n{tail(printed)}")


def run_and_read(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a program; return its exit code and what it printed: output, errors.

    Raises:
        OSError: if it cannot be started.
        KeyboardInterrupt: if a signal has ended it with us.
    """
    with _started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        output, errors = process.communicate()
    return process.returncode, output, errors


def tail(printed: str) -> str:
    """The last lines that a program printed, for an error message."""
    return "\n".join(printed.splitlines()[-TAIL:])


@contextmanager
def _started(command: Sequence[str], **options: Any) -> Iterator[psutil.Popen]:
    """A program that has ended when the block has, in whatever way."""
    if _stopped.is_set():
        raise KeyboardInterrupt
    process = psutil.Popen(command, **options)
    try:
        if _stopped.is_set():  # since we looked
            raise KeyboardInterrupt
        yield process
    except BaseException:
        _end([process, *process.children(recursive=True)])
        raise
    if _stopped.is_set():
        raise KeyboardInterrupt


def _end(processes: list[psutil.Process]) -> None:
    """End processes, as gently as they allow."""
    for number, seconds in ENDS:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=seconds)
