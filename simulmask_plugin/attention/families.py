"""The model families that accept our attention mask, and what each of them needs.

Each check raises a ValueError that names what to set or to install.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from simulmask_plugin.attention.versions import LOCKED, WITHOUT_FLASH_ATTENTION_2

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
_SLIDING = {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA_SHAPE = _SLIDING | {"query_pre_attn_scalar": 16}
_GEMMA_4_SHAPE = {
    "initializer_range": 0.1,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 8,
}
_LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_MINISTRAL_3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 64.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.1,  # scales queries beyond the original length by their position
}
_FALCON_SHAPE = {
    key: _LLAMA_SHAPE[key]
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
}


@dataclass(frozen=True, slots=True)
class Family:
    """What training and streaming need to know about a model family."""

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
    tried: bool = True
    """Whether it is in the table, so that the tests check its parity."""
    implementations: tuple[str, ...] = ("sdpa", "eager")
    """Values of `attn_implementation` that accept a 4D float mask and compute the scores in full; the first is the
    default."""

    @property
    def attention(self) -> str:
        """The default `attn_implementation`, in training and streaming."""
        return self.implementations[0]

    @property
    def flash_attn(self) -> str:
        """LLaMA-Factory's name for it."""
        return next(name for name, implementation in FLASH_ATTN.items() if implementation == self.attention)


FLASH_ATTN: Mapping[str, str] = {"sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"}
"""Values of LLaMA-Factory's ``flash_attn``, and their names in transformers."""

_PLAIN_ROPE = (
    *("llama", "mistral", "qwen2", "qwen3", "arcee", "ernie4_5", "gemma", "glm", "glm4", "granite", "helium"),
    *("hunyuan_v1_dense", "nemotron", "olmo", "olmo2", "phi", "phi3", "stablelm", "starcoder2"),
)
"""Families that only need a name, which is also their `model_type`."""

_ROPE: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(_PLAIN_ROPE, {}),
    "apertus": {"rope_parameters": _LLAMA_3_ROPE},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0} | _SLIDING,
    "exaone4": _SLIDING,
    "ministral": _SLIDING,
    "ministral3": {"rope_parameters": _MINISTRAL_3_ROPE},
    "olmo3": _SLIDING,
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "smollm3": {"no_rope_layers": [1, 0]},
}
"""Families that also need what their tiny model has besides the shape of a Llama."""

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("falcon", "falcon", "alibi", _FALCON_SHAPE | {"alibi": True, "multi_query": False, "bias": True}),
        *(
            Family(name, name, "alibi", tiny, accepts_position_ids=False, implementations=("eager",))
            for name, tiny in (
                ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
                ("mpt", {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
            )
        ),
        # Of the two implementations that accept our mask, only eager soft-caps the scores of Gemma 2.
        Family("gemma2", "gemma2", "rope", _LLAMA_SHAPE | _GEMMA_SHAPE, implementations=("eager",)),
        Family("gemma3", "gemma3_text", "rope", _LLAMA_SHAPE | _GEMMA_SHAPE),
        Family("gemma4", "gemma4_text", "rope", _LLAMA_SHAPE | _GEMMA_4_SHAPE),
        Family("falcon_rope", "falcon", "rope", _FALCON_SHAPE | {"alibi": False, "multi_query": True}),
        *(Family(name, name, "rope", {**_LLAMA_SHAPE, **own}) for name, own in _ROPE.items()),
    )
}


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the text part of a configuration: all of it, or the `text_config` of a multimodal model."""
    return config.get_text_config()


def is_multimodal(config: PreTrainedConfig) -> bool:
    """Whether text is only a part of the model."""
    return text_config(config) is not config


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a model by its configuration; for a multimodal model, that of its text part.

    A family that is not in `FAMILIES` but has RoPE and ordinary layers is untried: its name is the
    `model_type`, and `self_test` checks whether it accepts our mask. All others are refused.
    """
    text = text_config(config)
    if text.model_type == "falcon":
        return FAMILIES["falcon" if text.alibi else "falcon_rope"]
    for family in FAMILIES.values():
        if family.model_type == text.model_type:
            return family
    problem = _what_is_unusual(text)
    if problem is not None:
        tried = ", ".join(sorted({family.model_type for family in FAMILIES.values()}))
        raise ValueError(
            f"Model type {config.model_type!r} is not supported, since {problem}; expected {tried}, or a decoder with "
            "RoPE and a standard mask. Remove the `simulmask:` block to train with plain LLaMA-Factory, or see "
            "docs/add-a-family.md."
        )
    return Family(text.model_type, text.model_type, "rope", {}, tried=False)


