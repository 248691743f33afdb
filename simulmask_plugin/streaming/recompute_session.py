"""The baseline without a mask: a plain causal model, whose target is computed anew whenever source has arrived."""

from __future__ import annotations

from torch import Tensor

from simulmask_plugin.streaming.lane import ALL, FedRow, Steps
from simulmask_plugin.streaming.unit_session import StreamingSession


class RecomputeSession(StreamingSession):
    """A `StreamingSession` of a model that was fine-tuned on whole sentences.

    What every prediction sees is the plain causal text [prompt | source so far | header | target so far] at the
    positions 0..n-1, source so far being g(t) units. Its output is that of encoding this text from scratch, but
    prompt and source, which do not depend on what follows, stay in the cache; header and target are taken back and fed
    again after each source that arrives. The counters hold what was fed again, too.
    """

    def __post_init__(self) -> None:
        """Queue the prompt; the source waits until a row may see it."""
        super().__post_init__()
        self._units: list[list[int]] = []  # the source that has arrived
        self._num_released = 0  # units of it that precede the target
        self._source_end = len(self._prompt)

    def _take(self, ids: list[int]) -> None:
        self._units.append(ids)

    def _release(self, num_read: int) -> None:
        """Put the units below num_read in place of header and target, which follow them again."""
        if num_read == self._num_released:
            return
        self.lane.crop(self._source_end)
        self._logits = None
        for unit in self._units[self._num_released : num_read]:
            self._pending += [_plain_row(token, place) for place, token in enumerate(unit, self._source_end)]
            self._source_end += len(unit)
        self._num_released = num_read

    def _predict_unit(self, own: int) -> Steps[Tensor]:
        """Feed what the cache lacks of header and target; return what the last row predicts."""
        text = self._header + self.target_ids
        start = max(0, self.lane.num_keys - self._source_end)
        *fed_again, last = (_plain_row(token, self._source_end + i) for i, token in enumerate(text[start:], start))
        self._pending += fed_again  # only the last row predicts
        logits = (yield self._request(last))[-1]
        self._record(len(self.target_ids) - 1, "kept", logits=logits)
        return logits

    def _write_unit(self, token: int, own: int) -> Steps[list[int]]:
        """Feed the unit's tokens until the next one belongs to another unit."""
        unit: list[int] = []
        while True:
            unit.append(token)
            self._append(token)
            self._logits = yield from self._predict_unit(own)
            token = self._choose(self._logits, opening=False)
            if self._is_complete(unit, token):
                return unit


def _plain_row(token: int, place: int) -> FedRow:
    """A token of plain causal text."""
    return FedRow(token, place, -1, ALL, place)
