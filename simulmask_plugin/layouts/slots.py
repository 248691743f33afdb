"""The layout ``slots`` (ExPosST, https://arxiv.org/abs/2603.14903): source is in slots of reserved positions.

A segment is: next header | slot | header | the target written before the next segment opens. What follows a slot
has its position whether the slot is full or not, so source that is read later moves no target token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from simulmask_plugin.layouts.base import Example, Flags, RunOptions, SequenceLayout, Slot
from simulmask_plugin.layouts.conventions import Convention
from simulmask_plugin.layouts.rows import UnitLayout, lay_out_rows
from simulmask_plugin.options import MOST_TOKENS, between
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.prompts import Prompt


def reserved(num_tokens: int, slot_length: int) -> int:
    """Return the positions of a slot whose first unit has so many tokens."""
    return -(-num_tokens // slot_length) * slot_length


class SlotPlanner:
    """Gives every token its position, in the order of READ and WRITE; training and streaming both drive it.

    A source unit that does not fit into what is left of its slot opens another slot: after the output and a next
    header where the segment has one, else right after its own slot. A slot has ``slot_length`` positions, or, for a
    first unit that is longer, the smallest multiple of it that holds the unit.

    Args:
        num_prompt: tokens before the first slot.
        num_header: tokens between slot and target.
        num_next_header: tokens between target and the next slot.
        slot_length: positions of a slot.
    """

    def __init__(self, *, num_prompt: int, num_header: int, num_next_header: int, slot_length: int) -> None:
        self.num_prompt = num_prompt
        self.num_header = num_header
        self.num_next_header = num_next_header
        self.slot_length = slot_length
        self._source = num_prompt  # position of the next source token
        self._slot_end = num_prompt  # the first slot opens with its first unit, or with what is written before
        self._output: int | None = None  # position of the next target token; None: the segment has no output yet

    @property
    def header_start(self) -> int:
        """Position of the first token after the slot; also where nothing has been read yet."""
        return max(self._slot_end, self.num_prompt + self.slot_length)

    def fits(self, num_tokens: int) -> bool:
        """Whether so many source tokens fit into what is left of the slot."""
        return self._source + num_tokens <= self._slot_end

    def read(self, num_tokens: int) -> tuple[int, bool]:
        """Place a source unit; return the position of its first token, and whether it opens a segment.

        If it does, the next header comes right before it.
        """
        opens = False
        if not self.fits(num_tokens):
            self._source = self._slot_end
            if self._output is not None:
                opens = True
                self._source = self._output + self.num_next_header
                self._output = None
            self._slot_end = self._source + reserved(num_tokens, self.slot_length)
        start = self._source
        self._source += num_tokens
        return start, opens

    def write(self, num_tokens: int = 1) -> int:
        """Place target tokens; return the position of the first. The header precedes the first of a segment."""
        if self._output is None:
            self._slot_end = self.header_start
            self._output = self._slot_end + self.num_header
        self._output += num_tokens
        return self._output - num_tokens


def place_order(position: int, *, kept: bool = True) -> int:
    """Return the place in the training sequence: that of the positions, a look-ahead row before its kept row."""
    return 2 * position + kept


class _Run(NamedTuple):
    """Tokens that follow each other, in the example and in their positions."""

    position: int
    token: int
    length: int


def _plan(example: Example, schedule: ReadSchedule, planner: SlotPlanner) -> tuple[list[_Run], list[int]]:
    """Return the runs of the training sequence, in its order, and the target units that open a segment.

    Tokens are indices into the example; those of a next header are negative and count from its end.
    """
    num_next_header = len(example.next_header)
    runs, opening, num_read = [_Run(0, 0, example.num_prompt)], [], 0
    source, token = example.num_prompt, example.source_end + example.num_header
    source_lengths = example.source_lengths.tolist()
    for t, (wanted, length) in enumerate(zip(schedule.num_read, [*example.target_lengths.tolist(), 1], strict=True)):
        opened = t == 0
        for num_tokens in source_lengths[num_read:wanted]:
            start, opens = planner.read(num_tokens)
            if opens:
                runs.append(_Run(start - num_next_header, -num_next_header, num_next_header))
            runs.append(_Run(start, source, num_tokens))
            opened |= opens
            source += num_tokens
        num_read = wanted
        if opened:
            runs.append(_Run(planner.header_start, example.source_end, example.num_header))
            opening.append(t)
        runs.append(_Run(planner.write(length), token, length))
        token += length
    return sorted(runs), opening


@dataclass(frozen=True, kw_only=True)
class SlotsRun(RunOptions):
    """A study may stream with slots of another length than in training; ExPosST wants the same."""

    slot_length: Annotated[int, between(1, MOST_TOKENS, "tokens")] | None = None
    """slots: positions of a slot, in place of those of training."""


@dataclass(frozen=True, kw_only=True)
class Slots(UnitLayout):
    """The layout ``slots``; source is laid out unit by unit in slots of reserved positions."""

    name = "slots"
    has_next_header = True
    run_options = SlotsRun
    title_keys = ("slot_length", *UnitLayout.title_keys)

    positions: Literal["slots"] = "slots"
    slot_length: Annotated[int, between(1, MOST_TOKENS, "tokens")] = 32
    """slots: positions reserved for the source of a slot, in tokens."""

    def prompt(self, prompt: Prompt, *, of_template: bool = False) -> Prompt:
        """A template's next header loses its trailing spaces: every word but the first brings its own."""
        return replace(prompt, next_header=prompt.next_header.rstrip(" ")) if of_template else prompt

    def streamed_with(self, run: RunOptions) -> Slots:
        """With slots of the run's length."""
        assert isinstance(run, SlotsRun)
        return self if run.slot_length is None else replace(self, slot_length=run.slot_length)

    def planner(self, num_prompt: int, num_header: int, num_next_header: int) -> SlotPlanner:
        """A planner before anything has been read, for a text of these tokens."""
        return SlotPlanner(
            num_prompt=num_prompt,
            num_header=num_header,
            num_next_header=num_next_header,
            slot_length=self.slot_length,
        )

    def _plan(self, example: Example, schedule: ReadSchedule) -> tuple[list[_Run], list[int]]:
        planner = self.planner(example.num_prompt, example.num_header, len(example.next_header))
        return _plan(example, schedule, planner)

    def lay_out(
        self, example: Example, schedule: ReadSchedule, convention: Convention, look_ahead: Flags | None = None
    ) -> SequenceLayout:
        """Lay an example out in segments of a slot and the target that was written before the next one opened.

        wait-2, slot length 3, source a b c d, target p q r, look_ahead (ExPosST, figure 2): c fills the reserved slot
        and moves nothing; d opens a segment (next header N) after p and q, and q has no second row::

            token        P  a  b  c  H p~  p  q  N  d  H  r  E
            position     0  1  2  3  4  5  5  6  7  8 11 12 13
            source_unit -1  0  1  2 -1  4 -1 -1 -1  3 -1 -1 -1
            num_read     4  4  4  4  2  2  3  3  4  4  4  4  4
            labels       .  .  .  .  .  p  q  q  r  .  .  r  E

        Source that the schedule never reads has no place.
        """
        runs, opening = self._plan(example, schedule)
        position, token, length = np.array(runs).T
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        token, position = (np.repeat(first, length) + within for first in (token, position))
        return lay_out_rows(
            example, schedule, convention, look_ahead, token=token, position=position, opening=np.array(opening)
        )

    def longest(self, example: Example, schedules: Iterable[ReadSchedule], convention: Convention) -> int:
        """As the base has it, with all slots full."""
        schedules = list(schedules)
        last = (self._plan(example, schedule)[0][-1].position for schedule in schedules)
        return max(last) + 1 + self.most_look_ahead(schedules, convention)

    def session(self, run: RunOptions) -> Callable[..., Any]:
        """A session that reads into slots."""
        from simulmask_plugin.streaming.slots_session import SlotsSession

        return SlotsSession

    def shows_fewer(self, run: RunOptions) -> bool:
        """Yes: the target has positions of its own."""
        return True

    def orders(self, layout: SequenceLayout) -> list[int]:
        """Twice the position, with a place for a look-ahead row before every kept row after the prompt."""
        return [
            place if place < layout.example.num_prompt else place_order(place, kept=kept)
            for place, kept in zip(layout.position.tolist(), layout.is_kept.tolist(), strict=True)
        ]

    def regions(self, layout: SequenceLayout) -> list[str]:
        """Source is in a slot."""
        return ["slot" if part == "source" else part for part in layout.parts]

    def variants(self, *, alibi: bool) -> Iterator[dict[str, Any]]:
        """All rows, in slots that are short enough for the examples of a matrix to need several."""
        yield from ({**keys, "slot_length": min(16, self.slot_length)} for keys in super().variants(alibi=alibi))

    def slots(self, layout: SequenceLayout) -> list[Slot]:
        """The slots that hold source."""
        lengths, position, slots = layout.example.source_lengths, layout.position, list[Slot]()
        for row in np.flatnonzero((layout.source_unit >= 0) & layout.is_kept).tolist():
            if slots and position[row] < position[slots[-1].first] + slots[-1].reserved:
                slots[-1] = slots[-1]._replace(end=row + 1)
            else:
                slots.append(Slot(row, row + 1, reserved(int(lengths[layout.source_unit[row]]), self.slot_length)))
        return slots

    def describe(self, convention: Convention) -> dict[str, str]:
        """With the length of the slots."""
        return {**super().describe(convention), "layout": f"{self.name}, slots of {self.slot_length} tokens"}
