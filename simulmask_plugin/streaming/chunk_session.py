"""Streaming in chunks: the policy decides after every source unit, perhaps by the model; a WRITE writes one chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from simulmask_plugin.attention.families import family_of
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.beam import beam_search
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.document import Document, Window
from simulmask_plugin.streaming.lane import ALL, FedRow, Steps
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.text.prompts import DEFAULT_LATENCY, check_latency


def chunk_limit(num_units: int) -> int:
    """The tokens after which a WRITE ends in any case, by the source units that its chunk has."""
    return 2 * (num_units + 25)


@dataclass(kw_only=True)
class ChunkedSession(Session):
    """Simultaneous decoding in the layouts ``interleaved`` and ``turns``; every token is fed once.

    The first header is the end of read in ``interleaved``, the next header the end of write. A policy that asks the
    model is shown what it predicts after the source unit in ``interleaved``, and in ``turns`` after the header, which
    is taken back if more source is read.

    Args:
        beam_width: hypotheses of the search inside a WRITE; 1 is greedy.
        document: for a text of many sentences, which ends at no max_target_tokens; None: the session ends with the
            sentence.
        chooser: in place of the greedy one.
        trace: receives (place in the training sequence, logits) of a row.

    Raises:
        ValueError: if the latency or the beam_width is none.
    """

    latency: str = DEFAULT_LATENCY
    beam_width: int = 1
    document: Document | None = None
    chooser: ChunkChooser | None = None

    _place: int = field(default=0, init=False)  # of the next token in the training sequence
    _unread: int = field(default=0, init=False)  # units since the last WRITE
    _decision: Action | None = field(default=Action.READ, init=False)  # None: to be asked for
    _opening: Tensor | None = field(default=None, init=False)  # what the header predicts, once it has been fed
    _window: Window | None = field(default=None, init=False)  # of a document
    _is_first_target: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Queue the prompt."""
        check_latency(self.latency)
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, got {self.beam_width}.")
        super().__post_init__()
        self._ends = (self._next_header[0], self.encoder.tokenizer.eos_token_id)
        self._read_end = self._header[0] if self.encoder.settings.config.layout.special_tokens else None
        self._choose = self.chooser or ChunkChooser(
            self.encoder, self.model.device, read_end=self._read_end, ends=self._ends
        )
        if self.document is not None:
            keys_move = family_of(self.model.config).position == "alibi"
            self._window = Window(self.document, self.lane, self._prompt, keys_move)
        self._queue(self._prompt)

    # READ

    def _take(self, ids: list[int]) -> None:
        if self._opening is not None:  # the policy has seen what the header predicts, and more source comes before it
            self.lane.crop(self.lane.num_keys - len(self._header))
            self._place -= len(self._header)
            self._opening = None
        self._queue(ids)
        self._unread += 1
        self._decision = None
        if self._window is not None:
            self._window.read(self._last_read)

    def deciding(self) -> Steps[Action]:
        """After every source unit by the policy, or at the end of a document's sentence."""
        if self.source_finished:
            return Action.WRITE
        if self._decision is None:
            self._decision = Action.WRITE if (yield from self._ends_read()) else Action.READ
        return self._decision

    def _ends_read(self) -> Steps[bool]:
        if self._window is not None and self._window.ends_read(self._unread):
            return True
        read, written = (0, 0) if self._window is None else self._window.num_before
        num_read, t = self.num_read - read, self.num_written - written + 1
        if num_read < self.policy.wanted(t):
            return False
        if not self.policy.asks_model or num_read >= self.policy.latest(t):
            return True
        logits = yield from (self._open() if self._read_end is None else self._predict())
        return self._accepts(num_read, t, logits, read_end=self._read_end)

    # WRITE

    def _writing(self) -> Steps[str | None]:
        if not self._unread:
            self.finished = True
            return None
        limit = chunk_limit(self._unread)
        if self.document is None:
            limit = min(limit, self.max_target_tokens - len(self.target_ids))
        ids = yield from self._write_chunk(limit)
        self._unread, self._decision, self._opening = 0, Action.READ, None
        self._is_first_target = self._is_first_target and not ids
        self.target_ids += ids
        self.counters.written_tokens += len(ids)
        self.num_written += self.encoder.target.count(ids)
        self.truncated |= self.document is None and len(self.target_ids) >= self.max_target_tokens
        self.finished = self.source_finished or self.truncated
        if not self.finished:
            self._queue(self._next_header)
            if self._window is not None:
                self._leave(self._window)
        return self.encoder.target.text(ids) or None

    def _write_chunk(self, limit: int) -> Steps[list[int]]:
        """Return the tokens of a chunk, at most ``limit``; all but an end token stay in the cache."""
        logits = yield from self._open()
        if self.beam_width > 1:
            written = yield from beam_search(
                self.lane,
                logits,
                self._choose.scores,
                width=self.beam_width,
                limit=limit,
                ends=self._ends,
                opens_word=not self._is_first_target,
                order=self._place,
                position=self._position,
            )
            self._place += len(written)
            if self.recorder is not None:
                self.recorder.tokens += written
            return [token for token, _ in written]
        ids: list[int] = []
        token = self._choose.next_token(logits, opens_word=not self._is_first_target)
        while token not in self._ends:
            self._wrote(token, logits)
            ids.append(token)
            self._queue([token])
            if len(ids) == limit:
                break
            logits = yield from self._predict()
            token = self._choose.next_token(logits, opens_word=False)
        return ids

    def _leave(self, window: Window) -> None:
        """Let sentences leave the cache; where nothing but the prompt remains, the next one begins as the first did."""
        self._pending = window.after_write(self._pending, self._place, self.num_read, self.num_written)
        if not self._pending:
            self._last_read, self._is_first_target = "", True

    # Rows

    @property
    def _position(self) -> int:
        """Of the next token."""
        return self._place - (0 if self._window is None else self._window.shift)

    def _queue(self, ids: Sequence[int]) -> None:
        for token in ids:
            self._pending.append(FedRow(token, self._place, -1, ALL, self._position))
            self._place += 1

    def _open(self) -> Steps[Tensor]:
        """Feed the header, once; return what it predicts, the chunk's first token."""
        if self._opening is None:
            self._queue(self._header)
            self._opening = yield from self._predict()
        return self._opening

    def _predict(self) -> Steps[Tensor]:
        """Feed what is pending; return what its last row predicts."""
        logits = (yield self._request())[-1]
        self._record(self._place - 1, logits=logits)
        return logits
