"""What a session has in a cache: every key remembers the integers of its training layout."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simulmask_plugin.attention.mask import PADDING, Keys
from simulmask_plugin.streaming.cache import GrowingCache

ALL = PADDING - 1
"""num_read of a row that sees the whole source, while the number of source units is not known."""

INITIAL_KEYS = 256

ORDER, SOURCE_UNIT, POSITION, _ = range(len(Keys._fields))
"""Rows of `Lane.keys`."""


class FedRow(NamedTuple):
    """One token to feed, with its three integers and its place in the training sequence."""

    token_id: int
    order: int
    source_unit: int
    num_read: int
    position: int
    num_hidden: int = 0
    after_source: bool = False


Heads = tuple[tuple[int, int], ...]
"""(layer, head) of attention heads, from 0."""


@dataclass(frozen=True, slots=True)
class Request:
    """Rows that are to be fed in one call.

    Attributes:
        rows: in the order in which they enter the cache.
        num_predicting: the last so many rows predict.
        visible: False where a row must not see a key that its integers allow (the other beams); None: sees all.
        heads: (layer, head) whose attention the session wants to see, of the rows that predict.
    """

    rows: Sequence[FedRow]
    num_predicting: int
    visible: Bool[Tensor, "1 1 query key"] | None = None
    heads: Heads = ()


KEPT = [FedRow._fields.index(name) for name in ("order", "source_unit", "position", "after_source")]
"""Of a row, what a key remembers, as `Keys` has it."""

T = TypeVar("T")
Steps = Generator[Request, Tensor, T]
"""What a session does until it has a T: it yields requests, and is sent what `Feeder.feed` returns for each."""
LiveSteps = Generator[Request | None, Tensor, T]
"""The same where source arrives meanwhile: it yields None while there is none, and is asked again."""


@dataclass(slots=True)
class Counters:
    """What a session has cost; a *call* is one forward pass of the model."""

    calls: int = 0
    fed_tokens: int = 0
    predicting_rows: int = 0
    attended_pairs: int = 0  # sum over fed tokens of the keys in the cache, for the attention's FLOPs
    written_tokens: int = 0


@dataclass(slots=True)
class Lane:
    """The entries of one session, in the order in which they arrived.

    Attributes:
        cache: their keys and values.
        keys: (fields of `Keys`, capacity) their integers.
        fed_ids: their token ids.
        seconds: its share of the calls that a `Pool` has made.
        attention: (heads, predicting rows, keys) of the last request that wanted to see some.
    """

    cache: Any = field(default_factory=GrowingCache)
    counters: Counters = field(default_factory=Counters, init=False)
    fed_ids: list[int] = field(default_factory=list, init=False)
    seconds: float = field(default=0.0, init=False)
    attention: Float[Tensor, "heads rows keys"] | None = field(default=None, init=False)
    keys: np.ndarray = field(default_factory=lambda: np.zeros((len(Keys._fields), INITIAL_KEYS), np.int64), init=False)

    @property
    def num_keys(self) -> int:
        """Entries of the cache."""
        return self.cache.get_seq_length()

    def enter(self, request: Request) -> None:
        """Write down what a call is about to put after the entries."""
        rows, start = request.rows, self.num_keys
        end = start + len(rows)
        while end > self.keys.shape[1]:
            self.keys = np.concatenate([self.keys, np.zeros_like(self.keys)], axis=1)
        fields = np.array(rows, dtype=np.int64).T
        self.keys[:, start:end] = fields[KEPT]
        self.fed_ids += fields[0].tolist()
        self.counters.calls += 1
        self.counters.fed_tokens += len(rows)
        self.counters.predicting_rows += request.num_predicting
        self.counters.attended_pairs += len(rows) * end

    def look(self, request: Request, attentions: Sequence[Tensor] | None, index: int) -> None:
        """Keep what the request wants to see of the attention of a call, a (batch, heads, rows, keys) per layer.

        The rows of the lane are the last ones of sequence ``index``, and its keys the first ones.
        """
        if request.heads and attentions is not None:
            start, num_keys = -request.num_predicting, self.num_keys
            of_heads = [attentions[layer][index, head, start:, :num_keys] for layer, head in request.heads]
            self.attention = torch.stack(of_heads).float()

    def drop(self, index: int) -> None:
        """Take one of the last two rows back; the last takes its place."""
        last = self.num_keys - 1
        self.cache.drop(index)
        self.keys[:, index] = self.keys[:, last]
        self.fed_ids[index] = self.fed_ids[last]
        del self.fed_ids[last]

    def crop(self, num_keys: int) -> None:
        """Take back all rows from this one on."""
        self.cache.crop(num_keys)
        del self.fed_ids[num_keys:]

    def keep(self, start: int, indices: Sequence[int]) -> None:
        """Of the entries from ``start`` on, keep only these (ascending), moved together."""
        self.cache.keep(start, indices)
        self.keys[:, start : start + len(indices)] = self.keys[:, list(indices)]
        self.fed_ids[start:] = [self.fed_ids[i] for i in indices]

    def kept_ids(self) -> list[int]:
        """Token ids in the cache, in the order of the training sequence."""
        return [self.fed_ids[i] for i in np.argsort(self.keys[ORDER, : self.num_keys])]
