"""Tables for every command: in colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200
"""Columns if the output is not a terminal, so that a pipe or a log gets whole lines."""


def console(*, stderr: bool = False) -> Console:
    """A console for standard output or standard error."""
    # datasets replaces os.environ by a copy, and rich has bound the old one when it was imported
    result = Console(stderr=stderr, highlight=False, emoji=False, markup=False, _environ=os.environ)
    if not result.is_terminal:
        result.width = PLAIN_WIDTH
    return result


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> Table:
    """A table; strings are not parsed as markup, so that tokens such as "[INST]" survive."""
    result = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(columns))
    for row in rows:
        result.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return result


def verdict(passed: bool) -> Text:
    """The outcome of a check, as printed."""
    return Text("ok", style="green") if passed else Text("FAILED", style="bold red")
