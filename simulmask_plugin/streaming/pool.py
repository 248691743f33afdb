"""Many sessions at once: their requests are padded into one call, and a lane that is done takes the next sentence."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from simulmask_plugin.attention.mask import PADDING, Keys, Queries, attention_bias, mask_argument
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import FedRow, Lane, Request, Steps, T

Job = Callable[[Lane], Steps[T]]
"""Opens a session on a lane and drives it; see `Pool.run`."""

SHORT = 4
"""Rows of a request that one target token takes at most, or a word of source; those of a prompt wait for each other."""


QUERIED = [FedRow._fields.index(name) for name in ("token_id", "order", "num_read", "num_hidden", "position")]
"""Of a row, what a call needs."""


@dataclass(frozen=True, slots=True)
class Call:
    """Where in the buffers a call writes and reads.

    Attributes:
        lanes: index of every lane of the batch.
        places: (batch, rows) where the keys of its rows go.
        num_keys: that it reads of every lane, from the first on.
    """

    lanes: Tensor
    places: Tensor
    num_keys: int


class PooledLayer(CacheLayerMixin):
    """Keys and values of one layer, (lanes, capacity, heads, head_dim); each lane is filled up to its own length."""

    keys: Tensor
    values: Tensor
    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.num_lanes, self.capacity = 0, 0
        self.call: Call

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the first buffers."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_zeros((self.num_lanes, self.capacity, states.shape[1], states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new entries where the call has them; return (batch, heads, num_keys, dim) of what it may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        call = self.call
        rows = (call.lanes[:, None] * self.capacity + call.places).flatten()
        for states, new in ((self.keys, key_states), (self.values, value_states)):
            states.flatten(0, 1).index_copy_(0, rows, new.transpose(1, 2).flatten(0, 1))
        is_whole = len(call.lanes) == self.num_lanes  # then nothing has to be copied
        keys, values = (s[:, : call.num_keys] for s in (self.keys, self.values))
        if not is_whole:
            keys, values = (s.index_select(0, call.lanes) for s in (keys, values))
        return keys.transpose(1, 2), values.transpose(1, 2)

    def grow(self, capacity: int) -> None:
        """Make room for so many entries a lane."""
        self.capacity = capacity
        if self.is_initialized:
            room = (0, 0, 0, 0, 0, capacity - self.keys.shape[1])
            self.keys, self.values = (torch.nn.functional.pad(s, room) for s in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the keys of the call, and their offset."""
        return self.call.num_keys, 0

    def get_seq_length(self) -> int:
        """Keys of the call before its own rows, as far as the model counts them."""
        return self.call.num_keys - self.call.places.shape[1]

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, as transformers before 5.13 calls it."""
        return -1


class PooledCache(Cache):
    """One :class:`PooledLayer` per layer of the model, all for the same call."""

    layers: list[PooledLayer]  # type: ignore[assignment]

    def __init__(self, num_layers: int, num_lanes: int) -> None:
        super().__init__(layers=[PooledLayer() for _ in range(num_layers)])
        for layer in self.layers:
            layer.num_lanes = num_lanes

    def prepare(self, call: Call) -> None:
        """Have the next call of the model write and read like this; its last place is one that nobody reads."""
        capacity = self.layers[0].capacity
        while capacity <= call.num_keys:
            capacity = max(128, 2 * capacity)
        for layer in self.layers:
            if layer.capacity < capacity:
                layer.grow(capacity)
            layer.call = call


@dataclass(slots=True)
class Entries:
    """The entries of one lane; what a session does to a `GrowingCache`."""

    cache: PooledCache
    index: int
    length: int = 0

    def get_seq_length(self) -> int:
        """Entries in use."""
        return self.length

    def crop(self, max_length: int) -> None:
        """Forget all entries from ``max_length`` on."""
        self.length = min(self.length, max_length)

    @torch.inference_mode()
    def keep(self, start: int, indices: Sequence[int]) -> None:
        """Of the entries from ``start`` on, keep only these (ascending), moved together."""
        end = start + len(indices)
        if list(indices) != list(range(start, end)):
            for layer in self.cache.layers:
                for states in (layer.keys, layer.values):
                    states[self.index, start:end] = states[self.index, list(indices)]
        self.length = end

    def drop(self, index: int) -> None:
        """Remove one of the last two entries; if it is not the last, the last takes its place."""
        last = self.length - 1
        self.keep(index, [] if index == last else [last])


@dataclass(slots=True)
class _Running(Generic[T]):
    """A sentence on its lane."""

    number: int
    lane: Lane
    steps: Steps[T]
    request: Request


@dataclass(slots=True)
class Pool:
    """Runs sessions side by side on one model.

    Args:
        model: a causal language model in evaluation mode.
        num_lanes: sessions at once; memory grows with it.
    """

    model: PreTrainedModel
    num_lanes: int = 64
    _cache: PooledCache = field(init=False)
    _accepts_position_ids: bool = field(init=False)

    def __post_init__(self) -> None:
        """Make the model ready for our masks."""
        self._accepts_position_ids = Feeder(self.model)._accepts_position_ids
        self._cache = PooledCache(self.model.config.get_text_config().num_hidden_layers, self.num_lanes)

    @property
    def cache_bytes(self) -> int:
        """What the keys and values of all lanes take; they never shrink."""
        filled = [layer for layer in self._cache.layers if layer.is_initialized]
        return sum(states.nbytes for layer in filled for states in (layer.keys, layer.values))

    def run(self, jobs: Iterable[Job[T]]) -> Iterator[tuple[int, T]]:
        """Run all jobs; yield the number of each, from 0, with its result, as they end."""
        left, pads_dearly = enumerate(jobs), self.model.device.type == "cpu"  # a GPU has rows to spare
        free = list(reversed(range(self.num_lanes)))
        running: list[_Running[T]] = []
        while True:
            while free and (job := next(left, None)) is not None:
                number, open_session = job
                lane = Lane(Entries(self._cache, free[-1]))
                steps = open_session(lane)
                try:
                    running.append(_Running(number, lane, steps, next(steps)))
                    free.pop()
                except StopIteration as end:
                    yield number, end.value
            if not running:
                return
            batch, start = _together(running, self.num_lanes, apart=pads_dearly), time.perf_counter()
            fed = self._feed(batch)
            if self.model.device.type != "cpu":
                torch.accelerator.synchronize()  # or the time of the call would be that of starting it
            share = (time.perf_counter() - start) / len(batch)
            for one, logits in zip(batch, fed, strict=True):
                one.lane.seconds += share
                try:
                    one.request = one.steps.send(logits)
                except StopIteration as end:
                    running.remove(one)
                    free.append(one.lane.cache.index)
                    yield one.number, end.value

    @torch.inference_mode()
    def _feed(self, batch: Sequence[_Running[Any]]) -> list[Tensor]:
        """Feed one request of every session; rows are padded on the left, by their first one."""
        device, num_rows = self.model.device, max(len(one.request.rows) for one in batch)
        starts = [one.lane.num_keys for one in batch]
        num_keys = max(start + len(one.request.rows) for start, one in zip(starts, batch, strict=True))
        queries = np.empty((5, len(batch), num_rows), dtype=np.int64)
        keys = np.zeros((len(Keys._fields), len(batch), num_keys), dtype=np.int64)
        keys[0], keys[1] = -1, PADDING  # what is not there is readable by no row
        places = np.full((len(batch), num_rows), num_keys)
        for i, (one, start) in enumerate(zip(batch, starts, strict=True)):
            one.lane.enter(one.request)
            rows = one.request.rows
            fields = np.array(rows, dtype=np.int64).T[QUERIED]
            queries[:, i, num_rows - len(rows) :] = fields
            queries[:, i, : num_rows - len(rows)] = fields[:, :1]
            keys[:, i, : start + len(rows)] = one.lane.keys[:, : start + len(rows)]
            places[i, num_rows - len(rows) :] = np.arange(start, start + len(rows))
            one.lane.cache.length = start + len(rows)
        lanes = torch.tensor([one.lane.cache.index for one in batch], device=device)
        self._cache.prepare(Call(lanes, torch.from_numpy(places).to(device), num_keys))
        ids, order, num_read, num_hidden, position = torch.from_numpy(queries).to(device)
        mask = attention_bias(
            self.model.config,
            self.model.dtype,
            Queries(order, num_read, num_hidden),
            Keys(*torch.from_numpy(keys).to(device)),
            _visible(batch, num_rows, num_keys, device),
        )
        inputs: dict[str, Any] = {"position_ids": position} if self._accepts_position_ids else {}
        if any(one.request.heads for one in batch):
            inputs["output_attentions"] = True
        output = self.model(
            input_ids=ids,
            attention_mask=mask_argument(self.model.config, mask),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=max(one.request.num_predicting for one in batch),
            **inputs,
        )
        for i, one in enumerate(batch):
            one.lane.look(one.request, output.attentions, i)
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        return [logits[i, -one.request.num_predicting :] for i, one in enumerate(batch)]


def _together(running: Sequence[_Running[T]], num_lanes: int, *, apart: bool) -> list[_Running[T]]:
    """The sessions of the next call, by their lanes: short requests, or the long ones once there are many.

    ``apart``: of the short ones only those of one length, which is the most frequent, so that nothing is padded.
    """
    short = [one for one in running if len(one.request.rows) <= SHORT]
    long = [one for one in running if len(one.request.rows) > SHORT]
    chosen = short if short and len(long) < max(1, num_lanes // 8) else long
    if apart and chosen is short:
        (length, _), *_ = Counter(len(one.request.rows) for one in short).most_common(1)
        chosen = [one for one in short if len(one.request.rows) == length]
    return sorted(chosen, key=lambda one: one.lane.cache.index)


def _visible(batch: Sequence[_Running[Any]], num_rows: int, num_keys: int, device: torch.device) -> Tensor | None:
    """(batch, 1, rows, keys): what a search hides from its own branches; None where nobody searches."""
    if all(one.request.visible is None for one in batch):
        return None
    visible = torch.ones((len(batch), 1, num_rows, num_keys), dtype=torch.bool, device=device)
    for i, one in enumerate(batch):
        if (own := one.request.visible) is not None:
            visible[i, :, num_rows - own.shape[-2] :, : own.shape[-1]] = own[0]
    return visible
