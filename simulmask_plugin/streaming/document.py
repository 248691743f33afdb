"""A text of any length in constant memory: where its sentences end, and what of it stays in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.options import MOST_UNITS, check_integer
from simulmask_plugin.streaming.lane import ALL, ORDER, POSITION, FedRow, Lane

SENTENCE_FINAL = (".", "?", "!", "。", "？", "！")
CLOSING = "\"'»”’)]」』"


def is_final(unit: str) -> bool:
    """Whether a source unit ends a sentence."""
    return unit.rstrip(CLOSING).endswith(SENTENCE_FINAL)


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


@dataclass(slots=True)
class Window:
    """What of a document is in the cache: the prompt, the last finished sentences and the one that is being read.

    Args:
        document: how much that is.
        lane: of the session, whose cache it is.
        prompt: token ids before the source.
        keys_move: whether the position of a key is in no cache entry (ALiBi), and may be changed.

    Attributes:
        shift: place minus position of what comes next.
        num_before: units read and written before the sentence that is being read.
    """

    document: Document
    lane: Lane
    prompt: Sequence[int]
    keys_move: bool

    shift: int = field(default=0, init=False)
    num_before: tuple[int, int] = field(default=(0, 0), init=False)
    _last_unit: str = field(default="", init=False)
    _has_end: bool = field(default=False, init=False)  # among what was read since the last sentence left
    _starts: list[int] = field(init=False)  # places of the visible sentences

    def __post_init__(self) -> None:
        """The first sentence starts after the prompt."""
        self._starts = [len(self.prompt)]

    @property
    def start(self) -> int:
        """Place of the first visible sentence."""
        return self._starts[0]

    def read(self, unit: str) -> None:
        """Take note of a source unit."""
        self._last_unit = unit
        self._has_end |= is_final(unit)

    def ends_read(self, num_unread: int) -> bool:
        """Whether a sentence ends here, so that the model is not asked; ``num_unread``: units since the last WRITE."""
        return is_final(self._last_unit) and num_unread >= self.document.min_units

    def after_write(self, pending: list[FedRow], place: int, num_read: int, num_written: int) -> list[FedRow]:
        """Let the earliest finished sentences leave the cache; what stays keeps its distances to what follows.

        A sentence is over with the first WRITE after its end, which may have taken a few words of the next one in.

        Args:
            pending: rows that are still to be fed.
            place: of the next token in the training sequence.
            num_read: source units so far.
            num_written: target units so far.

        Returns:
            The rows to feed in place of these; none if nothing but the prompt remains.
        """
        if not self._has_end:
            return pending
        self._has_end = False
        self._starts.append(place)
        self.num_before = num_read, num_written
        context = self.document.context_sentences
        if len(self._starts) - 1 <= context:
            return pending
        num_prompt, order = len(self.prompt), self.lane.keys[ORDER, : self.lane.num_keys]
        start = self._starts[-1 - context]
        left_out = start - self.start
        self._starts = [s for s in self._starts if s >= start]
        stays = order >= start
        if context == 0:
            pending = []
        if context == 0 or self.keys_move:
            self.lane.keys[POSITION, : len(order)][stays] -= left_out
            pending = [row._replace(position=row.position - left_out) for row in pending]
            self.shift += left_out
            stays |= order < num_prompt
        else:  # RoPE is in the keys and cannot be moved, so the prompt follows: it is fed anew, before the window
            first = start - self.shift - num_prompt
            pending = [*(FedRow(token, i, -1, ALL, first + i) for i, token in enumerate(self.prompt)), *pending]
        self.lane.keep(0, np.flatnonzero(stays).tolist())
        return pending


def document_of(settings: ModelSettings, units: int | None, context_sentences: int) -> Document | None:
    """Return how a line is streamed as a document; None: a line is a sentence.

    Args:
        settings: of the model.
        units: `Document.min_units`; None: a line is a sentence.
        context_sentences: `Document.context_sentences`.

    Raises:
        ValueError: naming what is no number, lacks its partner, or what the model's layout cannot do.
    """
    check_integer("context_sentences", context_sentences, least=0, most=MOST_UNITS)
    if units is None:
        if context_sentences:
            raise ValueError(
                f"context_sentences is {context_sentences}, but without document_units every line is one sentence; "
                "set document_units, or remove context_sentences."
            )
        return None
    check_integer("document_units", units, least=1, most=MOST_UNITS)
    if not settings.config.layout.in_chunks:
        chunks = " or ".join(name for name, layout in LAYOUTS.items() if layout.in_chunks)
        raise ValueError(
            f"document_units needs a model of layout: {chunks}, but this one was trained with layout: "
            f"{settings.config.layout.name}; remove document_units."
        )
    return Document(units, context_sentences)
