"""The layout ``slots`` (ExPosST, https://arxiv.org/abs/2603.14903): source stands in slots of reserved positions.

A segment is: next header | slot | header | the target written before the next segment opens. What stands behind a slot
has its position whether the slot is full or not, so source that is read later moves no target token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, SequenceLayout
from simulmask_plugin.policies import ReadSchedule


def reserved(num_tokens: int, slot_length: int) -> int:
    """Return the positions of a slot whose first unit has so many tokens."""
    return -(-num_tokens // slot_length) * slot_length


class SlotPlanner:
    """Gives every token its position, in the order of READ and WRITE; training and streaming both drive it.

    A source unit that does not fit into what is left of its slot opens another slot: behind the output and a next
    header where the segment has one, else right behind its own slot. A slot has ``slot_length`` positions, or, for a
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
        """Position of the first token behind the slot; also where nothing has been read yet."""
        return max(self._slot_end, self.num_prompt + self.slot_length)

    def fits(self, num_tokens: int) -> bool:
        """Whether so many source tokens fit into what is left of the slot."""
        return self._source + num_tokens <= self._slot_end

    def read(self, num_tokens: int) -> tuple[int, bool]:
        """Place a source unit; return the position of its first token, and whether it opens a segment.

        If it does, the next header stands right before it.
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

    def write(self) -> int:
        """Return the position of one more target token; before the first of a segment stands the header."""
        if self._output is None:
            self._slot_end = self.header_start
            self._output = self._slot_end + self.num_header
        self._output += 1
        return self._output - 1


def planner_of(example: Example, slot_length: int) -> SlotPlanner:
    """Return the planner of an example, before anything has been read."""
    return SlotPlanner(
        num_prompt=example.num_prompt,
        num_header=example.num_header,
        num_next_header=len(example.next_header),
        slot_length=slot_length,
    )


def num_positions(example: Example, schedule: ReadSchedule, slot_length: int) -> int:
    """Return the positions that the example takes, slots that are not full included.

    Without look-ahead rows the layout has at most so many tokens.
    """
    planner = planner_of(example, slot_length)
    source_lengths, num_read, last = example.source_lengths.tolist(), 0, 0
    for wanted, num_tokens in zip(schedule.num_read, [*example.target_lengths.tolist(), 1], strict=True):
        for length in source_lengths[num_read:wanted]:
            planner.read(length)
        num_read = wanted
        for _ in range(num_tokens):
            last = planner.write()
    return last + 1


def place_order(position: int, *, kept: bool = True) -> int:
    """Return the place in the training sequence: that of the positions, a look-ahead row before its kept row."""
    return 2 * position + kept


class _Row(NamedTuple):
    order: int
    token: int
    token_id: int
    source_unit: int
    num_read: int
    predicts: int
    part: str


class _Rows:
    """The rows of an example, added in the order of READ and WRITE; units are 0-based, unit T is the end of sentence.

    Args:
        example: the tokens.
        schedule: g(1..T+1).
        planner: of the example.
        rows: the row convention.
        look_ahead: the units that get their look-ahead row; None for all of them.
    """

    def __init__(
        self, example: Example, schedule: ReadSchedule, planner: SlotPlanner, rows: str, look_ahead: np.ndarray | None
    ) -> None:
        self.example = example
        self.ids = example.input_ids.tolist()
        self.g = schedule.num_read
        self.num_source = schedule.num_source
        self.planner = planner
        self.convention = rows
        self.look_ahead = look_ahead
        self.source_start = np.cumsum([example.num_prompt, *example.source_lengths]).tolist()
        self.header = range(example.source_end, example.source_end + example.num_header)
        self.target_start = np.cumsum([self.header.stop, *example.target_lengths, 1]).tolist()
        self.num_read = 0
        self.last_position = -1
        self.rows: list[_Row] = []

    def add(
        self,
        position: int,
        token: int,
        part: str,
        num_read: int,
        *,
        source_unit: int = -1,
        predicts: int = IGNORE_INDEX,
        kept: bool = True,
    ) -> None:
        """Add the row of a token of the example; a negative ``token`` counts from the end of the next header."""
        token_id = self.ids[token] if token >= 0 else self.example.next_header[token]
        order = place_order(position, kept=kept)
        self.rows.append(_Row(order, max(token, -1), token_id, source_unit, num_read, predicts, part))

    def add_prompt(self) -> None:
        for token in range(self.example.num_prompt):
            self.add(token, token, "prompt", self.num_source)

    def read(self, t: int) -> bool:
        """Add what is read before unit t; return whether it opens a segment."""
        opened = False
        for unit in range(self.num_read, self.g[t]):
            first, end = self.source_start[unit : unit + 2]
            start, opens = self.planner.read(end - first)
            if opens:
                opened = True
                for i in range(-len(self.example.next_header), 0):
                    self.add(start + i, i, "header", self.num_source)
            for position, token in enumerate(range(first, end), start):
                self.add(position, token, "source", self.num_source, source_unit=unit)
        self.num_read = self.g[t]
        return opened

    def add_header(self, t: int) -> None:
        """Add the header whose last token predicts unit t."""
        for position, token in enumerate(self.header, self.planner.header_start):
            predicts = self.ids[self.target_start[t]] if token == self.header[-1] else IGNORE_INDEX
            self.add(position, token, "header", self.g[t], predicts=predicts)

    def write(self, t: int) -> None:
        """Add the tokens of unit t but the last, whose rows depend on what is read next; nothing follows the end."""
        first, end = self.target_start[t : t + 2]
        positions = [self.planner.write() for _ in range(first, end)]
        if t == len(self.g) - 1:
            self.add(positions[0], first, "target", self.g[t])
            return
        sees = self.g[t + 1] if self.convention == "query_unit" else self.g[t]
        for token, position in enumerate(positions[:-1], first):
            self.add(position, token, "target", sees, predicts=self.ids[token + 1])
        self.last_position = positions[-1]

    def end_unit(self, t: int, ends_segment: bool) -> None:
        """Add the last token of unit t, just written: one row or a look-ahead pair."""
        own, following = self.g[t : t + 2]
        token = self.target_start[t + 1] - 1
        predicts = self.ids[token + 1]
        wanted = self.convention == "look_ahead" and (self.look_ahead is None or bool(self.look_ahead[t]))
        if wanted and own < following and not ends_segment:
            self.add(
                self.last_position, token, "target", own, source_unit=self.num_source, predicts=predicts, kept=False
            )
        sees = own if ends_segment or self.convention == "own_unit" else following
        self.add(self.last_position, token, "target", sees, predicts=predicts)

    def layout(self) -> SequenceLayout:
        """The rows in the order of the training sequence."""
        order, token, token_id, source_unit, num_read, predicts, part = zip(*sorted(self.rows), strict=True)
        return SequenceLayout(
            input_ids=np.asarray(token_id),
            source_unit=np.asarray(source_unit),
            num_read=np.asarray(num_read),
            labels=np.asarray([IGNORE_INDEX, *predicts[:-1]]),
            token=np.asarray(token),
            num_hidden=np.zeros(len(order), dtype=int),
            example=self.example,
            parts=part,
            position=np.asarray(order) // 2,
        )


def slots_layout(
    example: Example,
    schedule: ReadSchedule,
    *,
    rows: str,
    slot_length: int,
    look_ahead: Bool[np.ndarray, " target_units"] | None = None,
) -> SequenceLayout:
    """Lay an example out in segments of a slot and the target that was written before the next one opened.

    wait-2, slot length 3, source a b c d, target p q r, look_ahead (ExPosST, figure 2): c fills the reserved slot and
    moves nothing; d opens a segment (next header N) behind p and q, and q has no second row::

        token        P  a  b  c  H p~  p  q  N  d  H  r  E
        position     0  1  2  3  4  5  5  6  7  8 11 12 13
        source_unit -1  0  1  2 -1  4 -1 -1 -1  3 -1 -1 -1
        num_read     4  4  4  4  2  2  3  3  4  4  4  4  4
        labels       .  .  .  .  .  p  q  q  r  .  .  r  E

    Rows are those of `prefix_layout`, except for the last token of a segment: it has one
    row, which sees g of its own unit, is kept, and predicts the next token as the new segment's header does. Source
    that the schedule never reads has no place.

    Args:
        example: the tokens.
        schedule: g(1..T+1) over the example's units.
        rows: the row convention.
        slot_length: positions of a slot, in tokens.
        look_ahead: for ``look_ahead``, the units that get their look-ahead row; None for all of them.
    """
    out = _Rows(example, schedule, planner_of(example, slot_length), rows, look_ahead)
    out.add_prompt()
    for t in range(schedule.num_target + 1):
        opened = out.read(t)
        if t:
            out.end_unit(t - 1, opened)
        if opened or not t:
            out.add_header(t)
        out.write(t)
    return out.layout()


class Slot(NamedTuple):
    """The source of one slot in a layout.

    Attributes:
        first: index of its first token.
        end: index behind its last token.
        reserved: positions of the slot, filled or not.
    """

    first: int
    end: int
    reserved: int


def slots_of(layout: SequenceLayout, slot_length: int) -> list[Slot]:
    """Return the slots of a layout that hold source, in the order of the sequence."""
    assert layout.position is not None, "only the layout slots has slots"
    lengths = layout.example.source_lengths
    slots: list[Slot] = []
    for row in np.flatnonzero((layout.source_unit >= 0) & (layout.source_unit < len(lengths))).tolist():
        if slots and layout.position[row] < layout.position[slots[-1].first] + slots[-1].reserved:
            slots[-1] = slots[-1]._replace(end=row + 1)
        else:
            slots.append(Slot(row, row + 1, reserved(int(lengths[layout.source_unit[row]]), slot_length)))
    return slots
