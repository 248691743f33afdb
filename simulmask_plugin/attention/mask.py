"""The mask: one predicate on integers, and the arguments of a model call made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from simulmask_plugin.attention.alibi import additive_mask
from simulmask_plugin.attention.families import family_of, is_multimodal, text_config

MASK_FIELDS = ("source_unit", "num_read", "num_hidden", "after_source")
"""Fields of a batch besides input_ids, labels and position_ids; the model does not get them."""

PADDING = 2**31 - 1
"""source_unit of padding, which only its own row sees."""


def may_attend(
    query_order: Int[Tensor, "batch query"],
    key_order: Int[Tensor, "batch key"],
    source_unit: Int[Tensor, "batch key"],
    num_read: Int[Tensor, "batch query"],
) -> Bool[Tensor, "batch 1 query key"]:
    """Return the mask; True where the query may attend.

    may_attend(q, k) = k <= q and (source_unit[k] < num_read[q] or k == q), where k and q are compared by their place
    in the *training* sequence (``order``): arange in training, any order while streaming.
    source_unit is -1 outside the source, so that these keys are always visible.

    wait-1, tokens BOS x1 x2 SEP y1 (rows: query, columns: key)::

        BOS 1 . . . .
        x1  1 1 . . .
        x2  1 1 1 . .
        SEP 1 1 . 1 .     reads g(1) = 1
        y1  1 1 1 1 1     reads g(2) = 2 (kept row of a one-token unit)
    """
    query, key = query_order[:, :, None], key_order[:, None, :]
    readable = source_unit[:, None, :] < num_read[:, :, None]
    return ((key < query) & readable | (key == query))[:, None]


def key_rank(
    position: Int[Tensor, "batch key"],
    after_source: Int[Tensor, "batch key"],
    num_hidden: Int[Tensor, "batch query"],
) -> Int[Tensor, "batch 1 query key"]:
    """Return the position of key k as seen from row q, for ALiBi: its rank among the keys that q attends to.

    ``position`` minus the number of source tokens that q may not see, for keys after the source (1 in
    ``after_source``); ``position`` for all other keys, and in all schemes except ``modified_alibi``, which pass zeros.
    """
    return (position[:, None, :] - num_hidden[:, :, None] * after_source[:, None, :])[:, None]


class Queries(NamedTuple):
    """What the mask needs to know about its rows.

    Attributes:
        order: place in the training sequence.
        num_read: number of source units that the row may see.
        num_hidden: number of source tokens that it may not see; 0 except for modified_alibi.
    """

    order: Int[Tensor, "batch query"]
    num_read: Int[Tensor, "batch query"]
    num_hidden: Int[Tensor, "batch query"]


class Keys(NamedTuple):
    """What the mask needs to know about its columns.

    Attributes:
        order: place in the training sequence; a cache has its keys in order of arrival.
        source_unit: index of the source unit, -1 outside the source.
        position: position id.
        after_source: 1 for header and target; 0 except for modified_alibi.
    """

    order: Int[Tensor, "batch key"]
    source_unit: Int[Tensor, "batch key"]
    position: Int[Tensor, "batch key"]
    after_source: Int[Tensor, "batch key"]


def attention_bias(
    model_config: PretrainedConfig,
    dtype: torch.dtype,
    queries: Queries,
    keys: Keys,
    visible: Bool[Tensor, "batch 1 query key"] | None = None,
) -> Float[Tensor, "batch heads query key"]:
    """Return the mask as one additive tensor, including the ALiBi bias if the family has one.

    Training batches and streaming steps use the same function, so that they agree bit by bit; heads is 1 for
    RoPE families. See `may_attend` and `key_rank`.
    ``visible`` additionally hides other beams during a search.
    """
    allowed = may_attend(queries.order, keys.order, keys.source_unit, queries.num_read)
    if visible is not None:
        allowed = allowed & visible
    is_alibi = family_of(model_config).position == "alibi"
    rank = key_rank(keys.position, keys.after_source, queries.num_hidden) if is_alibi else None
    return additive_mask(model_config, allowed, rank, dtype)


def mask_argument(
    model_config: PretrainedConfig, mask: Float[Tensor, "batch heads query key"]
) -> Tensor | dict[str, Tensor]:
    """Return the mask in the form that the model accepts: by layer type for multimodal models, as `generate` passes it.

    Given a tensor, a multimodal model would extend it for images, and require their places.
    """
    if not is_multimodal(model_config):
        return mask
    return dict.fromkeys(text_config(model_config).layer_types, mask)


def training_inputs(batch: Mapping[str, Tensor], model_config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of the model call for a collated batch, on the batch's device.

    ``dtype`` is that of the attention (the autocast dtype under mixed precision).
    """
    order = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device).expand_as(batch["input_ids"])
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name not in MASK_FIELDS}
    mask = attention_bias(
        model_config,
        dtype,
        Queries(order, batch["num_read"], batch["num_hidden"]),
        Keys(order, batch["source_unit"], batch["position_ids"], batch["after_source"]),
    )
    inputs["attention_mask"] = mask_argument(model_config, mask)
    if not family_of(model_config).accepts_position_ids:
        del inputs["position_ids"]
    return inputs
