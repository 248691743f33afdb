"""Streaming in chunks: after every source unit the model (EAST) or a policy decides; a WRITE writes one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.policies import Action, ModelDriven, Policy
from simulmask_plugin.streaming.beam import beam_search
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.document import Document, Window
from simulmask_plugin.streaming.feeder import ALL, Counters, FedRow, Feeder
from simulmask_plugin.text.prompts import DEFAULT_LATENCY, check_latency

PlaceTrace = Callable[[int, Tensor], None]


def chunk_limit(num_units: int) -> int:
    """The tokens after which a WRITE ends in any case, by the source units that its chunk has."""
    return 2 * (num_units + 25)


@dataclass(slots=True)
class ChunkedSession:
    """Simultaneous decoding in the layouts ``interleaved`` and ``turns``; every token is fed once.

    It is driven as :class:`~simulmask_plugin.streaming.unit_session.StreamingSession` is.

    Args:
        model: a causal language model in evaluation mode.
        encoder: tokenizer and settings.
        policy: when to WRITE; None: the model decides (interleaved).
        source_lang: for the prompt; None: that of the only pair that was trained, see `ModelSettings.pair`.
        target_lang: the same for the target.
        latency: interleaved: for the prompt, see prompts.LATENCIES.
        read_threshold: interleaved: in place of the one of the settings.
        beam_width: hypotheses of the search inside a WRITE; 1 is greedy.
        document: for a text of many sentences; None: the session ends with the sentence.
        max_target_tokens: the session ends when it has written so many (a document: never).
        chooser: in place of the greedy one.
        trace: receives (place in the training sequence, logits) of every row that predicts.

    Raises:
        ValueError: if the latency or the threshold is none.
    """

    model: PreTrainedModel
    encoder: ExampleEncoder
    policy: Policy | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    latency: str = DEFAULT_LATENCY
    read_threshold: float | None = None
    beam_width: int = 1
    document: Document | None = None
    max_target_tokens: int = 512
    chooser: ChunkChooser | None = None
    trace: PlaceTrace | None = None

    num_read: int = field(default=0, init=False)
    num_written: int = field(default=0, init=False)
    source_finished: bool = field(default=False, init=False)
    finished: bool = field(default=False, init=False)
    truncated: bool = field(default=False, init=False)
    target_ids: list[int] = field(default_factory=list, init=False)
    feeder: Feeder = field(init=False)

    _choose: ChunkChooser = field(init=False)
    _read_end: list[int] = field(init=False)
    _write_end: list[int] = field(init=False)
    _ends: tuple[int, ...] = field(init=False)
    _prompt: list[int] = field(init=False)
    _pending: list[FedRow] = field(default_factory=list, init=False)
    _place: int = field(default=0, init=False)  # of the next token in the training sequence
    _unread: int = field(default=0, init=False)  # units since the last WRITE
    _decision: Action | None = field(default=Action.READ, init=False)  # None: to be asked for
    _window: Window | None = field(default=None, init=False)  # of a document
    _last_read: str = field(default="", init=False)  # empty where nothing but the prompt stands before
    _is_first_target: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Queue the prompt; the model is first called when something has to be decided."""
        settings = self.encoder.settings
        check_latency(self.latency)
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, got {self.beam_width}.")
        self.feeder = Feeder(self.model)
        self._prompt, self._read_end, self._write_end = self.encoder.frame(
            self.source_lang, self.target_lang, self.latency
        )
        self._ends = (self._write_end[0], self.encoder.tokenizer.eos_token_id)
        threshold = self.read_threshold
        if isinstance(self.policy, ModelDriven):
            threshold, self.policy = self.policy.read_threshold, None
        interleaved = bool(settings.config.layout.special_tokens)
        self._choose = self.chooser or ChunkChooser(
            self.encoder,
            self.model.device,
            read_end=self._read_end[0] if interleaved else None,
            ends=self._ends,
            threshold=threshold,
        )
        if self.document is not None:
            self._window = Window(self.document, self.feeder, self._prompt)
        self._queue(self._prompt)

    # READ

    def read(self, text: str) -> None:
        """Take one more word or character of the source; it reaches the model with the next decision.

        Raises:
            ValueError: if the source has been declared finished.
        """
        if self.source_finished:
            raise ValueError(f"The source is finished, but {text!r} was read; start a new session per sentence.")
        for ids in self.encoder.source_units(text, before=self._last_read):
            self._queue(ids)
            self.num_read += 1
            self._unread += 1
            self._decision = None
            if self._window is not None:
                self._window.read(text)
            self._last_read = text

    def finish_source(self) -> None:
        """Declare that no more source will come; what has been read is written."""
        self.source_finished = True

    def action(self) -> Action:
        """READ or WRITE: at the end of the source always WRITE, else as the policy or the model decides."""
        if self.source_finished:
            return Action.WRITE
        if self._decision is None:
            self._decision = Action.WRITE if self._ends_read() else Action.READ
        return self._decision

    def _ends_read(self) -> bool:
        if self._window is not None and self._window.ends_read(self._unread):
            return True
        if self.policy is not None:
            read, written = (0, 0) if self._window is None else self._window.num_before
            return self.num_read - read >= self.policy.wanted(self.num_written - written + 1)
        return self._choose.ends_read(self._feed(1)[-1])

    # WRITE

    def write(self) -> str | None:
        """Write one chunk; None if there was nothing to write or the chunk is empty."""
        if self.finished:
            raise ValueError("The session is finished; start a new one per sentence.")
        if not self._unread:
            self.finished = True
            return None
        self._queue(self._read_end)
        guard = chunk_limit(self._unread)
        if self.document is None:
            guard = min(guard, self.max_target_tokens - len(self.target_ids))
        ids = self._write_chunk(limit=guard)
        self._unread, self._decision = 0, Action.READ
        self._is_first_target = self._is_first_target and not ids
        self.target_ids += ids
        self.counters.written_tokens += len(ids)
        text = self.encoder.target.text(ids)
        self.num_written += self.encoder.target.count(ids)
        self.truncated |= self.document is None and len(self.target_ids) >= self.max_target_tokens
        self.finished = self.source_finished or self.truncated
        if not self.finished:
            self._queue(self._write_end)
            if self._window is not None:
                self._leave(self._window)
        return text or None

    def _write_chunk(self, limit: int) -> list[int]:
        """Return the tokens of a chunk, at most ``limit``; all but an end token stay in the cache."""
        logits = self._feed(1)[-1]
        if self.beam_width > 1:
            ids = beam_search(
                self.feeder,
                logits,
                self._choose.scores,
                width=self.beam_width,
                limit=limit,
                ends=self._ends,
                opens_word=not self._is_first_target,
                order=self._place,
                position=self._position,
            )
            self._place += len(ids)
            return ids
        ids = []
        token = self._choose.next_token(logits, opens_word=not self._is_first_target)
        while token not in self._ends:
            ids.append(token)
            self._queue([token])
            if len(ids) == limit:
                break
            token = self._choose.next_token(self._feed(1)[-1], opens_word=False)
        return ids

    def _leave(self, window: Window) -> None:
        """Let sentences leave the cache; where nothing but the prompt remains, the next one begins as the first did."""
        self._pending = window.after_write(self._pending, self._place, self.num_read, self.num_written)
        if not self._pending:
            self._last_read, self._is_first_target = "", True

    # Rows

    @property
    def counters(self) -> Counters:
        """What the session has cost."""
        return self.feeder.counters

    @property
    def _position(self) -> int:
        """Of the next token."""
        return self._place - (0 if self._window is None else self._window.shift)

    def _queue(self, ids: Sequence[int]) -> None:
        for token in ids:
            self._pending.append(FedRow(token, self._place, -1, ALL, self._position))
            self._place += 1

    def _feed(self, num_predicting: int) -> Tensor:
        """Feed what is pending in one call; return the logits of its last rows."""
        batch, self._pending = self._pending, []
        logits = self.feeder.feed(batch, num_predicting=num_predicting)
        if self.trace is not None:
            self.trace(batch[-1].order, logits[-1])
        return logits
