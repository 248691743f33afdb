"""An example and its read schedule become one token sequence with three integers per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from simulmask_plugin.policies import ReadSchedule

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


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """One row of a batch before padding; all arrays have the length of the sequence.

    Attributes:
        input_ids: token ids.
        source_unit: index of the source unit of the token; -1 for every other token, S for a look-ahead row.
        num_read: source units that the token may see as a query; S ("all") for prompt and source.
        labels: target of the row *before* (the shift is the model's); IGNORE_INDEX elsewhere.
        token: index of the token in the sequence without look-ahead rows (a pair shares one); in ``slots`` of the
            token in the example, -1 for a next header.
        num_hidden: source *tokens* that the row may not see.
        example: what was laid out.
        parts: prompt, source, header or target for every token; empty in ``prefix``, see `prefix_parts`.
        position: position of every token in ``slots``, which decides it itself; else None.
    """

    input_ids: Ints
    source_unit: Ints
    num_read: Ints
    labels: Ints
    token: Ints
    num_hidden: Ints
    example: Example
    parts: tuple[str, ...] = ()
    position: Ints | None = None

    @property
    def after_source(self) -> Bool[np.ndarray, " tokens"]:
        """True for the header and everything behind it."""
        return self.token >= self.example.source_end


def prefix_parts(layout: SequenceLayout) -> tuple[str, ...]:
    """Return prompt, source, header or target for every token of the layout ``prefix``."""
    example = layout.example
    starts = [example.num_prompt, example.source_end, example.source_end + example.num_header]
    names = ("prompt", "source", "header", "target")
    return tuple(names[place] for place in np.searchsorted(starts, layout.token, side="right"))


def prefix_layout(
    example: Example,
    schedule: ReadSchedule,
    *,
    rows: str,
    look_ahead: Bool[np.ndarray, " target_units"] | None = None,
) -> SequenceLayout:
    """Lay an example out as prompt | source | header | target | end of sentence (SimulMask, section 4).

    What the tokens of target unit t see as queries is the row convention:

    - ``look_ahead``: g(t); the last token stands twice where g(t) < g(t + 1): first a look-ahead row that sees g(t)
      and is seen by nobody, then the kept row with g(t + 1). Both predict the next token.
    - ``query_unit``: g(t + 1), every token (as published).
    - ``own_unit``: g(t), every token.
    - ``next_unit``: g of the unit that the next token belongs to (the negative control).

    wait-1, two source units x1 x2, target units ya yb (two tokens, one unit) and z, look_ahead::

        token        P  x1 x2  H  ya yb yb  z  E
        source_unit -1  0  1  -1  -1  2 -1 -1 -1    2 = S: a look-ahead row
        num_read     2  2  2   1   1  1  2  2  2
        labels       .  .  .   .  ya yb  z  z  E

    Args:
        example: the tokens.
        schedule: g(1..T+1) over the example's units.
        rows: the row convention.
        look_ahead: for ``look_ahead``, the units that get their look-ahead row; None for all of them.
    """
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    assert (schedule.num_source, schedule.num_target) == (num_source, num_target), (schedule, num_source, num_target)
    base_ids, start = example.input_ids, example.source_end + example.num_header
    num_tokens = len(base_ids)
    g = np.asarray(schedule.num_read)

    unit = np.repeat(np.arange(num_target), example.target_lengths)
    is_last = np.zeros(len(unit), dtype=bool)
    is_last[np.cumsum(example.target_lengths) - 1] = True
    own, following = g[unit], g[unit + 1]

    base_source_unit = np.full(num_tokens, -1)
    base_source_unit[example.num_prompt : example.source_end] = np.repeat(np.arange(num_source), example.source_lengths)
    base_num_read = np.full(num_tokens, num_source)
    base_num_read[example.source_end : start] = g[0]
    base_num_read[start:-1] = {
        "look_ahead": np.where(is_last, following, own),
        "query_unit": following,
        "own_unit": own,
        "next_unit": np.where(is_last, following, own),
    }[rows]
    base_num_read[-1] = g[-1]
    base_labels = np.full(num_tokens, IGNORE_INDEX)
    learned = start + int(example.target_lengths[: example.num_written].sum())
    base_labels[learned:] = base_ids[learned:]

    copies = np.ones(num_tokens, dtype=int)
    if rows == "look_ahead":
        wanted = is_last & (own < following)
        copies[start:-1] += wanted if look_ahead is None else wanted & look_ahead[unit]
    token = np.repeat(np.arange(num_tokens), copies)
    first = np.flatnonzero(token[:-1] == token[1:])  # the look-ahead rows; each one's kept row follows it

    source_unit, num_read, labels = base_source_unit[token], base_num_read[token], base_labels[token]
    source_unit[first] = num_source
    num_read[first] = own[token[first] - start]
    labels[first + 1] = base_labels[token[first] + 1]
    visible = np.concatenate(([0], np.cumsum(example.source_lengths)))
    num_hidden = visible[-1] - visible[num_read]
    return SequenceLayout(base_ids[token], source_unit, num_read, labels, token, num_hidden, example)
