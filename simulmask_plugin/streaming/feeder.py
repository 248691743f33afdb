"""Rows are fed to a model whose cache is kept; every key in it remembers the integers of its training layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import check_attention, family_of
from simulmask_plugin.attention.mask import PADDING, Keys, Queries, attention_bias, mask_argument
from simulmask_plugin.attention.rope import check_rope
from simulmask_plugin.streaming.cache import GrowingCache

ALL = PADDING - 1
"""num_read of a row that sees the whole source, while the number of source units is not known."""

INITIAL_KEYS = 256

ORDER, SOURCE_UNIT, POSITION, _ = range(len(Keys._fields))
"""Rows of `Feeder.keys`."""


@dataclass(frozen=True, slots=True)
class FedRow:
    """One token to feed, with its three integers and its place in the training sequence."""

    token_id: int
    order: int
    source_unit: int
    num_read: int
    position: int
    num_hidden: int = 0
    after_source: bool = False


@dataclass(slots=True)
class Counters:
    """What a session has cost; a *call* is one forward pass of the model."""

    calls: int = 0
    fed_tokens: int = 0
    predicting_rows: int = 0
    attended_pairs: int = 0  # sum over fed tokens of the keys in the cache, for the attention's FLOPs
    written_tokens: int = 0


@dataclass(slots=True)
class Feeder:
    """Feeds rows to a model and keeps their keys and values, in the order in which they arrived.

    Args:
        model: a causal language model in evaluation mode.

    Raises:
        ValueError: if the model's family or attention cannot take our masks.
    """

    model: PreTrainedModel
    counters: Counters = field(default_factory=Counters, init=False)
    fed_ids: list[int] = field(default_factory=list, init=False)
    cache: GrowingCache = field(default_factory=GrowingCache, init=False)
    keys: np.ndarray = field(init=False)
    _accepts_position_ids: bool = field(init=False)

    def __post_init__(self) -> None:
        """Make the model ready for our masks."""
        check_attention(self.model.config, self.model.config._attn_implementation)
        check_rope(self.model.config)
        prepare(self.model)
        self.keys = np.zeros((len(Keys._fields), INITIAL_KEYS), dtype=np.int64)
        self._accepts_position_ids = family_of(self.model.config).accepts_position_ids

    @property
    def num_keys(self) -> int:
        """Entries of the cache."""
        return self.cache.get_seq_length()

    @torch.inference_mode()
    def feed(
        self, rows: Sequence[FedRow], *, num_predicting: int, visible: Bool[Tensor, "1 1 query key"] | None = None
    ) -> Tensor:
        """Feed rows in one call.

        Args:
            rows: in the order in which they enter the cache.
            num_predicting: the last so many rows predict.
            visible: False where a row must not see a key that its integers allow (the other beams); None: sees all.

        Returns:
            The logits of the predicting rows, (num_predicting, vocabulary), fp32.
        """
        start = self.num_keys
        end = start + len(rows)
        while end > self.keys.shape[1]:
            self.keys = np.concatenate([self.keys, np.zeros_like(self.keys)], axis=1)
        for i, row in enumerate(rows, start=start):
            self.keys[:, i] = row.order, row.source_unit, row.position, row.after_source  # as `Keys` has them
        queries = [(row.token_id, row.order, row.num_read, row.num_hidden, row.position) for row in rows]
        device = self.model.device
        keys = Keys(*torch.from_numpy(self.keys[:, :end]).to(device)[:, None])
        ids, order, num_read, num_hidden, position = torch.tensor(queries, device=device).T[:, None]
        inputs: dict[str, Any] = {"position_ids": position} if self._accepts_position_ids else {}
        mask = attention_bias(self.model.config, self.model.dtype, Queries(order, num_read, num_hidden), keys, visible)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask_argument(self.model.config, mask),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=num_predicting,
            **inputs,
        ).logits
        self.fed_ids += [row.token_id for row in rows]
        self.counters.calls += 1
        self.counters.fed_tokens += len(rows)
        self.counters.predicting_rows += num_predicting
        self.counters.attended_pairs += len(rows) * end
        return logits[0].to(torch.promote_types(logits.dtype, torch.float32))

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


def session_flops(model: PreTrainedModel, counters: Counters) -> int:
    """Return the FLOPs of a session's forward passes: two per weight and token, and the attention's two products.

    Matrix products only, as torch's own counter has it: norms, activations and the softmax are left out. The output
    head counts for the rows that predict alone.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    body = sum(_weights(module, config) for module in model.get_decoder().modules() if module is not head)
    attention = 4 * _attention_width(config) * counters.attended_pairs
    return 2 * body * counters.fed_tokens + 2 * head.weight.numel() * counters.predicting_rows + attention


def _weights(module: nn.Module, config: PreTrainedConfig) -> int:
    """Weights of a module's own matrices that a token meets: of stacked experts, those of the ones it is sent to."""
    if isinstance(module, nn.Embedding):
        return 0
    own = list(module.parameters(recurse=False))
    matrices = sum(weight.numel() for weight in own if weight.ndim == 2)
    return matrices + sum(weight[0].numel() * config.num_experts_per_tok for weight in own if weight.ndim == 3)


def _attention_width(config: PreTrainedConfig) -> int:
    """Heads times their dimension, summed over the layers; that of Gemma 4's full layers is another."""
    values = config.to_dict()
    width = values.get("head_dim") or config.hidden_size // config.num_attention_heads
    full = values.get("global_head_dim") or width
    kinds = values.get("layer_types") or ["sliding_attention"] * config.num_hidden_layers
    return config.num_attention_heads * sum(full if kind == "full_attention" else width for kind in kinds)
