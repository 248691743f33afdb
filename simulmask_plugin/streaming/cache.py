"""A key-value cache that grows in place: a new token copies nothing, amortized, and rows can be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class GrowingLayer(CacheLayerMixin):
    """Keys and values of one layer, (batch, heads, capacity, head_dim), of which the first ``length`` are in use.

    The capacity doubles when it is reached, so that a token costs one write, amortized, and no concatenation.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False
    initial_capacity = 256

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the first buffers."""
        self.dtype, self.device = key_states.dtype, key_states.device
        capacity = max(self.initial_capacity, key_states.shape[2])
        self.keys, self.values = (
            states.new_empty((*states.shape[:2], capacity, states.shape[3])) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new entries after the old ones; return views of all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self._grow(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grow(self, needed: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty((*old.shape[:2], max(needed, 2 * old.shape[2]), old.shape[3]))
            new[:, :, : self.length] = old[:, :, : self.length]
            setattr(self, name, new)

    @torch.inference_mode()  # as the forward pass that wrote the entries
    def drop(self, index: int) -> None:
        """Remove one of the last two entries; if it is not the last, the last takes its place."""
        last = self.length - 1
        assert index in (last, last - 1), (index, last)
        if index != last:
            self.keys[:, :, index] = self.keys[:, :, last]
            self.values[:, :, index] = self.values[:, :, last]
        self.length = last

    @torch.inference_mode()
    def keep(self, start: int, indices: Sequence[int]) -> None:
        """Of the entries from ``start`` on, keep only these, moved together; the ones before stay where they are."""
        assert list(indices) == sorted(set(indices)), indices
        if list(indices) != list(range(start, start + len(indices))):
            index = torch.tensor(indices, device=self.keys.device)
            for states in (self.keys, self.values):
                states[:, :, start : start + len(indices)] = states[:, :, index]
        self.length = start + len(indices)

    def crop(self, max_length: int) -> None:
        """Forget all entries from ``max_length`` on."""
        self.length = min(self.length, max_length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the keys after the next update, and their offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Entries in use."""
        return self.length

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, as transformers before 5.13 calls it."""
        return -1


class GrowingCache(Cache):
    """One :class:`GrowingLayer` per layer of the model."""

    layers: list[GrowingLayer]  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)

    def drop(self, index: int) -> None:
        """Remove one of the last two entries of every layer."""
        for layer in self.layers:
            layer.drop(index)

    def keep(self, start: int, indices: Sequence[int]) -> None:
        """Of the entries from ``start`` on, keep only these in every layer."""
        for layer in self.layers:
            layer.keep(start, indices)
