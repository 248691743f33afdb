"""Streaming unit by unit: the policy shows source to the rows of each target unit; the cache is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simulmask_plugin.attention.mask import PADDING
from simulmask_plugin.layouts.pairs import PrefixPairs
from simulmask_plugin.layouts.prefix import TARGET_ORDER, TextLayout
from simulmask_plugin.policies import Action, decide
from simulmask_plugin.streaming.decoding import Chooser
from simulmask_plugin.streaming.lane import ALL, SOURCE_UNIT, FedRow, Steps
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.text.units import TOKEN


@dataclass(kw_only=True)
class StreamingSession(Session):
    """Simultaneous greedy decoding of one sentence, a target unit per WRITE.

    An end of sentence that is predicted before the row has seen the whole source means READ, and so does a policy that
    does not accept what the row predicts: the row is taken back, and shown one unit more.

    Args:
        max_unit_tokens: a unit is complete when it has so many.
        choose: picks a token from logits; None is greedy.
        trace: receives (target token index, "kept" or "look_ahead", logits) of a row; the header's last token has -1.
    """

    max_unit_tokens: int = 48
    choose: Callable[[Tensor, int, bool], int] | None = None

    _visible: list[int] = field(default_factory=lambda: [0], init=False)  # source tokens of the first i units
    _anchor: list[int] = field(default_factory=list, init=False)  # tokens whose kept rows predict the next unit
    _logits: Tensor | None = field(default=None, init=False)  # what they predict, once they have been fed
    _chosen_from: Tensor | None = field(default=None, init=False)  # the logits that a token was chosen from last
    _fewer: Tensor | None = field(default=None, init=False)  # what they predict with `Policy.fewer` units less
    _attention: Tensor | None = field(default=None, init=False)  # what they pay to each source unit
    _least_read: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Queue the prompt."""
        super().__post_init__()
        self._pending = [FedRow(token, i, -1, ALL, i) for i, token in enumerate(self._prompt)]
        self._anchor = list(self._header)
        self.choose = self.choose or Chooser(self.encoder, self.target_ids)

    # READ

    def _take(self, ids: list[int]) -> None:
        """Queue a source unit after the last one."""
        start = len(self._prompt) + self._visible[-1]
        for place, token in enumerate(ids, start=start):
            self._pending.append(FedRow(token, place, self.num_read, ALL, place))
        self._visible.append(self._visible[-1] + len(ids))

    def _release(self, num_read: int) -> None:
        """Called before rows are fed that see so many units; all that have been taken are queued already."""

    def _release_beside_output(self, num_read: int) -> bool:
        """The same while a unit is being written; False if these units can only follow its last token."""
        return True

    def deciding(self) -> Steps[Action]:
        """By the number of units that are wanted; the model has its say in `writing`."""
        yield from ()
        return decide(self._wanted(self.num_written + 1), self.num_read, self.source_finished)

    # WRITE

    def _writing(self) -> Steps[str | None]:
        if len(self.target_ids) >= self.max_target_tokens:
            self.finished = self.truncated = True
            return None
        own = self._reads(self.num_written + 1)
        self._release(own)
        if self._logits is None:
            self._logits = yield from self._predict_unit(own)
        token = self._choose(self._logits, opening=True)
        is_end = token == self.encoder.tokenizer.eos_token_id
        sees_all = self.source_finished and own == self.num_read
        if not sees_all and (is_end or not self._accepts_unit(own, self._logits)):
            self._read_first(own)
            return None
        if is_end:
            self.finished = True
            return None
        unit = yield from self._write_unit(token, own)
        self.num_written += 1
        return self.encoder.target.text(unit)

    def _accepts_unit(self, own: int, logits: Tensor) -> bool:
        t = self.num_written + 1
        return self._accepts(own, t, logits, fewer=self._fewer, attention=self._attention)

    def _read_first(self, own: int) -> None:
        """Take the anchor's rows back; they are fed again once they may see one unit more."""
        self._least_read = own + 1
        self.lane.crop(self.lane.num_keys - len(self._anchor))
        self._logits = None

    def _predict_unit(self, own: int) -> Steps[Tensor]:
        """Feed the anchor's kept rows; return what the last of them predicts, the next unit's first token."""
        end = len(self.target_ids)  # a header's rows have negative indices
        rows = [self._kept(i, own) for i in range(end - len(self._anchor), end)]
        logits = (yield from self._feed(rows, self._with_fewer(end - 1, own)))[-1]
        self._record(end - 1, "kept", logits=logits)
        return logits

    def _feed(self, rows: list[FedRow], fewer: list[FedRow]) -> Steps[Tensor]:
        """Feed rows, and one that sees fewer units if the policy looks at that; it is not kept."""
        logits = yield self._request(*rows, *fewer)
        self._fewer = logits[-1] if fewer else None
        self._attention = self._to_source(len(rows) - 1) if self.policy.needs_heads else None
        self.lane.crop(self.lane.num_keys - len(fewer))
        return logits[: len(logits) - len(fewer)]

    def _to_source(self, row: int) -> Tensor:
        """What a row of the last call pays to each source unit that was read, a mean over the heads."""
        assert self.lane.attention is not None
        weights = self.lane.attention[:, row].mean(dim=0)
        units = torch.from_numpy(self.lane.keys[SOURCE_UNIT, : len(weights)]).to(weights.device)
        is_source = (units >= 0) & (units < self.num_read)
        return weights.new_zeros(self.num_read).index_add_(0, units[is_source], weights[is_source])

    def _with_fewer(self, index: int, num_read: int) -> list[FedRow]:
        """The row of a token with fewer units than these; none if the policy does not ask, or no unit would be left."""
        seen = num_read - self.policy.fewer
        return [self._look_ahead(index, seen)] if self.policy.fewer and seen > 0 else []

    def _write_unit(self, token: int, own: int) -> Steps[list[int]]:
        """Feed the unit's tokens until the next one belongs to another unit; leave the anchor for that one."""
        unit: list[int] = []
        following = self._reads_if_available(self.num_written + 2)
        waits = self.encoder.settings.config.convention.last_waits
        while True:
            unit.append(token)
            self._append(token)
            index = len(self.target_ids) - 1
            if self.encoder.target.unit == TOKEN and waits:
                self._logits = None  # complete by definition: its only row is fed when g(t + 1) has been read
                return unit
            pair = waits and following is not None and following > own and self._release_beside_output(following)
            feed, fewer = [self._kept(index, own)], []
            if pair and following is not None:
                feed = [self._look_ahead(index, own), self._kept(index, following)]
                fewer = self._with_fewer(index, following)
            elif following == own or not waits:
                fewer = self._with_fewer(index, own)
            logits = yield from self._feed(feed, fewer)
            next_token = self._choose(logits[0], opening=False)
            if not self._is_complete(unit, next_token):
                if pair:
                    self._keep_look_ahead()
                self._record(index, "kept", logits=logits[0])
                token = next_token
                continue
            stays = not waits or following == own
            self._record(index, "kept" if stays else "look_ahead", logits=logits[0])
            if not stays:
                self.lane.drop(self.lane.num_keys - len(feed))
            if pair:
                self._record(index, "kept", logits=logits[1])
            self._logits = logits[-1] if stays or pair else None
            return unit

    def _choose(self, logits: Tensor, opening: bool) -> int:
        assert self.choose is not None
        self._chosen_from = logits
        return self.choose(logits, len(self.target_ids), opening)

    def _append(self, token: int) -> None:
        """Take the token that was chosen last into the target; its row is to be fed."""
        assert self._chosen_from is not None
        self._wrote(token, self._chosen_from)
        self.target_ids.append(token)
        self.counters.written_tokens += 1
        self._anchor = [token]

    def _is_complete(self, unit: list[int], next_token: int) -> bool:
        guard = len(unit) >= self.max_unit_tokens or len(self.target_ids) >= self.max_target_tokens
        return guard or self.encoder.target.ends_unit(unit, next_token)

    def _wanted(self, t: int) -> int | float:
        """What the policy wants before target unit t, or more after an end of sentence that came too early."""
        return max(self.policy.wanted(t), self._least_read)

    def _reads(self, t: int) -> int:
        """g(t), with all units known that it needs."""
        return int(min(self._wanted(t), self.num_read))

    def _reads_if_available(self, t: int) -> int | None:
        return self._reads(t) if self._wanted(t) <= self.num_read or self.source_finished else None

    # Rows

    def _row(self, index: int, num_read: int, order: int, source_unit: int) -> FedRow:
        """A header (index < 0) or target token, at the position that it has in training."""
        layout = self.encoder.settings.config.layout
        assert isinstance(layout, TextLayout | PrefixPairs)
        start, hidden = layout.scheme.behind_source(None, self._visible[num_read])
        position = len(self._prompt) + start + len(self._header) + index
        token = self.target_ids[index] if index >= 0 else self._anchor[index]
        return FedRow(token, order, source_unit, num_read, position, hidden or 0, True)

    def _kept(self, index: int, num_read: int) -> FedRow:
        return self._row(index, num_read, TARGET_ORDER + 2 * (len(self._header) + index) + 1, -1)

    def _look_ahead(self, index: int, num_read: int) -> FedRow:
        return self._row(index, num_read, TARGET_ORDER + 2 * (len(self._header) + index), PADDING)

    def _keep_look_ahead(self) -> None:
        """The unit goes on: the row with g(t) stays, as an inner token, and the one with g(t + 1) is dropped."""
        self.lane.drop(self.lane.num_keys - 1)
        self.lane.keys[SOURCE_UNIT, self.lane.num_keys - 1] = -1
