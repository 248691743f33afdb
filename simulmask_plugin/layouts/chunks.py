"""Layouts of chunks: prompt | source chunk | read end | target chunk | write end | source chunk ... | end of sentence.

``interleaved`` (EAST, https://arxiv.org/abs/2504.09570, section 3): read end and write end are special tokens, and the
model predicts both. ``turns`` (conversational prompting, https://arxiv.org/abs/2402.10552): they are headers of chat
turns; a policy reads, and only the first token of the write end is predicted. Both are plain causal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from simulmask_plugin.files.texts import is_blank
from simulmask_plugin.layouts.base import (
    IGNORE_INDEX,
    Example,
    Flags,
    Layout,
    RunOptions,
    SequenceLayout,
    num_increases,
)
from simulmask_plugin.layouts.conventions import Convention
from simulmask_plugin.options import MOST_AT_ONCE, Must, between, choices_of
from simulmask_plugin.policies import ModelDriven, Policy, ReadSchedule
from simulmask_plugin.text.prompts import INTERLEAVED_INSTRUCTION, READ_END, WRITE_END, Prompt, interleaved_prompt
from simulmask_plugin.text.units import TOKEN, NotEncodable, Tokenizer, join_units, split_units

if TYPE_CHECKING:
    from simulmask_plugin.config.block import SimulMaskConfig as Block

NOT_READ_END = -101
"""Label of a row at the end of a source unit whose chunk goes on: every token but the read end is right (losses.py)."""


def chunks_of(schedule: ReadSchedule) -> list[tuple[int, int]]:
    """Return (source units, target units) of each chunk.

    What is read only for the end of sentence is a last chunk, whose target is empty.

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


@dataclass(frozen=True, kw_only=True)
class ChunksRun(RunOptions):
    """A WRITE may be searched for."""

    beam_width: Annotated[int, between(1, MOST_AT_ONCE)] | None = None
    """layouts of chunks: hypotheses of the search inside a WRITE; None: 1, greedy."""


@dataclass(frozen=True, kw_only=True)
class Chunks(Layout):
    """What `Interleaved` and `Turns` share: plain causal text, with the positions of plain fine-tuning."""

    in_chunks = True
    run_options = ChunksRun
    predicts_ends: ClassVar[bool] = False
    """Whether the model predicts read end and write end."""

    positions: Literal["contiguous"] = "contiguous"

    @property
    def labelled(self) -> str:
        """What carries labels: the target, with the answer the read ends, too, or all tokens after the prompt."""
        return "target"

    def check(self, block: Block) -> None:
        """Chunks are cut between words or characters."""
        super().check(block)
        if TOKEN in (block.source_units, block.target_units):
            raise ValueError(
                f"simulmask.layout: {self.name} cuts between words or characters; units: token is neither."
            )

    def check_schedule(self, num_read: Sequence[int]) -> None:
        """The first chunk needs source."""
        if num_read:
            check_first_read(num_read[0])

    def lay_out(
        self, example: Example, schedule: ReadSchedule, convention: Convention, look_ahead: Flags | None = None
    ) -> SequenceLayout:
        """Lay an example out in chunks, a new one wherever g increases; every row sees everything before it.

        x1 x2 | y, then x3 | z, in the layout ``interleaved`` with the loss on the target::

            token        P  x1  x2  R   y  W  x3  R   z  W  E
            source_unit -1   0   1 -1  -1 -1   2 -1  -1 -1 -1
            labels       .   .  !R  R   y  W   .  R   z  W  E      !R: NOT_READ_END, x1 does not end the chunk
        """
        chunks, num_tokens, ids = chunks_of(schedule), len(example.input_ids), example.all_ids
        source = np.cumsum([example.num_prompt, *example.source_lengths]).tolist()
        target = np.cumsum([example.source_end + example.num_header, *example.target_lengths]).tolist()
        text, opening, read, written = [*range(example.num_prompt)], [], 0, 0
        for number, (num_read, num_written) in enumerate(chunks, start=1):
            opening.append(source[read])
            text += range(source[read], source[read + num_read])
            text += range(example.source_end, target[0])
            text += range(target[written], target[written + num_written])
            if self.predicts_ends or number < len(chunks):
                text += range(-len(example.next_header), 0)
            read, written = read + num_read, written + num_written
        token = np.array([*text, target[-1]])

        labels = np.full(len(ids), IGNORE_INDEX)
        if self.predicts_ends:
            labels[source[:-1]] = NOT_READ_END
            labels[opening] = IGNORE_INDEX
        first = {"target": target[0], "answer": example.source_end, "all": example.num_prompt}[self.labelled]
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

    def longest(self, example: Example, schedules: Iterable[ReadSchedule], convention: Convention) -> int:
        """With the headers of all chunks."""
        next_header = len(example.next_header)
        last_end = next_header if self.predicts_ends else 0
        most = max(map(num_increases, schedules))
        return len(example.input_ids) + most * (example.num_header + next_header) + last_end

    def session(self, run: RunOptions) -> Callable[..., Any]:
        """A session that writes chunks."""
        from simulmask_plugin.streaming.chunk_session import ChunkedSession

        assert isinstance(run, ChunksRun)
        return partial(ChunkedSession, beam_width=run.beam_width or 1)


@dataclass(frozen=True, kw_only=True)
class Turns(Chunks):
    """The layout ``turns``: a conversation, in which a policy reads."""

    name = "turns"
    has_next_header = True

    def check_target(self, target: Sequence[Sequence[int]], next_header: Sequence[int], tokenizer: Tokenizer) -> None:
        """A WRITE ends with the first token of the next header."""
        if any(next_header[0] in ids for ids in target):
            piece = tokenizer.convert_ids_to_tokens(next_header[:1])[0]
            raise NotEncodable(
                f"The target holds the token {piece!r}, with which next_header begins: a session would end its WRITE "
                "there; choose another next_header."
            )


@dataclass(frozen=True, kw_only=True)
class Interleaved(Chunks):
    """The layout ``interleaved`` (EAST): the model decides."""

    name = "interleaved"
    special_tokens = (READ_END, WRITE_END)
    policy = ModelDriven
    names_latency = True
    instruction = INTERLEAVED_INSTRUCTION
    predicts_ends = True

    loss_on: Literal["all", "target"] = "all"
    """interleaved: all (tokens after the prompt, as published), or target (and both special tokens)."""
    special_token_weight: Annotated[float, Must("be a number above 0", lambda weight: weight > 0)] = 1.0
    """interleaved: weight of the two special tokens in the loss."""

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is another than the cross entropy of the labels."""
        return self.loss_on == "target" or self.special_token_weight != 1

    def prompt(self, prompt: Prompt, *, of_template: bool = False) -> Prompt:
        """All that follows the prompt is the answer."""
        return interleaved_prompt(prompt)

    def streamed_policy(self, policy: Policy) -> Policy:
        """Where the source has no loss, other tokens mean nothing, and P(end of read) is asked for 1/2."""
        assert isinstance(policy, ModelDriven)
        is_open = policy.read_threshold is None and self.loss_on == "target"
        return replace(policy, read_threshold=0.5) if is_open else policy

    @property
    def labelled(self) -> str:
        """By the key."""
        return "all" if self.loss_on == "all" else "answer"

    def variants(self, *, alibi: bool) -> Iterator[dict[str, Any]]:
        """Yield both losses."""
        for loss_on in choices_of(type(self), "loss_on"):
            yield {"loss_on": loss_on}
