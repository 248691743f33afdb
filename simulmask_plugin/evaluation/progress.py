"""How far an evaluation or a study has come: lines, and a bar in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from datetime import timedelta
from pathlib import Path

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, Task, TextColumn

from simulmask_plugin.evaluation.runs import num_streamed
from simulmask_plugin.pictures.terminal import console

SPEED_SECONDS = 600
"""The speed is that of so many seconds before; large models take a minute for a sentence."""


class Bar(Progress):
    """A bar that counts the sentences of all runs; where there is no terminal, a line for every 10 %.

    Args:
        runs: their folders. Without one there is no bar.
        total: sentences of a run.
    """

    def __init__(self, runs: Collection[Path], total: int) -> None:
        out = console(stderr=True)
        super().__init__(
            BarColumn(),
            TextColumn("{task.description}"),
            console=out,
            transient=True,
            refresh_per_second=2,
            speed_estimate_period=SPEED_SECONDS,
            disable=not runs,
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe must go there
        )
        self._runs, self._total, self._tenths = runs, total, 0
        self.add_task("", total=total * len(runs))

    def get_renderables(self) -> Iterable[RenderableType]:
        """Count before every refresh; rich refreshes, and draws nothing, without a terminal as well."""
        for task in self.tasks:
            count = sum(min(num_streamed(run), self._total) for run in self._runs)
            self.update(task.id, completed=count)
            self.update(task.id, description=_state(task))
            tenths = int(task.percentage / 10)
            if tenths > self._tenths and not self.console.is_terminal:
                print(task.description, file=self.console.file, flush=True)
            self._tenths = tenths
        return super().get_renderables()

    def stop(self) -> None:
        """Take the bar away; rich's own would leave an empty line in a log."""
        self.live.stop()


def say(*words: str) -> None:
    """Print a line at once: with its end apart, threads would write into each other's lines."""
    print(f"{' '.join(words)}\n", end="", flush=True)


def _state(task: Task) -> str:
    """How many sentences there are, and how fast they come, once that is known."""
    line = f"{task.completed:.0f} of {task.total:.0f} sentences ({task.percentage:.0f} %)"
    if task.speed is None or task.time_remaining is None:
        return line
    return f"{line}, {task.speed:.1f} a second, {timedelta(seconds=task.time_remaining)} left"
