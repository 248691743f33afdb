"""Does this model take our mask? A tiny random one of its kind is asked before a run, in less than a second.

What becomes of a mask is up to the model's family, and may change with the version of transformers. A family that left
it out, or lost its cache, would train and stream without an error, and wrongly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import deepspeed

from simulmask_plugin.attention.alibi import additive_mask, prepare
from simulmask_plugin.attention.families import family_of, is_multimodal, random_model, tiny_values
from simulmask_plugin.attention.mask import mask_argument
from simulmask_plugin.attention.versions import REMEDY
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import Example
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import FedRow, Request
from simulmask_plugin.streaming.parity import training_logits
from simulmask_plugin.text.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference of two logits that counts as equal, as a share of the largest logit (fp32)."""

VOCABULARY = 64
EXAMPLE = Example(
    input_ids=np.random.default_rng(0).integers(3, VOCABULARY, 17),
    num_prompt=3,
    source_lengths=np.array([2, 1, 2]),
    num_header=2,
    target_lengths=np.array([1, 3, 2]),
)
SCHEDULE = ReadSchedule((1, 2, 2, 3), num_source=3)

MOST_WEIGHTS = 10_000_000

MODEL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ImportError, StrictDataclassError)
"""What the code of a model raises where it does not go with ours, or with the shape of the tiny one."""

UNTRIED_REMEDY = (
    "It is not in the table of families; remove the `simulmask:` block to train with plain LLaMA-Factory, or see "
    "docs/add-a-family.md."
)

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "num_global_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
"""Values of the tiny model, for the keys that a configuration has."""


def check_takes_mask(config: PreTrainedConfig, attention: str) -> None:
    """Refuse a model whose family does not do with our mask, or with a kept cache, what it should.

    A model that is not in the table of families is let pass, with a warning, where this test finds nothing.

    Args:
        config: of the model; weights are not needed.
        attention: its attention implementation.

    Raises:
        ValueError: if a tiny random model of the same kind fails.
    """
    family = family_of(config)
    if family.tried and not is_multimodal(config):
        values = tiny_values(family, VOCABULARY)
    else:
        values = shrink(config.to_dict())
    difference = measure(config.model_type, json.dumps(values, sort_keys=True), attention)
    remedy = REMEDY if family.tried else UNTRIED_REMEDY
    what = f"{config.model_type} with attention {attention} and transformers {version('transformers')}"
    if isinstance(difference, str):
        raise ValueError(
            f"{what} does not take our mask: a tiny random model of its kind fails ({difference}). {remedy}"
        )
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{what} does not take our mask: in a tiny random model, logits that should be equal differ by "
            f"{difference:.1e} of the largest (expected at most {TOLERANCE:g}), so that training and streaming would "
            f"be wrong without an error. {remedy}"
        )
    if not family.tried:
        logging.getLogger(__name__).warning(
            "simulmask: model type %s is not in the table of families; a tiny random model of its kind took our mask "
            "(difference %.0e), so it is used. Run `simulmask parity` on the YAML or the trained model.",
            config.model_type,
            difference,
        )


@cache
def measure(model_type: str, values: str, attention: str) -> float | str:
    """Return the largest difference of two logits that should be equal, relative to the largest logit; or the error.

    Args:
        model_type: in transformers.
        values: of the tiny configuration, as JSON.
        attention: the implementation that is tested.
    """
    try:
        with whole_models():
            return _measure(model_type, values, attention)
    except MODEL_ERRORS as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def whole_models() -> Iterator[None]:
    """Build models whole, also in a training with ZeRO-3, which has every model built in parts of several processes."""
    known = deepspeed._hf_deepspeed_config_weak_ref
    running = None if known is None else known()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if running is not None:
            deepspeed.set_hf_deepspeed_config(running)


def _measure(model_type: str, values: str, attention: str) -> float:
    models = []
    config = AutoConfig.for_model(model_type, **json.loads(values))
    check_size(config)
    # Stock eager attention is the definition, except for Falcon, whose eager one applies ALiBi twice.
    stock = "sdpa" if family_of(config).name == "falcon" else "eager"
    for implementation in (attention, stock):
        config = AutoConfig.for_model(model_type, **json.loads(values))
        models.append(random_model(config, 0, implementation))
    pairs = [hidden_and_absent(*models), training_and_streaming(models[0])]
    return max(((ours - other).abs().max() / other.abs().max()).item() for ours, other in pairs)


