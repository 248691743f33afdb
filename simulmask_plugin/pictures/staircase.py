"""One streamed sentence: how much source had been read before each target unit was written, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from simulmask_plugin.pictures.picture import LOOK_AHEAD_COLOR, REGIONS, visible

UNSURE = 0.5
"""A probability below this one is marked."""
LONGEST = 24
"""Columns of the terminal that a target unit may have."""
NUMBERS = 40
"""Columns for what stands on the right of the cells."""
OLD, NEW = REGIONS["source"].color, REGIONS["target"].color
"""Source that had been read before the unit above was written, and since."""


@dataclass(frozen=True, slots=True)
class Stair:
    """One target unit.

    Attributes:
        text: what was written.
        num_read: source words that had been read.
        probability: of the unit; None: it was not recorded.
        seconds: since the sentence began; None: they were not recorded.
    """

    text: str
    num_read: int
    probability: float | None = None
    seconds: float | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether the model gave it less than `UNSURE`."""
        return self.probability is not None and self.probability < UNSURE


@dataclass(frozen=True, slots=True)
class Staircase:
    """A streamed sentence.

    Attributes:
        source: its words.
        stairs: the target units.
        reference: translation.
    """

    source: Sequence[str]
    stairs: Sequence[Stair]
    reference: str

    @classmethod
    def from_logs(cls, instance: Mapping[str, Any], steps: Sequence[Mapping[str, Any]] | None = None) -> Staircase:
        """From a line of SimulEval's log, whose words have delays, or from the steps of a trace, if there is one.

        Raises:
            ValueError: if there is not a delay for every word, or every character.
        """
        source, reference = instance["source"].split(), instance["reference"].strip()
        if steps is not None:
            return cls(source, _of_steps(steps), reference)
        prediction, delays = instance["prediction"], instance["delays"]
        for units in (prediction.split(), list(prediction)):
            if len(units) == len(delays):
                return cls(source, list(map(Stair, units, delays)), reference)
        raise ValueError(f"Expected a delay for every word or character, got {len(delays)} for {prediction!r}.")

    def new_words(self, row: int) -> Sequence[str]:
        """What was read between a target unit and the one before it."""
        return self.source[self.stairs[row - 1].num_read if row else 0 : self.stairs[row].num_read]

    @property
    def left(self) -> Sequence[str]:
        """The source words that had not been read when the last unit was written."""
        return self.source[self.stairs[-1].num_read if self.stairs else 0 :]


def _of_steps(steps: Sequence[Mapping[str, Any]]) -> list[Stair]:
    stairs, num_read = [], 0
    for step in steps:
        if step["action"] == "READ":
            num_read += 1
        else:
            stairs += [Stair(text, num_read, probability, step["time"]) for text, probability in step["units"]]
    return stairs


def staircase_text(staircase: Staircase, width: int) -> Text:
    """A line for every target unit: a block for every source word that had been read, and the words new among them.

    Cells are drawn without gaps if they would not fit into the width of the terminal otherwise.
    """
    labels = [visible(stair.text) or visible(" ") for stair in staircase.stairs]
    left, size = min(LONGEST, max(map(cell_len, ["target", *labels]))), len(staircase.source)
    cell = 2 if left + 2 * size + NUMBERS <= width else 1
    numbers = "  g     P       s" if any(stair.seconds is not None for stair in staircase.stairs) else "  g"
    head = f"{set_cell_size('target', left)}  {set_cell_size('source', cell * size)}{numbers}  read before it\n"
    text = Text(no_wrap=True).append(head, style="dim")
    for row, (label, stair) in enumerate(zip(labels, staircase.stairs, strict=True)):
        new = staircase.new_words(row)
        text.append(f"{set_cell_size(label, left)}  ")
        for kind, mark, count in (
            (OLD, "■", stair.num_read - len(new)),
            (f"bold {NEW}", "■", len(new)),
            ("dim", "·", size - stair.num_read),
        ):
            text.append(mark.ljust(cell) * count, style=kind)
        text.append(f"{stair.num_read:3}")
        if stair.probability is not None:
            text.append(f"{stair.probability:6.2f}", style=LOOK_AHEAD_COLOR if stair.is_unsure else "")
        if stair.seconds is not None:
            text.append(f"{stair.seconds:8.3f}")
        text.append(f"  {' '.join(new)}\n", style=NEW)
    if staircase.left:
        text.append(f"read after the last unit, or not at all: {' '.join(staircase.left)}\n", style="dim")
    return text
