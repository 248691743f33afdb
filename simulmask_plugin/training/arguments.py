"""Checks of LLaMA-Factory's arguments against the ``simulmask:`` block, one another, and the model.

`simulmask validate` and training make the same checks, before weights are loaded. Each raises a ValueError that names
the key and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulmask_plugin.attention.families import (
    FLASH_ATTN,
    check_attention,
    check_flash_attention_2,
    check_length,
    check_positions,
    check_rope,
    family_of,
    is_multimodal,
    text_config,
)
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import FILE_NAME
from simulmask_plugin.corpora.dataset_info import read_entries
from simulmask_plugin.files.adapters import check_reproducible
from simulmask_plugin.options import check_values
from simulmask_plugin.training.pissa import check_pissa
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
    """Return the attention implementation that a training with this ``flash_attn`` uses, if LLaMA-Factory knows it."""
    if flash_attn == "auto":
        return family_of(model_config).attention
    if flash_attn not in FLASH_ATTN:
        raise ValueError(f"flash_attn: unknown value {flash_attn!r}; expected one of auto, {', '.join(FLASH_ATTN)}.")
    return FLASH_ATTN[flash_attn]


UNSET = (None, False)
"""What a key holds that is not used; zero counts as false."""

REFUSED = {
    "streaming": "set streaming: false; the data is read from disk, memory-mapped",
    "tokenized_path": "remove it; the map cache does the same",
    "train_on_prompt": "remove it; the loss is on what follows the prompt",
    "mask_history": "remove it; it trains only the last turn, but every turn is part of the translation",
    # its forward pass silently replaces our mask by its own causal mask
    "use_unsloth": "remove it; use_unsloth_gc saves memory as well",
    "shift_attn": "remove it; it hides tokens that our mask shows",
    "mixture_of_depths": "remove it; its layers skip tokens",
    "use_kt": "remove it",
    "rope_scaling": "remove it, and write rope_parameters, of type linear, yarn or llama3, into the model's "
    "config.json, which streaming reads, too",
    "split_special_tokens": "remove it; the prompt contains special tokens, and in the data their names are always "
    "plain text",
    "predict_with_generate": "use `simulmask eval` (SimulEval) instead",
    "parallelism_config": "remove it; our mask needs whole rows",
    **dict.fromkeys(("use_asft_loss", "use_mca", "use_hyper_parallel"), "remove it"),  # another trainer or forward pass
}
"""Keys that never work with the block, and the remedy."""

REFUSED_WITH_OWN_LOSS = (
    *("label_smoothing_factor", "use_dft_loss", "use_eaft_loss"),
    *("enable_liger_kernel", "use_liger_kernel"),  # these return a loss but no logits
)


def check_arguments(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Refuse what does not work with the block, before anything is loaded or written."""
    from simulmask_plugin.training.stream_eval import StreamEval, check_stream_eval

    config = SimulMaskConfig.from_dict(finetuning_args.simulmask)
    values: dict[str, Any] = {}
    for one in (model_args, data_args, training_args, finetuning_args):
        check_values(vars(one), where="the training YAML")
        values |= vars(one)
    read_entries(Path(str(data_args.dataset_dir), "dataset_info.json"))
    for key, remedy in _refused(config, values, model_args, data_args):
        raise ValueError(f"{key} does not work with the simulmask: block; {remedy}.")
    stream = StreamEval.of_block(finetuning_args.simulmask)
    if stream is not None:
        check_stream_eval(stream, config, model_args, data_args, training_args)
    check_bitsandbytes(model_args, training_args)
    check_pissa(finetuning_args, training_args)
    for adapter in model_args.adapter_name_or_path or []:
        check_reproducible(Path(adapter, model_args.adapter_folder or ""))
    _check_output(training_args)


def _refused(
    config: SimulMaskConfig, values: Mapping[str, Any], model_args: Any, data_args: Any
) -> Iterator[tuple[str, str]]:
    """Yield the keys, some with their values, that do not work with this block, and the remedy."""
    needs_mask, kind = not config.layout.in_chunks, values["finetuning_type"]
    if values["flash_attn"] == "fa2" and needs_mask:
        yield "flash_attn: fa2", "set flash_attn: sdpa (or disabled, that is eager)"
    if values["flash_attn"] == "fa3":
        yield "flash_attn: fa3", "LLaMA-Factory only has it for gpt_oss; set sdpa"
    if is_packed(data_args) and needs_mask:
        yield "packing", "set packing: false and neat_packing: false"
    if len(config.policies) > 1 and not needs_mask and is_flat(model_args, data_args):
        yield "a list of k", "give one k, or remove packing"
    yield from ((key, remedy) for key, remedy in REFUSED.items() if values[key] not in UNSET)
    if config.layout.has_own_loss:
        remedy = "remove it, or loss_on: target and special_token_weight"
        yield from ((key, remedy) for key in REFUSED_WITH_OWN_LOSS if values[key] not in UNSET)
    # What would leave the special tokens of ``interleaved`` untrained; the loaded model is checked again later.
    training_keys = {"freeze": ("freeze_extra_modules",), "oft": ("additional_target", "resize_vocab")}.get(kind, ())
    if config.layout.special_tokens and training_keys and not any(values[key] for key in training_keys):
        yield (
            f"finetuning_type: {kind}",
            f"set {training_keys[0]} to the embedding and the head (embed_tokens,lm_head), since the embeddings of the "
            "two special tokens have to be trained",
        )


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
    """Refuse a model that cannot be trained with this YAML."""
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
