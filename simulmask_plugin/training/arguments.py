"""Checks of LLaMA-Factory's arguments against the ``simulmask:`` block, one another, and the model.

`simulmask validate` and training make the same checks, before weights are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulmask_plugin.attention.families import (
    FLASH_ATTN,
    check_attention,
    check_flash_attention_2,
    check_length,
    check_positions,
    family_of,
    is_multimodal,
    text_config,
)
from simulmask_plugin.attention.rope import check_rope
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import FILE_NAME
from simulmask_plugin.corpora.dataset_info import check_entries
from simulmask_plugin.options import check_values
from simulmask_plugin.training.pissa import check_adapter, check_pissa
from simulmask_plugin.training.quantization import check_bitsandbytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def is_packed(data_args: Any) -> bool:
    """Whether LLaMA-Factory puts several examples into one sequence."""
    return data_args.packing or data_args.neat_packing


def is_flat(model_args: Any, data_args: Any) -> bool:
    """Whether batches are LLaMA-Factory's own: packed, or for an attention with a built-in causal mask."""
    return is_packed(data_args) or model_args.flash_attn == "fa2"


def attention_of(model_config: PreTrainedConfig, flash_attn: str) -> str:
    """Return the attention implementation that a training with this ``flash_attn`` uses.

    Raises:
        ValueError: for a value that LLaMA-Factory does not know.
    """
    if flash_attn == "auto":
        return family_of(model_config).attention
    if flash_attn not in FLASH_ATTN:
        raise ValueError(f"flash_attn: unknown value {flash_attn!r}; expected one of auto, {', '.join(FLASH_ATTN)}.")
    return FLASH_ATTN[flash_attn]


