"""One 4D float mask for every family, and how Falcon, BLOOM and MPT are made to accept it.

RoPE families add a 4D mask to their scores. For ALiBi families the mask includes the bias, which transformers
does not accept, so `prepare` replaces a few functions of transformers, in the whole process, by functions
that only differ for 4D masks:

    Falcon  builds its own bias (now zero) and its own mask from it (now skipped).
    BLOOM   builds its own bias (now zero).
    MPT     casts every mask to bool (now left unchanged) and has an attention that takes no float mask (now sdpa).

No state is kept between calls, and a layer gets all it needs in its arguments, as gradient
checkpointing and PEFT require.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce, wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from simulmask_plugin.attention.families import family_of
from simulmask_plugin.attention.versions import REMEDY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Function = Callable[..., Any]


def alibi_slopes(config: PreTrainedConfig, device: torch.device | str = "cpu") -> Float[Tensor, " heads"]:
    """Return the slope of each head, computed by the family's own function (Falcon's are rounded to bfloat16).

    MPT's `attn_config.alibi_bias_max` has no effect, because transformers does not read it.
    """
    modeling = _modeling(config)
    num_heads = config.num_attention_heads
    if config.model_type == "mpt":
        return -modeling.build_mpt_alibi_tensor(num_heads, 2, device=device)[:, 0, 0]
    two_keys = torch.ones((1, 2), dtype=torch.long, device=device)
    return modeling.build_alibi_tensor(two_keys, num_heads, torch.float32)[:, 0, 1]


def additive_mask(
    config: PreTrainedConfig,
    may_attend: Bool[Tensor, "batch 1 query key"],
    rank: Int[Tensor, "batch 1 query key"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "batch heads query key"]:
    """Return what is added to the scores: finfo.min where a row may not attend, else 0 or the ALiBi bias.

    A RoPE family has one mask for all heads (heads = 1) and needs no rank. BLOOM, slope 1/2, plain causal::

        0.0  min  min
        0.0  0.5  min
        0.0  0.5  1.0

    Falcon and BLOOM round as in their stock code. MPT's stock bias is fp32; ours is measured from the last
    key of each row (which softmax cancels), so that near keys keep their precision in bf16.

    ``rank`` is the position of each key as seen by its query, >= 0 where `may_attend`; in stock attention, its index.
    """
    if family_of(config).position == "rope":
        bias = torch.zeros(may_attend.shape, dtype=dtype, device=may_attend.device)
    else:
        assert rank is not None, f"{config.model_type} measures ALiBi distances and needs rank, got None."
        bias = _alibi_bias(config, may_attend, rank, dtype)
    return bias.masked_fill_(~may_attend, torch.finfo(dtype).min)


def _alibi_bias(
    config: PreTrainedConfig,
    may_attend: Bool[Tensor, "batch 1 query key"],
    rank: Int[Tensor, "batch 1 query key"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch heads query key"]:
    """Return slope * rank, with the scaling and rounding of the family."""
    slopes = alibi_slopes(config, rank.device)[:, None, None]
    match config.model_type:
        case "falcon":
            scale = math.sqrt(config.hidden_size // config.num_attention_heads)
            return (slopes.bfloat16() * rank.bfloat16()).to(dtype).div_(scale)
        case "bloom":
            return (slopes * rank.float()).to(dtype)
    last = (rank * may_attend).amax(dim=-1, keepdim=True)
    return (slopes * (rank - last).float()).to(dtype)


def prepare(model: PreTrainedModel) -> None:
    """Let a model, PEFT-wrapped or not, accept the masks of `additive_mask` as its `attention_mask`.

    Calls with a 2D mask or none stay bit-identical, RoPE families are left unchanged, a second call does nothing.
    Stock Falcon applies ALiBi twice with "eager"; our mask applies it once with both implementations, like
    stock "sdpa".

    Raises:
        RuntimeError: If this version of transformers lacks a function to replace.
    """
    config = model.config
    if family_of(config).position == "rope":
        return
    modeling = _modeling(config)
    for seam, ours in SEAMS[config.model_type].items():
        *owners, name = seam.split(".")
        try:
            owner = reduce(getattr, owners, modeling)
            stock = getattr(owner, name)
        except AttributeError as error:
            raise RuntimeError(
                f"Expected {modeling.__name__}.{seam}, which transformers {transformers.__version__} lacks; "
                f"without it {config.model_type} cannot take our mask. {REMEDY}"
            ) from error
        if stock not in _INSTALLED:
            _INSTALLED.add(replacement := _replacement(ours, stock))
            setattr(owner, name, replacement)


def _replacement(ours: Function, stock: Function) -> Function:
    """A function or method with the signature of the stock one, which ours gets as its first argument."""

    @wraps(stock)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(stock, *args, **kwargs)

    return call


def _modeling(config: PreTrainedConfig) -> ModuleType:
    return import_module(f"transformers.models.{config.model_type}.modeling_{config.model_type}")


def _no_second_bias(stock: Function, attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """Falcon, BLOOM: the mask already includes the bias, so the model's own is zero."""
    if attention_mask.ndim != 4:
        return stock(attention_mask, num_heads, dtype)
    batch_size, _, _, num_keys = attention_mask.shape
    return attention_mask.new_zeros((batch_size * num_heads, 1, num_keys), dtype=dtype)


