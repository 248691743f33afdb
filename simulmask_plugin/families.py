"""The model families that take our attention mask, and what each of them asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from simulmask_plugin.versions import LOCKED, WITHOUT_FLASH_ATTENTION_2

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_LLAMA_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_GEMMA_SHAPE = _LLAMA_SHAPE | {
    "query_pre_attn_scalar": 16,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}
_FALCON_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, slots=True)
class Family:
    """What training and streaming must know of a model family."""

    name: str
    """Our name, the key in `FAMILIES`."""
    model_type: str
    """`config.model_type` in transformers."""
    position: Literal["alibi", "rope"]
    """How positions reach the attention: as a bias inside the mask, or as `position_ids`."""
    tiny: Mapping[str, Any] = field(repr=False)
    """Shape of the tiny model that tests and parity checks use."""
    accepts_position_ids: bool = True
    """Whether `forward` has the argument `position_ids`."""
    implementations: tuple[str, ...] = ("sdpa", "eager")
    """Values of `attn_implementation` that take a 4D float mask and leave nothing of the scores out; the first is the
    one where nothing is said."""
    sliding_layers: Literal["none", "all", "by_type"] = "none"
    """Layers that `config.sliding_window` limits, "by_type" being those named in `config.layer_types`."""

    @property
    def attention(self) -> str:
        """The `attn_implementation` where nothing is said, in training and in streaming."""
        return self.implementations[0]

    @property
    def flash_attn(self) -> str:
        """LLaMA-Factory's name for it."""
        return next(name for name, implementation in FLASH_ATTN.items() if implementation == self.attention)


FLASH_ATTN: Mapping[str, str] = {"sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"}
"""Values of LLaMA-Factory's ``flash_attn``, and what transformers calls them."""

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("falcon", "falcon", "alibi", _FALCON_SHAPE | {"alibi": True, "multi_query": False, "bias": True}),
        Family(
            "bloom",
            "bloom",
            "alibi",
            {"hidden_size": 64, "n_layer": 2, "n_head": 4},
            accepts_position_ids=False,
            implementations=("eager",),
        ),
        Family(
            "mpt",
            "mpt",
            "alibi",
            {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
            accepts_position_ids=False,
            implementations=("eager",),
        ),
        Family("llama", "llama", "rope", _LLAMA_SHAPE),
        Family("qwen2", "qwen2", "rope", _LLAMA_SHAPE, sliding_layers="by_type"),
        Family("qwen3", "qwen3", "rope", _LLAMA_SHAPE, sliding_layers="by_type"),
        Family("mistral", "mistral", "rope", _LLAMA_SHAPE, sliding_layers="all"),
        # Of the two that take our mask only eager attention soft-caps the scores of Gemma 2.
        Family("gemma2", "gemma2", "rope", _GEMMA_SHAPE, implementations=("eager",), sliding_layers="by_type"),
        Family("gemma3", "gemma3_text", "rope", _GEMMA_SHAPE, sliding_layers="by_type"),
        Family("falcon_rope", "falcon", "rope", _FALCON_SHAPE | {"alibi": False, "multi_query": True}),
    )
}


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a model, told by its configuration.

    Raises:
        ValueError: If the family is not supported.
    """
    by_type = {family.model_type: family for family in FAMILIES.values()}
    if config.model_type not in by_type:
        raise ValueError(
            f"Model type {config.model_type!r} is not supported, expected {', '.join(sorted(by_type))}. "
            "Remove the `simulmask:` block to train with plain LLaMA-Factory, or see docs/add-a-family.md."
        )
    if config.model_type == "falcon":
        return FAMILIES["falcon" if config.alibi else "falcon_rope"]
    return by_type[config.model_type]


def check_attention(config: PreTrainedConfig, attn_implementation: str) -> None:
    """Refuse the attention implementations that cannot take a 4D float mask, or leave something of the scores out.

    BLOOM and MPT have no sdpa of their own in transformers, which reports them as "eager"; that of Gemma 2 drops the
    soft-capping.

    Raises:
        ValueError: If `attn_implementation` is not one that the family can use.
    """
    family = family_of(config)
    if attn_implementation not in family.implementations:
        raise ValueError(
            f"Attention {attn_implementation!r} cannot take the mask of simultaneous translation, or drops part of the "
            f"scores, for {family.model_type}; expected {' or '.join(family.implementations)}. "
            f"Set `flash_attn: {family.flash_attn}` in a training YAML, "
            f"`attn_implementation: {family.attention}` in an evaluation YAML."
        )


def check_flash_attention_2() -> None:
    """Refuse the version of transformers whose FlashAttention 2 cannot start.

    Raises:
        ValueError: on that version.
    """
    installed = version("transformers")
    if installed == WITHOUT_FLASH_ATTENTION_2:
        raise ValueError(
            f"flash_attn: fa2 does not work with transformers {installed}, whose FlashAttention 2 "
            f"cannot start; install another version (pip install transformers=={LOCKED}), or set flash_attn: sdpa."
        )


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Return the number of tokens that sliding layers see, None if every layer sees all of them."""
    match family_of(config).sliding_layers:
        case "all":
            return config.sliding_window
        case "by_type" if "sliding_attention" in config.layer_types:
            return config.sliding_window
    return None


def check_length(config: PreTrainedConfig, num_tokens: int) -> None:
    """Refuse sequences that are longer than the sliding window, which a 4D mask would silently replace.

    Raises:
        ValueError: If `num_tokens` (of the longest sequence, or `cutoff_len`) exceeds the window.
    """
    window = sliding_window(config)
    if window is not None and num_tokens > window:
        raise ValueError(
            f"A {config.model_type} with a sliding window of {window} tokens was given sequences of up to "
            f"{num_tokens} tokens, and our mask would replace the window; expected at most {window}. "
            f"Lower cutoff_len to {window}, or use a model without a sliding window."
        )


def check_positions(config: PreTrainedConfig, positions: str) -> None:
    """Refuse ``modified_alibi`` for a model that has no ALiBi.

    Raises:
        ValueError: If there is no ALiBi to modify.
    """
    family = family_of(config)
    if positions == "modified_alibi" and family.position != "alibi":
        raise ValueError(
            f"simulmask.positions: modified_alibi needs an ALiBi model, but {family.name} uses RoPE; "
            "set positions: group."
        )


def tiny_config(name: str, vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """Return a tiny configuration of the family `name`: 2 layers, 4 heads, hidden size 64, no dropout.

    Weights are drawn wide, so that the logits of a random model really depend on mask and positions.

    Raises:
        ValueError: If there is no family `name`.
    """
    from transformers import AutoConfig

    if name not in FAMILIES:
        raise ValueError(f"Unknown family {name!r}; expected one of {', '.join(FAMILIES)}.")
    family = FAMILIES[name]
    common = {
        "vocab_size": vocab_size,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(family.model_type, **(common | dict(family.tiny) | overrides))


def tiny_model(
    name: str, vocab_size: int, seed: int, attn_implementation: str = "sdpa", **overrides: Any
) -> PreTrainedModel:
    """Return a tiny random fp32 model in evaluation mode; the global random state stays as it was.

    A family that has but one implementation is built with that one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(name, vocab_size, **overrides)
    implementations = FAMILIES[name].implementations
    if len(implementations) == 1:
        (attn_implementation,) = implementations
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation, dtype=torch.float32)
    return model.eval()
