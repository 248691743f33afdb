"""The streaming session: READ appends source to the cache, WRITE appends target; nothing is ever recomputed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.attention.mask import PADDING
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.layouts.pairs import PrefixPairs
from simulmask_plugin.layouts.prefix import TARGET_ORDER, Prefix
from simulmask_plugin.policies import Action, Policy, decide
from simulmask_plugin.streaming.decoding import Chooser
from simulmask_plugin.streaming.feeder import ALL, SOURCE_UNIT, Counters, FedRow, Feeder
from simulmask_plugin.text.units import TOKEN

Choose = Callable[[Tensor, int, bool], int]
TokenTrace = Callable[[int, str, Tensor], None]


@dataclass(slots=True)
class StreamingSession:
    """Simultaneous greedy decoding of one sentence with a kept cache.

    The integers of every token are those of its training layout, so that the logits are those of training, too.
    A typical loop::

        while not session.finished:
            if session.action() is Action.READ:
                session.read(next_word)      # and session.finish_source() with the last one
            else:
                text = session.write()

    Args:
        model: a causal language model in evaluation mode.
        encoder: tokenizer and settings, see :class:`~simulmask_plugin.batches.features.ExampleEncoder`.
        policy: decides READ or WRITE; may be another one than in training.
        source_lang: for the prompt; None: that of the only pair that was trained, see `ModelSettings.pair`.
        target_lang: the same for the target.
        max_target_tokens: the session ends when it has written so many.
        max_unit_tokens: a unit is complete when it has so many.
        choose: picks a token from logits; None is greedy.
        trace: receives (target token index, "kept" or "look_ahead", logits) of every row that predicts; the header's
            last token has index -1.
    """

    model: PreTrainedModel
    encoder: ExampleEncoder
    policy: Policy
    source_lang: str | None = None
    target_lang: str | None = None
    max_target_tokens: int = 512
    max_unit_tokens: int = 48
    choose: Choose | None = None
    trace: TokenTrace | None = None

    num_read: int = field(default=0, init=False)
    num_written: int = field(default=0, init=False)
    source_finished: bool = field(default=False, init=False)
    finished: bool = field(default=False, init=False)
    truncated: bool = field(default=False, init=False)
    target_ids: list[int] = field(default_factory=list, init=False)

    feeder: Feeder = field(init=False)
    _last_read: str = field(default="", init=False)
    _pending: list[FedRow] = field(default_factory=list, init=False)
    _visible: list[int] = field(default_factory=lambda: [0], init=False)  # source tokens of the first i units
    _anchor: list[int] = field(default_factory=list, init=False)  # tokens whose kept rows predict the next unit
    _logits: Tensor | None = field(default=None, init=False)  # what they predict, once they have been fed
    _least_read: int = field(default=0, init=False)
    _num_prompt: int = field(init=False)
    _num_header: int = field(init=False)

    def __post_init__(self) -> None:
        """Queue the prompt; the model is first called when something has to be predicted."""
        self.feeder = Feeder(self.model)
        before, header, _ = self.encoder.frame(self.source_lang, self.target_lang)
        self._num_prompt, self._num_header = len(before), len(header)
        self._pending = [FedRow(token, i, -1, ALL, i, 0, False) for i, token in enumerate(before)]
        self._anchor = list(header)
        if self.choose is None:
            self.choose = Chooser(self.encoder, self.target_ids)

    # READ

    def read(self, text: str) -> None:
        """Take one more word or character of the source; it reaches the model with the next WRITE.

        Raises:
            ValueError: if the source has been declared finished.
        """
        if self.source_finished:
            raise ValueError(f"The source is finished, but {text!r} was read; start a new session per sentence.")
        for ids in self.encoder.source_units(text, before=self._last_read):
            self._take(ids)
            self.num_read += 1
            self._last_read = text

    def _take(self, ids: list[int]) -> None:
        """Queue a source unit behind the last one."""
        start = self._num_prompt + self._visible[-1]
        for place, token in enumerate(ids, start=start):
            self._pending.append(FedRow(token, place, self.num_read, ALL, place, 0, False))
        self._visible.append(self._visible[-1] + len(ids))

    def _release(self, num_read: int) -> None:
        """Called before rows are fed that see so many units; all that have been taken are queued already."""

    def _release_beside_output(self, num_read: int) -> bool:
        """Likewise, while a unit is being written; False if these units can only stand behind its last token."""
        return True

    def finish_source(self) -> None:
        """Declare that no more source will come."""
        self.source_finished = True

    def action(self) -> Action:
        """READ or WRITE, by the policy; an end of sentence predicted before the source has ended means READ."""
        return decide(self._wanted(self.num_written + 1), self.num_read, self.source_finished)

    # WRITE

    def write(self) -> str | None:
        """Write one target unit; None if the model wants to READ instead, or has ended the sentence."""
        if self.finished:
            raise ValueError("The session is finished; start a new one per sentence.")
        if len(self.target_ids) >= self.max_target_tokens:
            self.finished = self.truncated = True
            return None
        own = self._reads(self.num_written + 1)
        self._release(own)
        if self._logits is None:
            self._logits = self._predict_unit(own)
        token = self._choose(self._logits, opening=True)
        if token == self.encoder.tokenizer.eos_token_id:
            self._end_of_sentence(own)
            return None
        unit = self._write_unit(token, own)
        self.num_written += 1
        return self.encoder.target.text(unit)

    def _predict_unit(self, own: int) -> Tensor:
        """Feed the anchor's kept rows; return what the last of them predicts, the next unit's first token."""
        logits = self._feed([self._kept(i, own) for i in self._anchor_indices()])[-1]
        self._record(len(self.target_ids) - 1, "kept", logits)
        return logits

    def _end_of_sentence(self, own: int) -> None:
        """Stop if the row saw the whole source; else it means READ: take the row back and show it one unit more."""
        if self.source_finished and own == self.num_read:
            self.finished = True
            return
        self._least_read = own + 1
        self._rewind(len(self._anchor))

    def _write_unit(self, token: int, own: int) -> list[int]:
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
            feed = [self._look_ahead(index, own) if pair else self._kept(index, own)]
            if pair:
                assert following is not None
                feed.append(self._kept(index, following))
            logits = self._feed(feed)
            next_token = self._choose(logits[0], opening=False)
            if not self._is_complete(unit, next_token):
                if pair:
                    self._keep_look_ahead()
                self._record(index, "kept", logits[0])
                token = next_token
                continue
            if not waits or following == own:
                self._logits = logits[0]
                self._record(index, "kept", logits[0])
            else:
                self._record(index, "look_ahead", logits[0])
                self.feeder.drop(self.feeder.num_keys - len(feed))
                self._logits = logits[1] if pair else None
                if pair:
                    self._record(index, "kept", logits[1])
            return unit

    def _append(self, token: int) -> None:
        """Take a token into the target; its row is to be fed."""
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

    def _anchor_indices(self) -> list[int]:
        """Target token indices of the anchor; the header's are negative."""
        end = len(self.target_ids)
        return list(range(end - len(self._anchor), end))

    def _row(self, index: int, num_read: int, order: int, source_unit: int) -> FedRow:
        """A header (index < 0) or target token, at the position that it has in training."""
        layout = self.encoder.settings.config.layout
        assert isinstance(layout, Prefix | PrefixPairs)
        start, hidden = layout.scheme.behind_source(None, self._visible[num_read])
        position = self._num_prompt + start + self._num_header + index
        token = self.target_ids[index] if index >= 0 else self._anchor[index]
        return FedRow(token, order, source_unit, num_read, position, hidden or 0, True)

    def _kept(self, index: int, num_read: int) -> FedRow:
        return self._row(index, num_read, TARGET_ORDER + 2 * (self._num_header + index) + 1, -1)

    def _look_ahead(self, index: int, num_read: int) -> FedRow:
        return self._row(index, num_read, TARGET_ORDER + 2 * (self._num_header + index), PADDING)

    # The model

    def _feed(self, rows: list[FedRow]) -> Tensor:
        """Feed what is pending and these rows in one call; return the logits of these rows."""
        batch, self._pending = [*self._pending, *rows], []
        return self.feeder.feed(batch, num_predicting=len(rows))

    @property
    def counters(self) -> Counters:
        """What the session has cost."""
        return self.feeder.counters

    def _choose(self, logits: Tensor, opening: bool) -> int:
        assert self.choose is not None
        return self.choose(logits, len(self.target_ids), opening)

    def _record(self, index: int, kind: str, logits: Tensor) -> None:
        if self.trace is not None:
            self.trace(index, kind, logits)

    def _keep_look_ahead(self) -> None:
        """The unit goes on: the row with g(t) stays, as an inner token, and the one with g(t + 1) is dropped."""
        self.feeder.drop(self.feeder.num_keys - 1)
        self.feeder.keys[SOURCE_UNIT, self.feeder.num_keys - 1] = -1

    def _rewind(self, count: int) -> None:
        """Take the anchor's rows back; they are fed again once more has been read."""
        self.feeder.crop(self.feeder.num_keys - count)
        self._logits = None