def check_arguments(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Refuse what does not work with the block, before anything is loaded or written.

    Raises:
        ValueError: naming the key, with the remedy.
    """
    config = SimulMaskConfig.from_dict(finetuning_args.simulmask)
    for one in (model_args, data_args, training_args, finetuning_args):
        check_values(vars(one), where="the training YAML")
    check_entries(Path(str(data_args.dataset_dir)))
    refused = {
        **_refused_with_mask(config, model_args, data_args),
        **_refused_in_data(data_args),
        **_refused_of_model(model_args),
        **_refused_of_tokens(config, model_args, finetuning_args),
        **_refused_with_own_loss(config, model_args, training_args, finetuning_args),
        "predict_with_generate": (training_args.predict_with_generate, "use `simulmask eval` (SimulEval) instead"),
        "parallelism_config": (training_args.parallelism_config is not None, "remove it; our mask needs whole rows"),
        **{key: (getattr(finetuning_args, key), "remove it") for key in NEVER},
    }
    for key, (is_set, remedy) in refused.items():
        if is_set:
            raise ValueError(f"{key} does not work with the simulmask: block; {remedy}.")
    check_bitsandbytes(model_args, training_args)
    check_pissa(finetuning_args, training_args)
    for adapter in model_args.adapter_name_or_path or []:
        check_adapter(Path(adapter, model_args.adapter_folder or ""))
    _check_output(training_args)


NEVER = ("use_asft_loss", "use_mca", "use_hyper_parallel")
"""Keys of LLaMA-Factory's FinetuningArguments that choose another trainer or forward pass."""

Refused = dict[str, tuple[bool, str]]
"""Key (and value) -> whether it is set to something that does not work, and the remedy."""


def _refused_with_mask(config: SimulMaskConfig, model_args: Any, data_args: Any) -> Refused:
    needs_mask = not config.layout.in_chunks
    draws = len(config.policies) > 1
    return {
        "flash_attn: fa2": (
            model_args.flash_attn == "fa2" and needs_mask,
            "set flash_attn: sdpa (or disabled, that is eager)",
        ),
        "flash_attn: fa3": (model_args.flash_attn == "fa3", "LLaMA-Factory only has it for gpt_oss; set sdpa"),
        "packing": (is_packed(data_args) and needs_mask, "set packing: false and neat_packing: false"),
        "a list of k": (draws and not needs_mask and is_flat(model_args, data_args), "give one k, or remove packing"),
    }


def _refused_in_data(data_args: Any) -> Refused:
    return {
        "streaming": (data_args.streaming, "set streaming: false; the data is read from disk, memory-mapped"),
        "tokenized_path": (data_args.tokenized_path is not None, "remove it; the map cache does the same"),
        "train_on_prompt": (data_args.train_on_prompt, "remove it; the loss is on what follows the prompt"),
        "mask_history": (
            data_args.mask_history,
            "remove it; it trains only the last turn, but every turn is part of the translation",
        ),
    }


def _refused_of_model(model_args: Any) -> Refused:
    return {
        # its forward pass silently replaces our mask by its own causal mask
        "use_unsloth": (model_args.use_unsloth, "remove it; use_unsloth_gc saves memory as well"),
        "shift_attn": (model_args.shift_attn, "remove it; it hides tokens that our mask shows"),
        "mixture_of_depths": (model_args.mixture_of_depths is not None, "remove it; its layers skip tokens"),
        "use_kt": (model_args.use_kt, "remove it"),
        "rope_scaling": (
            model_args.rope_scaling is not None,
            "remove it, and write rope_parameters, of type linear, yarn or llama3, into the model's config.json, which "
            "streaming reads, too",
        ),
        "split_special_tokens": (
            model_args.split_special_tokens,
            "remove it; the prompt contains special tokens, and in the data their names are always plain text",
        ),
    }


def _refused_of_tokens(config: SimulMaskConfig, model_args: Any, finetuning_args: Any) -> Refused:
    """What would leave the special tokens of ``interleaved`` untrained; the loaded model is checked again later."""
    kind, has_tokens = finetuning_args.finetuning_type, bool(config.layout.special_tokens)
    oft_trains = finetuning_args.additional_target or model_args.resize_vocab
    why = "since the embeddings of the two special tokens have to be trained"
    return {
        "finetuning_type: freeze": (
            has_tokens and kind == "freeze" and not finetuning_args.freeze_extra_modules,
            f"set freeze_extra_modules to the embedding and the head (embed_tokens,lm_head), {why}",
        ),
        "finetuning_type: oft": (
            has_tokens and kind == "oft" and not oft_trains,
            f"set additional_target to the embedding and the head (embed_tokens,lm_head), {why}",
        ),
    }


def _refused_with_own_loss(
    config: SimulMaskConfig, model_args: Any, training_args: Any, finetuning_args: Any
) -> Refused:
    keys = {
        "label_smoothing_factor": training_args.label_smoothing_factor != 0,
        "use_dft_loss": finetuning_args.use_dft_loss,
        "use_eaft_loss": finetuning_args.use_eaft_loss,
        # these return a loss but no logits
        "enable_liger_kernel": model_args.enable_liger_kernel,
        "use_liger_kernel": training_args.use_liger_kernel,
    }
    remedy = "remove it, or loss_on: target and special_token_weight"
    return {key: (is_set and config.layout.has_own_loss, remedy) for key, is_set in keys.items()}


def _check_output(training_args: Any) -> None:
    output = Path(training_args.output_dir)
    if (
        training_args.do_train
        and training_args.resume_from_checkpoint is None
        and not training_args.overwrite_output_dir
        and (any(output.glob("checkpoint-*")) or (output / FILE_NAME).exists())
    ):
        raise ValueError(
            f"output_dir {output} already holds a run. To resume it, set resume_from_checkpoint: "
            f"{output}/checkpoint-N; to start again, set overwrite_output_dir: true; or choose another output_dir."
        )


def check_model(config: SimulMaskConfig, model_config: PreTrainedConfig, model_args: Any, data_args: Any) -> None:
    """Refuse a model that cannot be trained with this YAML.

    Raises:
        ValueError: naming the key, with the remedy.
    """
    from simulmask_plugin.streaming.self_test import check_takes_mask

    family, attention = family_of(model_config), attention_of(model_config, model_args.flash_attn)
    if is_flat(model_args, data_args) and is_multimodal(model_config):
        raise ValueError(
            f"flash_attn: fa2 and packing do not work with the multimodal {model_config.model_type}, which needs "
            "the places of images in the batches that LLaMA-Factory makes; set flash_attn: sdpa and packing: false."
        )
    if is_flat(model_args, data_args) and family.position == "alibi":
        key, remedy = "flash_attn: fa2", f"set flash_attn: {family.flash_attn}"
        if is_packed(data_args):
            key, remedy = "packing", "set packing: false and neat_packing: false"
        raise ValueError(f"{key} does not work with {family.name}, whose ALiBi bias is part of our mask; {remedy}.")
    shares_keys = text_config(model_config).to_dict().get("num_kv_shared_layers")
    if shares_keys and model_args.use_reentrant_gc and not model_args.disable_gradient_checkpointing:
        raise ValueError(
            f"Layers of {model_config.model_type} share keys and values, whose gradients reentrant checkpointing loses "
            "silently; set use_reentrant_gc: false, or disable_gradient_checkpointing: true."
        )
    if attention == FLASH_ATTN["fa2"]:
        check_flash_attention_2()
    else:
        check_attention(model_config, attention)
    check_length(model_config, data_args.cutoff_len)
    check_positions(model_config, config.layout.positions)
    check_rope(model_config)
    # A session passes its mask to the model even if training needs none.
    check_takes_mask(model_config, attention if attention in family.implementations else family.attention)