def check_size(config: PreTrainedConfig) -> None:
    """Refuse a model that `shrink` has not made tiny, before it is built."""
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_WEIGHTS:
        raise ValueError(f"it cannot be made tiny: {size:,} weights are left of it")


@torch.inference_mode()
def hidden_and_absent(model: PreTrainedModel, stock: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return logits under our mask, where the last source units are hidden from what follows, and stock without them.

    Layers are all under the same mask, so that tokens which nobody sees are as good as absent.
    """
    ids = torch.from_numpy(EXAMPLE.input_ids)[None]
    first, last, num_tokens = EXAMPLE.num_prompt + 2, EXAMPLE.source_end, ids.shape[1]
    may_attend = torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool).tril()
    may_attend[:, :, last:, first:last] = False
    place = torch.arange(num_tokens)
    place[last:] -= last - first
    kept = [*range(first), *range(last, num_tokens)]
    expected = stock(ids[:, kept], use_cache=False).logits[0]
    prepare(model)
    mask = additive_mask(model.config, may_attend, place.expand(may_attend.shape), model.dtype)
    positions = {"position_ids": place[None]} if family_of(model.config).accepts_position_ids else {}
    logits = model(ids, attention_mask=mask_argument(model.config, mask), use_cache=False, **positions).logits[0]
    return logits[kept], expected


def training_and_streaming(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return the logits of header and target in one forward pass, and fed row by row while the source arrives."""
    positions = "modified_alibi" if family_of(model.config).position == "alibi" else "group"
    settings = ModelSettings(
        SimulMaskConfig.from_dict({"policy": "schedule", "positions": positions}), Prompt("", "->")
    )
    layout = settings.config.layout.lay_out(EXAMPLE, SCHEDULE, settings.config.convention)
    batch = SimulMaskCollator(settings, pad_token_id=0).pad([layout])
    names = ("input_ids", "source_unit", "num_read", "position_ids", "num_hidden", "after_source")
    integers = zip(*(batch[name][0].tolist() for name in names), strict=True)
    rows = [
        FedRow(token, order, source_unit, num_read, position, num_hidden, bool(after_source))
        for order, (token, source_unit, num_read, position, num_hidden, after_source) in enumerate(integers)
    ]
    feeder, arrived, streamed = Feeder(model), 0, []
    for row in rows[EXAMPLE.source_end :]:
        released = sum(other.source_unit < row.num_read for other in rows[: EXAMPLE.source_end])
        streamed.append(feeder.feed(Request([*rows[arrived:released], row], num_predicting=1))[0])
        arrived = released
        if row.source_unit == SCHEDULE.num_source:  # a look-ahead row
            feeder.lane.drop(feeder.lane.num_keys - 1)
    return torch.stack(streamed), training_logits(model, settings, layout)[EXAMPLE.source_end :]


def shrink(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration with two layers and small sizes, and everything else as it is."""
    num_layers, small = values.get("num_hidden_layers"), {}
    for key, value in values.items():
        if key in ("quantization_config", "dtype", "transformers_version", "architectures", "auto_map", "model_type"):
            continue
        if key == "layer_types" and value:  # of each kind one; Gemma 4 wants the last to be full
            value = (sorted(set(value), reverse=True) * 2)[:2]
        elif key == "rope_parameters" and value:
            value = _without_scaling(value)
        elif key.endswith("_config") and value:
            value = shrink(value)
        elif isinstance(value, list) and len(value) == num_layers:
            value = value[:2]
        elif key == "num_key_value_heads" and value == values.get("num_attention_heads"):
            value = SMALL["num_attention_heads"]
        elif key in SMALL and value is not None:
            value = SMALL[key]
        small[key] = value
    return small


def _without_scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE parameters, perhaps by layer type, without a scaling to lengths that the tiny model does not have."""
    if all(isinstance(value, Mapping) for value in rope.values()):
        return {kind: _without_scaling(value) for kind, value in rope.items()}
    if rope["rope_type"] in ("default", "proportional"):
        return dict(rope)
    kept = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    return {"rope_type": "default", **kept}
