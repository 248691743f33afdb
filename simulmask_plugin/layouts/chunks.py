"""Layouts of chunks: prompt | source chunk | read end | target chunk | write end | source chunk ... | end of sentence.

``interleaved`` (EAST, https://arxiv.org/abs/2504.09570, section 3): read end and write end are special tokens, and the
model predicts both. ``turns`` (conversational prompting, https://arxiv.org/abs/2402.10552): they are headers of chat
turns; a policy reads, and only the first token of the write end is predicted. Both are plain causal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from simulmask_plugin.files.texts import is_blank
from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, SequenceLayout
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.units import join_units, split_units

NOT_READ_END = -101
"""Label of a row at the end of a source unit whose chunk goes on: every token but the read end is right (losses.py)."""


@dataclass(slots=True)
class _Sequence:
    """The tokens laid out so far."""

    ids: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, ids: list[int], part: str, labels: list[int] | None = None, unit: int = -1) -> None:
        """Append tokens; None: they are no labels."""
        self.ids += ids
        self.parts += [part] * len(ids)
        self.units += [unit] * len(ids)
        self.labels += [IGNORE_INDEX] * len(ids) if labels is None else labels


def chunked_layout(example: Example, schedule: ReadSchedule, *, layout: str, loss_on: str = "all") -> SequenceLayout:
    """Lay an example out in chunks, a new one wherever g increases; every row sees all that stands before it.

    x1 x2 | y, then x3 | z, in the layout ``interleaved`` with the loss on the target::

        token        P  x1  x2  R   y  W  x3  R   z  W  E
        source_unit -1   0   1 -1  -1 -1   2 -1  -1 -1 -1
        labels       .   .  !R  R   y  W   .  R   z  W  E      !R: NOT_READ_END, x1 does not end the chunk

    Args:
        example: the tokens; its header is the read end.
        schedule: g(1..T+1) over the example's units.
        layout: interleaved or turns.
        loss_on: interleaved: ``all`` tokens after the prompt (as published), or ``target``: the target, both special
            tokens, and at the end of every other source unit that no read end follows.
    """
    interleaved = layout == "interleaved"
    on_all = interleaved and loss_on == "all"
    source, header, target, end = example.units()
    next_header = list(example.next_header)
    first_only = next_header[:1] + [IGNORE_INDEX] * (len(next_header) - 1)
    out = _Sequence()
    out.add(example.input_ids[: example.num_prompt].tolist(), "prompt")
    chunks, read, written = chunks_of(schedule), 0, 0
    for number, (num_read, num_written) in enumerate(chunks):
        for unit in range(read, read + num_read):
            ids = source[unit]
            goes_on = interleaved and unit > read
            first = NOT_READ_END if goes_on else IGNORE_INDEX
            out.add(ids, "source", ids if on_all else [first] + [IGNORE_INDEX] * (len(ids) - 1), unit)
        out.add(header, "header", header if interleaved else None)
        for ids in target[written : written + num_written]:
            out.add(ids, "target", ids)
        if interleaved or number + 1 < len(chunks):
            out.add(next_header, "header", first_only)
        read, written = read + num_read, written + num_written
    out.add([end], "target", [end])
    num_tokens = len(out.ids)
    return SequenceLayout(
        input_ids=np.asarray(out.ids),
        source_unit=np.asarray(out.units),
        num_read=np.full(num_tokens, len(source)),
        labels=np.asarray(out.labels),
        token=np.arange(num_tokens),
        num_hidden=np.zeros(num_tokens, dtype=int),
        example=example,
        parts=tuple(out.parts),
    )


def chunks_of(schedule: ReadSchedule) -> list[tuple[int, int]]:
    """Return (source units, target units) of each chunk.

    What is read only for the end of sentence stands in a last chunk, whose target is empty.

    Raises:
        ValueError: if g(1) is 0, so that the first chunk has no source.
    """
    check_first_read(schedule.num_read[0])
    chunks: list[tuple[int, int]] = []
    read = 0
    for t, now in enumerate(schedule.num_read):
        written = int(t < schedule.num_target)
        if now > read or not chunks:
            chunks.append((now - read, written))
        else:
            chunks[-1] = (chunks[-1][0], chunks[-1][1] + written)
        read = now
    return chunks


def check_first_read(num_read: int) -> None:
    """Raise a ValueError if g(1) is 0, so that the first chunk has no source."""
    if num_read == 0:
        raise ValueError("A chunk begins with source, but g(1) is 0; expected at least 1.")


def join_chunks(
    source_chunks: Sequence[str], target_chunks: Sequence[str], *, source_units: str, target_units: str
) -> tuple[str, str, list[int]]:
    """Return source, target and g(1..T) of chunk pairs; a unit never spans two chunks.

    Raises:
        ValueError: if the numbers of chunks differ, or a chunk is empty.
    """
    if len(source_chunks) != len(target_chunks):
        raise ValueError(
            f"{len(source_chunks)} source chunks, but {len(target_chunks)} target chunks; they must come in pairs."
        )
    source, target, schedule = [], [], []
    for number, (left, right) in enumerate(zip(source_chunks, target_chunks, strict=True), start=1):
        read, written = split_units(left, source_units), split_units(right, target_units)
        if is_blank(left) or is_blank(right):
            raise ValueError(f"Chunk {number} is empty: source {left!r}, target {right!r}.")
        source += read
        target += written
        schedule += [len(source)] * len(written)
    return join_units(source, source_units), join_units(target, target_units), schedule
