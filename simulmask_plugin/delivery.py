"""The integers of a batch become what a model call takes: an additive 4D mask and position ids."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from simulmask_plugin.alibi import additive_mask
from simulmask_plugin.collator import MASK_FIELDS
from simulmask_plugin.families import family_of
from simulmask_plugin.masks import may_attend
from simulmask_plugin.positions import key_rank


def attention_bias(
    model_config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    query_order: Int[Tensor, "batch query"],
    key_order: Int[Tensor, "batch key"],
    source_unit: Int[Tensor, "batch key"],
    num_read: Int[Tensor, "batch query"],
    position: Int[Tensor, "batch key"],
    after_source: Int[Tensor, "batch key"],
    num_hidden: Int[Tensor, "batch query"],
    visible: Bool[Tensor, "batch 1 query key"] | None = None,
) -> Float[Tensor, "batch heads query key"]:
    """Return the mask, with the ALiBi bias in it where the family has one, as one additive tensor.

    The same function serves a training batch and a streaming step, so that the two agree bit by bit; heads is 1 for
    RoPE families. ``order`` is the place in the training sequence, see :func:`~simulmask_plugin.masks.may_attend`.
    ``visible`` hides what only a search hides: the other beams.
    """
    allowed = may_attend(query_order, key_order, source_unit, num_read)
    if visible is not None:
        allowed = allowed & visible
    is_alibi = family_of(model_config).position == "alibi"
    rank = key_rank(position, after_source, num_hidden) if is_alibi else None
    return additive_mask(model_config, allowed, rank, dtype)


def training_inputs(
    batch: Mapping[str, Tensor], model_config: PretrainedConfig, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the arguments of the model call for a collated batch, on the batch's device.

    Args:
        batch: what the collator made.
        model_config: of the model, for its family.
        dtype: in which attention computes (the autocast dtype under mixed precision).
    """
    order = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)[None]
    inputs = {name: value for name, value in batch.items() if name not in MASK_FIELDS}
    inputs["attention_mask"] = attention_bias(
        model_config,
        dtype,
        query_order=order.expand_as(batch["input_ids"]),
        key_order=order.expand_as(batch["input_ids"]),
        source_unit=batch["source_unit"],
        num_read=batch["num_read"],
        position=batch["position_ids"],
        after_source=batch["after_source"],
        num_hidden=batch["num_hidden"],
    )
    if not family_of(model_config).accepts_position_ids:
        del inputs["position_ids"]
    return inputs