def _kept_mask(
    disguise: Callable[[Tensor], Any], stock: Function, *, attention_mask: Tensor | None, **inputs: Any
) -> Any:
    """Falcon, MPT: the model's code does not recognize a 4D mask in this disguise, and so leaves it as it is."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return disguise(attention_mask)
    return stock(attention_mask=attention_mask, **inputs)


def _fifth_dimension(mask: Tensor) -> Tensor:
    """FalconModel overwrites 4D masks with its own bias."""
    return mask[None]


def _falcon_attention(
    stock: Function,
    attention: Any,
    hidden_states: Tensor,
    alibi: Tensor | None,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """FalconAttention gets the mask without the fifth dimension that `_fifth_dimension` added."""
    if attention_mask is not None and attention_mask.ndim == 5:
        attention_mask = attention_mask[0]
    return stock(attention, hidden_states, alibi, attention_mask, **options)


@dataclass(frozen=True, slots=True)
class _FloatMask:
    """MptModel casts its mask to bool, which would lose the bias."""

    mask: Tensor

    def to(self, _dtype: torch.dtype) -> Tensor:
        return self.mask


def _mpt_attention(
    stock: Function,
    attention: Any,
    hidden_states: Tensor,
    position_bias: Tensor,
    past_key_values: transformers.Cache | None = None,
    attention_mask: Tensor | None = None,
    *,
    cache: transformers.Cache | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """MptAttention with sdpa for float masks, whose bias replaces `position_bias`; stock masks are bool."""
    cache = past_key_values if cache is None else cache  # its new name in transformers
    if attention_mask is None or attention_mask.dtype == torch.bool:
        return stock(attention, hidden_states, position_bias, cache, attention_mask, **options)
    fused = attention.Wqkv(hidden_states)
    if attention.clip_qkv:
        fused = fused.clamp(min=-attention.clip_qkv, max=attention.clip_qkv)
    query, key, value = fused.unflatten(-1, (3, attention.n_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    dropout = attention.attn_dropout_p if attention.training else 0.0
    context = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=attention.softmax_scale
    )
    return attention.out_proj(context.transpose(1, 2).flatten(2)), None


SEAMS: Mapping[str, Mapping[str, Function]] = {
    "falcon": {
        "build_alibi_tensor": _no_second_bias,
        "create_causal_mask": partial(_kept_mask, _fifth_dimension),
        "FalconAttention.forward": _falcon_attention,
    },
    "bloom": {"build_alibi_tensor": _no_second_bias},
    "mpt": {"create_causal_mask": partial(_kept_mask, _FloatMask), "MptAttention.forward": _mpt_attention},
}
"""The functions that `prepare` replaces in the modeling module of each ALiBi family; ours get the stock one first."""

_INSTALLED: set[Function] = set()
