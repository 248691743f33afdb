"""The key-value cache of many sessions: a lane for each, filled up to its own length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


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
