"""Layouts of chunks: prompt | source chunk | read end | target chunk | write end | source chunk ... | end of sentence.

``interleaved`` (EAST, https://arxiv.org/abs/2504.09570, section 3): read end and write end are special tokens, and the
model predicts both. ``turns`` (conversational prompting, https://arxiv.org/abs/2402.10552): they are headers of chat
turns; a policy reads, and only the first token of the write end is predicted. Both are plain causal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulmask_plugin.files.texts import is_blank
from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, SequenceLayout
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.units import join_units, split_units

NOT_READ_END = -101
"""Label of a row at the end of a source unit whose chunk goes on: every token but the read end is right (losses.py)."""


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
    chunks, num_tokens, ids = chunks_of(schedule), len(example.input_ids), example.all_ids
    source = np.cumsum([example.num_prompt, *example.source_lengths]).tolist()
    target = np.cumsum([example.source_end + example.num_header, *example.target_lengths]).tolist()
    text, opening, read, written = [*range(example.num_prompt)], [], 0, 0
    for number, (num_read, num_written) in enumerate(chunks, start=1):
        opening.append(source[read])
        text += range(source[read], source[read + num_read])
        text += range(example.source_end, target[0])
        text += range(target[written], target[written + num_written])
        if interleaved or number < len(chunks):
            text += range(-len(example.next_header), 0)
        read, written = read + num_read, written + num_written
    token = np.array([*text, target[-1]])

    labels = np.full(len(ids), IGNORE_INDEX)
    if interleaved:
        labels[source[:-1]] = NOT_READ_END
        labels[opening] = IGNORE_INDEX
    first = target[0] if not interleaved else example.num_prompt if loss_on == "all" else example.source_end
    labels[first : num_tokens + 1] = ids[first : num_tokens + 1]  # to the first token of the next header
    return SequenceLayout(
        example=example,
        input_ids=ids[token],
        source_unit=example.source_unit[token],
        num_read=np.full(len(token), len(example.source_lengths)),
        labels=labels[token],
        token=np.maximum(token, -1),
        position=np.arange(len(token)),
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
