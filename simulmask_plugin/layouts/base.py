"""An example, and the rows that it becomes: one token sequence with three integers per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

IGNORE_INDEX = -100
"""Label of a token that is the target of no row."""

Ints = Int[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized example: prompt | source | header | target | end of sentence.

    Attributes:
        input_ids: token ids of all five parts, in this order.
        num_prompt: tokens of the prompt.
        source_lengths: tokens of each source unit.
        num_header: tokens of the header.
        target_lengths: tokens of each target unit.
        next_header: token ids that stand between target and further source, in layouts that have such a place.
        num_written: leading target units that carry no labels: in ``prefix``, what a prefix pair repeats of the others.
    """

    input_ids: Int[np.ndarray, " tokens"]
    num_prompt: int
    source_lengths: Int[np.ndarray, " source_units"]
    num_header: int
    target_lengths: Int[np.ndarray, " target_units"]
    next_header: tuple[int, ...] = ()
    num_written: int = 0

    def __post_init__(self) -> None:
        """Check that the parts add up."""
        parts = self.num_prompt + self.source_lengths.sum() + self.num_header + self.target_lengths.sum() + 1
        assert len(self.input_ids) == parts, f"{len(self.input_ids)} tokens, but the parts hold {parts}"

    def units(self) -> tuple[list[list[int]], list[int], list[list[int]], int]:
        """Token ids of the source (a list per unit), of the header, of the target, and the end of sentence."""
        cuts = np.cumsum([self.num_prompt, *self.source_lengths, self.num_header, *self.target_lengths])
        _, *parts, end = (part.tolist() for part in np.split(self.input_ids, cuts))
        num_source = len(self.source_lengths)
        return parts[:num_source], parts[num_source], parts[num_source + 1 :], end[0]

    @property
    def source_end(self) -> int:
        """Index of the first header token."""
        return self.num_prompt + int(self.source_lengths.sum())

    @property
    def all_ids(self) -> Ints:
        """The token ids, and behind them those of the next header."""
        return np.concatenate((self.input_ids, np.asarray(self.next_header, dtype=np.int64)))

    @property
    def source_unit(self) -> Ints:
        """The index of the source unit of each of `all_ids`; -1 outside the source."""
        unit = np.full(len(self.input_ids) + len(self.next_header), -1)
        unit[self.num_prompt : self.source_end] = np.repeat(np.arange(len(self.source_lengths)), self.source_lengths)
        return unit


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """One row of a batch before padding; all arrays have the length of the sequence.

    Attributes:
        example: what was laid out.
        input_ids: token ids.
        source_unit: index of the source unit of the token; -1 for every other token, S for a look-ahead row.
        num_read: source units that the token may see as a query; S ("all") for prompt and source.
        labels: target of the row *before* (the shift is the model's); IGNORE_INDEX elsewhere.
        token: index of the token in the example; a look-ahead pair shares one, and a next header has -1.
        position: position of the token, which a look-ahead pair shares, too.
        num_hidden: source *tokens* that the row may not see, where the positions ask for it (``modified_alibi``).
    """

    example: Example
    input_ids: Ints
    source_unit: Ints
    num_read: Ints
    labels: Ints
    token: Ints
    position: Ints
    num_hidden: Ints | None = None

    @property
    def after_source(self) -> Bool[np.ndarray, " tokens"]:
        """True for the header and everything behind it."""
        return self.token >= self.example.source_end

    @property
    def parts(self) -> tuple[str, ...]:
        """Prompt, source, header or target for every token."""
        example = self.example
        starts = [example.num_prompt, example.source_end, example.source_end + example.num_header]
        names = ("prompt", "source", "header", "target")
        places = np.where(self.token < 0, names.index("header"), np.searchsorted(starts, self.token, side="right"))
        return tuple(names[place] for place in places)
