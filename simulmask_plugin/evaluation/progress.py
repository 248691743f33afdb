"""How far the policies of an evaluation have come, in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from simulmask_plugin.pictures.terminal import console


class Bars(Progress):
    """A bar for every policy, by its name, which counts the sentences in its log; nothing where there is no terminal.

    A log has a line for every sentence, and need not be there yet.
    """

    def __init__(self, logs: Mapping[str, Path], total: int) -> None:
        out = console(stderr=True)
        super().__init__(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("sentences")),
            console=out,
            transient=True,
            refresh_per_second=2,
            disable=not (logs and out.is_terminal),
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe must go there
        )
        self._logs = {self.add_task(name, total=total): log for name, log in logs.items()}

    def get_renderables(self) -> Iterable[RenderableType]:
        """Count before every refresh."""
        for task in self.tasks:
            log = self._logs[task.id]
            task.completed = log.read_bytes().count(b"\n") if log.is_file() else 0
        return super().get_renderables()
