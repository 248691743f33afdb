"""The thread in which the model works: everything that touches it, or its tokenizer, happens there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from threading import Thread

import torch

from simulmask_plugin.serving.live import Narrator, Source, Tell, live
from simulmask_plugin.serving.wishes import Wish, Wishes
from simulmask_plugin.streaming.lane import Lane, LiveSteps
from simulmask_plugin.streaming.pool import Job, Pool
from simulmask_plugin.streaming.recorder import Recorder

LOG = logging.getLogger(__name__)

Command = Callable[[], None]


class Engine:
    """Streams the sessions of all clients side by side, as many as the pool has lanes; the others stand in line.

    It sleeps while no session has anything to be fed.

    Args:
        pool: of the model.
        wishes: of its clients.
        threads: of the CPU, for the model; None: as torch has it.
    """

    def __init__(self, pool: Pool, wishes: Wishes, threads: int | None = None) -> None:
        self._pool, self._wishes, self._threads = pool, wishes, threads
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._line: dict[int, Job[None]] = {}
        self._numbers = count()
        self._thread = Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def open(self, wish: Wish, source: Source, tell: Tell) -> int:
        """Open a session that reads this source, and return its number; its events are told in the engine's thread."""
        number, start = next(self._numbers), time.perf_counter()
        self._commands.put(lambda: self._stand_in_line(number, wish, source, Recorder(clock(start)), tell))
        return number

    def put(self, command: Command) -> None:
        """Have something done between two calls of the model, e.g. more source."""
        self._commands.put(command)

    def stop(self, number: int) -> None:
        """End a session, if it has not ended, where it is."""
        self._commands.put(lambda: self._leave(number))

    def close(self) -> None:
        """End all sessions where they are."""
        self._commands.put(None)
        self._thread.join()

    def _work(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)  # a thread has a number of its own
        while self._heed():
            while self._can_begin:
                number = next(iter(self._line))
                self._pool.start(number, self._line.pop(number))
            self._pool.step()

    @property
    def _can_begin(self) -> bool:
        return bool(self._line) and self._pool.has_room

    def _heed(self) -> bool:
        """Do what is to be done; if no session can go on, wait for something. False: the engine is to close."""
        is_idle = not (self._pool.asks or self._can_begin)
        while is_idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command()
            is_idle = False
        return True

    def _stand_in_line(self, number: int, wish: Wish, source: Source, recorder: Recorder, tell: Tell) -> None:
        def job(lane: Lane) -> LiveSteps[None]:
            with _failures_told(tell):
                session = granted.opener(lane, recorder)
                tell({"type": "started", "decision": granted.decision})
                yield from live(session, source, Narrator(session, recorder, tell))

        with _failures_told(tell):
            granted = self._wishes.grant(wish)
            tell({"type": "granted"})
            self._line[number] = job

    def _leave(self, number: int) -> None:
        if self._line.pop(number, None) is None:
            self._pool.stop(number)


@contextmanager
def _failures_told(tell: Tell) -> Iterator[None]:
    """Whatever fails ends this session alone, and its client is told."""
    try:
        yield
    except ValueError as error:
        tell({"type": "error", "reason": str(error)})
    except Exception as error:
        LOG.exception("A session failed.")
        tell({"type": "error", "reason": f"The model failed ({type(error).__name__}: {error})."})


def clock(start: float) -> Callable[[], float]:
    """Seconds since then."""
    return lambda: time.perf_counter() - start
