"""Streaming in chunks: after every source unit the model (EAST) or a policy decides; a WRITE writes one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.beam import beam_search
from simulmask_plugin.config import check_latency, check_threshold
from simulmask_plugin.families import family_of
from simulmask_plugin.features import ExampleEncoder
from simulmask_plugin.feeding import ALL, ORDER, POSITION, Counters, FedRow, Feeder
from simulmask_plugin.policies import Policy
from simulmask_plugin.schedule import Action
from simulmask_plugin.units import WORD, split_units

SENTENCE_FINAL = (".", "?", "!", "。", "？", "！")
CLOSING = "\"'»”’)]」』"

Trace = Callable[[int, Tensor], None]


def _is_final(unit: str) -> bool:
    """Whether a source unit ends a sentence."""
    return unit.rstrip(CLOSING).endswith(SENTENCE_FINAL)


def chunk_limit(num_units: int) -> int:
    """The tokens after which a WRITE ends in any case, by the source units that its chunk has."""
    return 2 * (num_units + 25)


@dataclass(frozen=True, slots=True)
class Document:
    """How a text of any length is streamed in constant memory.

    Attributes:
        min_units: a source unit that ends in sentence-final punctuation ends the read once so many units have been
            read since the last WRITE (EAST, section 3.4, takes 20).
        context_sentences: finished sentences that stay visible; earlier ones leave the cache.
    """

    min_units: int = 20
    context_sentences: int = 0


class ChunkChooser:
    """Decides on READ or WRITE, and picks target tokens; greedy.

    Args:
        encoder: of the model.
        device: of the logits.
        read_end: id of the end of read, which is never written; None in the layout ``turns``.
        ends: ids that end a WRITE.
        threshold: WRITE when P(end of read) reaches it; None: when no other token is likelier.
    """

    def __init__(
        self,
        encoder: ExampleEncoder,
        device: torch.device,
        *,
        read_end: int | None,
        ends: Sequence[int],
        threshold: float | None,
    ) -> None:
        num_tokens = len(encoder.tokenizer)
        self.read_end, self.threshold = read_end, threshold
        self._never = torch.zeros(num_tokens, dtype=torch.bool, device=device)
        if read_end is not None:
            self._never[read_end] = True
        self._not_at_start = self._never.clone()
        if encoder.target.unit == WORD:
            self._not_at_start |= ~torch.tensor(encoder.target.opens_word, device=device)
            self._not_at_start[list(ends)] = False

    def ends_read(self, logits: Tensor) -> bool:
        """Whether to WRITE, from the logits of the last token of a source unit."""
        logits = logits[: len(self._never)]
        if self.threshold is None:
            return int(logits.argmax()) == self.read_end
        return float(logits.softmax(dim=-1)[self.read_end]) >= self.threshold

    def scores(self, logits: Tensor, *, opens_word: bool) -> Tensor:
        """Log-probabilities (..., vocabulary) of the next target token; -inf where it cannot stand."""
        forbidden = self._not_at_start if opens_word else self._never
        return logits[..., : len(forbidden)].log_softmax(dim=-1).masked_fill(forbidden, -torch.inf)

    def next_token(self, logits: Tensor, *, opens_word: bool) -> int:
        """The likeliest next target token."""
        return int(self.scores(logits, opens_word=opens_word).argmax())


@dataclass(slots=True)
class ChunkedSession:
    """Simultaneous decoding in the layouts ``interleaved`` and ``turns``; every token is fed once.

    It is driven as :class:`~simulmask_plugin.streaming.StreamingSession` is.

    Args:
        model: a causal language model in evaluation mode.
        encoder: tokenizer and settings.
        policy: when to WRITE; None: the model decides (interleaved).
        source_lang: for the prompt; None takes the one of the settings.
        target_lang: likewise.
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
    latency: str = "medium"
    read_threshold: float | None = None
    beam_width: int = 1
    document: Document | None = None
    max_target_tokens: int = 512
    chooser: ChunkChooser | None = None
    trace: Trace | None = None

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
    _before: tuple[int, int] = field(default=(0, 0), init=False)  # units read and written before this sentence
    _last_unit: str = field(default="", init=False)
    _has_sentence_end: bool = field(default=False, init=False)  # among what was read since the last sentence left
    _sentence_starts: list[int] = field(default_factory=list, init=False)  # places of the visible sentences
    _shift: int = field(default=0, init=False)  # place minus position
    _is_first_source: bool = field(default=True, init=False)  # nothing but the prompt stands before
    _is_first_target: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Queue the prompt; the model is first called when something has to be decided."""
        settings = self.encoder.settings
        check_latency(self.latency)
        if self.read_threshold is not None:
            check_threshold("read_threshold", self.read_threshold)
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, got {self.beam_width}.")
        self.feeder = Feeder(self.model)
        self._prompt, self._read_end, self._write_end = self.encoder.frame(
            self.source_lang, self.target_lang, self.latency
        )
        self._ends = (self._write_end[0], self.encoder.tokenizer.eos_token_id)
        threshold = settings.config.threshold if self.read_threshold is None else self.read_threshold
        interleaved = settings.config.layout == "interleaved"
        self._choose = self.chooser or ChunkChooser(
            self.encoder,
            self.model.device,
            read_end=self._read_end[0] if interleaved else None,
            ends=self._ends,
            threshold=threshold,
        )
        self._queue(self._prompt)
        self._sentence_starts = [len(self._prompt)]

    # READ

    def read(self, text: str) -> None:
        """Take one more word or character of the source; it reaches the model with the next decision.

        Raises:
            ValueError: if the source has been declared finished.
        """
        if self.source_finished:
            raise ValueError(f"The source is finished, but {text!r} was read; start a new session per sentence.")
        for ids in self.encoder.source_units(text, first=self._is_first_source):
            self._queue(ids)
            self.num_read += 1
            self._unread += 1
            self._is_first_source, self._decision, self._last_unit = False, None, text
            self._has_sentence_end |= _is_final(text)

    def finish_source(self) -> None:
        """Declare that no more source will come; what has been read is written."""
        self.source_finished = True

    def action(self) -> Action:
        """READ or WRITE: at the end of the source always WRITE, else as the policy or the model decides."""
        if self.source_finished:
            return Action.WRITE
        if self._decision is None:
            self._decision = Action.WRITE if self._ends_sentence() or self._ends_read() else Action.READ
        return self._decision

    def _ends_read(self) -> bool:
        if self.policy is not None:
            read, written = self._before
            return self.num_read - read >= self.policy(self.num_written - written + 1)
        return self._choose.ends_read(self._feed(1)[-1])

    def _ends_sentence(self) -> bool:
        """Whether a document's sentence ends here, so that the model is not asked."""
        return self.document is not None and _is_final(self._last_unit) and self._unread >= self.document.min_units

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
        self.num_written += len(split_units(text, self.encoder.target.unit))
        self.truncated |= self.document is None and len(self.target_ids) >= self.max_target_tokens
        self.finished = self.source_finished or self.truncated
        if not self.finished:
            self._queue(self._write_end)
            if self.document is not None and self._has_sentence_end:
                self._end_sentence(self.document)
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
                position=self._place - self._shift,
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

    # Document

    def _end_sentence(self, document: Document) -> None:
        """Let the earliest finished sentences leave the cache; what stays keeps its distances to what follows.

        A sentence is over with the first WRITE behind its end, which may have taken a few words of the next one in.
        """
        self._has_sentence_end = False
        self._sentence_starts.append(self._place)
        self._before = self.num_read, self.num_written
        if len(self._sentence_starts) - 1 <= document.context_sentences:
            return
        num_prompt, order = len(self._prompt), self.feeder.keys[ORDER, : self.feeder.num_keys]
        start = self._sentence_starts[-1 - document.context_sentences]
        left_out = start - self._sentence_starts[0]
        self._sentence_starts = [s for s in self._sentence_starts if s >= start]
        stays = order >= start
        if document.context_sentences == 0:
            self._pending, self._is_first_source, self._is_first_target = [], True, True
        is_alibi = family_of(self.model.config).position == "alibi"
        if document.context_sentences == 0 or is_alibi:
            self.feeder.keys[POSITION, : len(order)][stays] -= left_out
            self._pending = [replace(row, position=row.position - left_out) for row in self._pending]
            self._shift += left_out
            stays |= order < num_prompt
        else:  # RoPE is in the keys and cannot be moved, so the prompt follows: it is fed anew, before the window
            first = start - self._shift - num_prompt
            prompt = [FedRow(token, i, -1, ALL, first + i) for i, token in enumerate(self._prompt)]
            self._pending = [*prompt, *self._pending]
        self.feeder.keep(0, np.flatnonzero(stays).tolist())

    # Rows

    @property
    def counters(self) -> Counters:
        """What the session has cost."""
        return self.feeder.counters

    def _queue(self, ids: Sequence[int]) -> None:
        for token in ids:
            self._pending.append(FedRow(token, self._place, -1, ALL, self._place - self._shift))
            self._place += 1

    def _feed(self, num_predicting: int) -> Tensor:
        """Feed what is pending in one call; return the logits of its last rows."""
        batch, self._pending = self._pending, []
        logits = self.feeder.feed(batch, num_predicting=num_predicting)
        if self.trace is not None:
            self.trace(batch[-1].order, logits[-1])
        return logits
