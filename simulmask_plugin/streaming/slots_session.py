"""Streaming of the layout ``slots``: rows have the places that the planner of training gives them."""

from __future__ import annotations

from torch import Tensor

from simulmask_plugin.attention.mask import PADDING
from simulmask_plugin.layouts.slots import Slots, place_order
from simulmask_plugin.streaming.lane import ALL, FedRow, Steps
from simulmask_plugin.streaming.unit_session import StreamingSession


class SlotsSession(StreamingSession):
    """A `StreamingSession` whose source is in slots (ExPosST).

    Source gets its place when the policy first shows it to a row, and not when it arrives: on that depends which slot
    it belongs to. Where it opens a segment, the last target token's row stays as it is, with g of its own unit, and the
    next unit is predicted from the new segment's header. In the trace that row has the kind "header".
    """

    def __post_init__(self) -> None:
        """Queue the prompt, and start planning after it."""
        super().__post_init__()
        layout = self.encoder.settings.config.layout
        assert isinstance(layout, Slots)
        self._planner = layout.planner(
            num_prompt=len(self._prompt),
            num_header=len(self._header),
            num_next_header=len(self._next_header),
        )
        self._units: list[list[int]] = []  # the source that has arrived
        self._num_released = 0  # units of it that have a place
        self._positions: list[int] = []  # of the target tokens
        self._unit_read = 0  # g of the unit written last
        self._at_header = True  # the anchor is the header of a segment without output
        self._closing: list[FedRow] = []  # the last row of the segment before, where it is to be fed again

    def _take(self, ids: list[int]) -> None:
        self._units.append(ids)

    def _release(self, num_read: int) -> None:
        """Give the units below num_read their places; one that does not fit opens a slot, perhaps a segment."""
        for unit in range(self._num_released, num_read):
            start, opens = self._planner.read(len(self._units[unit]))
            if opens:
                self._open_segment(start - len(self._next_header))
            self._queue(self._units[unit], start, unit)
        self._num_released = max(self._num_released, num_read)

    def _release_beside_output(self, num_read: int) -> bool:
        num_tokens = sum(map(len, self._units[self._num_released : num_read]))
        fits = self._planner.fits(num_tokens)
        if fits:
            self._release(num_read)
        return fits

    def _open_segment(self, start: int) -> None:
        """Close the segment before; the next header starts at this position."""
        if self._logits is None:  # the last row is not in the cache
            self._closing = [self._kept(len(self.target_ids) - 1, self._unit_read)]
        self._queue(self._next_header, start, -1)
        self._anchor, self._at_header, self._logits = self._header, True, None

    def _queue(self, ids: list[int], start: int, source_unit: int) -> None:
        for position, token in enumerate(ids, start):
            self._pending.append(FedRow(token, place_order(position), source_unit, ALL, position))

    def _predict_unit(self, own: int) -> Steps[Tensor]:
        """Feed the anchor's kept rows, and before them the row that closes a segment."""
        last = len(self.target_ids) - 1
        if self._at_header:
            places = enumerate(self._header, self._planner.header_start)
            rows = [FedRow(token, place_order(position), -1, own, position) for position, token in places]
        else:
            rows = [self._kept(last, own)]
        closing, self._closing = self._closing, []
        logits = yield from self._feed([*closing, *rows], self._with_fewer(last, own))
        if closing:
            self._record(last, "kept", logits=logits[0])
        self._record(last, "header" if self._at_header and self.target_ids else "kept", logits=logits[-1])
        return logits[-1]

    def _write_unit(self, token: int, own: int) -> Steps[list[int]]:
        self._unit_read = own
        return super()._write_unit(token, own)

    def _append(self, token: int) -> None:
        super()._append(token)
        self._positions.append(self._planner.write())
        self._at_header = False

    def _kept(self, index: int, num_read: int) -> FedRow:
        position = self._positions[index]
        return FedRow(self.target_ids[index], place_order(position), -1, num_read, position)

    def _with_fewer(self, index: int, num_read: int) -> list[FedRow]:
        rows = super()._with_fewer(index, num_read) if not self._at_header else []
        seen = num_read - self.policy.fewer
        if self._at_header and self.policy.fewer and seen > 0:
            place = self._planner.header_start + len(self._header) - 1
            rows = [FedRow(self._header[-1], place_order(place, kept=False), PADDING, seen, place)]
        return rows

    def _look_ahead(self, index: int, num_read: int) -> FedRow:
        position = self._positions[index]
        return FedRow(self.target_ids[index], place_order(position, kept=False), PADDING, num_read, position)