def _what_is_unusual(config: PreTrainedConfig) -> str | None:
    """Why a model that is not in the table cannot accept our mask; None if it may."""
    values = config.to_dict()
    others = set(values.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if others:
        return f"it has layers of {', '.join(sorted(others))}, which do not accept our mask"
    if config.is_encoder_decoder:
        return "it has an encoder"
    return None if values.get("rope_parameters") else "it has no RoPE"


def check_attention(config: PreTrainedConfig, attn_implementation: str) -> None:
    """Refuse attention implementations that cannot take a 4D float mask, or do not compute the scores in full.

    BLOOM and MPT have no sdpa in transformers, which reports them as "eager"; Gemma 2's sdpa drops the
    soft-capping.
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
    """Refuse the version of transformers whose FlashAttention 2 cannot start."""
    installed = version("transformers")
    if installed == WITHOUT_FLASH_ATTENTION_2:
        raise ValueError(
            f"flash_attn: fa2 does not work with transformers {installed}, whose FlashAttention 2 "
            f"cannot start; install another version (pip install transformers=={LOCKED}), or set flash_attn: sdpa."
        )


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Return the number of tokens that sliding layers see, None if every layer sees all tokens.

    If the configuration has `layer_types`, these tell which layers are sliding; otherwise all are.
    """
    values = text_config(config).to_dict()
    layer_types = values.get("layer_types")
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return values.get("sliding_window")


def check_length(config: PreTrainedConfig, num_tokens: int) -> None:
    """Refuse sequences of more tokens than the sliding window, which a 4D mask would silently replace."""
    window = sliding_window(config)
    if window is not None and num_tokens > window:
        raise ValueError(
            f"A {config.model_type} with a sliding window of {window} tokens was given sequences of up to "
            f"{num_tokens} tokens, and our mask would replace the window; expected at most {window}. "
            f"Lower cutoff_len to {window}, or use a model without a sliding window."
        )


def check_positions(config: PreTrainedConfig, positions: str) -> None:
    """Refuse ``modified_alibi`` for a model that has no ALiBi."""
    family = family_of(config)
    if positions == "modified_alibi" and family.position != "alibi":
        raise ValueError(
            f"simulmask.positions: modified_alibi needs an ALiBi model, but {family.name} uses RoPE; "
            "set positions: group."
        )


BY_LENGTH = ("dynamic", "longrope")
"""Types of RoPE that transformers recomputes from the largest position in a batch."""


def rope_types(config: PreTrainedConfig) -> Iterator[str]:
    """The RoPE types of a model: one, or one for each kind of layer; none for ALiBi."""
    parameters: Mapping[str, Any] = text_config(config).to_dict().get("rope_parameters") or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, Mapping))]
    yield from (kind["rope_type"] for kind in kinds if "rope_type" in kind)


def check_rope(config: PreTrainedConfig) -> None:
    """Refuse RoPE whose rotation depends on the length of the text, which a kept cache cannot follow.

    In training, the longest example of a batch determines the rotation of every token; while streaming, the text that
    has arrived when the token is fed does, and cached keys keep their rotation.
    """
    for rope_type in rope_types(config):
        if rope_type in BY_LENGTH:
            raise ValueError(
                f"This {config.model_type} has rope_type: {rope_type}, whose frequencies change with the length of the "
                "text, so that a kept cache is not what training saw; set another type in the rope_parameters of its "
                "config.json (default, for texts within the length it was pretrained with; linear; yarn), or take "
                "another model."
            )


def tiny_values(family: Family, vocab_size: int) -> dict[str, Any]:
    """Return the values of a tiny configuration: 2 layers, 4 heads, hidden size 64, no dropout.

    The range of the weights is large, so that the logits of a random model really depend on mask and positions.
    """
    common = {"vocab_size": vocab_size, "initializer_range": 0.2, "tie_word_embeddings": False}
    return common | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | dict(family.tiny)


def tiny_config(name: str, vocab_size: int, **overrides: Any) -> PreTrainedConfig:
    """Return a tiny configuration of the family `name`, from `tiny_values`, or raise a ValueError if there is none."""
    from transformers import AutoConfig

    if name not in FAMILIES:
        raise ValueError(f"Unknown family {name!r}; expected one of {', '.join(FAMILIES)}.")
    family = FAMILIES[name]
    return AutoConfig.for_model(family.model_type, **(tiny_values(family, vocab_size) | overrides))


def tiny_model(
    name: str, vocab_size: int, seed: int, attn_implementation: str = "sdpa", **overrides: Any
) -> PreTrainedModel:
    """Return a tiny random fp32 model in evaluation mode; the global random state does not change.

    A family with only one implementation is built with that one.
    """
    implementations = FAMILIES[name].implementations
    if len(implementations) == 1:
        (attn_implementation,) = implementations
    return random_model(tiny_config(name, vocab_size, **overrides), seed, attn_implementation)


def random_model(config: PreTrainedConfig, seed: int, attn_implementation: str) -> PreTrainedModel:
    """Return a random fp32 model in evaluation mode; the global random state does not change."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation, dtype=torch.float32)
    return model.eval()
