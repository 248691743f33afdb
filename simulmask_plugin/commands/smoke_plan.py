"""What `simulmask smoke` replaces in a training YAML, so that it runs for a few steps on the current machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simulmask_plugin.training.machine import has_gpu

ROWS, BATCH = 64, 2
"""Rows of each data set, and examples of a batch."""

FOR_GPUS = (
    *("bf16", "fp16", "pure_bf16", "tf32", "bf16_full_eval", "fp16_full_eval", "fp8", "deepspeed", "fsdp"),
    *("enable_liger_kernel", "use_unsloth_gc", "quantization_bit", "quantization_type", "double_quantization"),
)
"""Keys that are left out if there is no GPU."""

GPU_OPTIMIZERS = ("paged_", "adamw_8bit", "adamw_bnb", "lion_8bit", "rmsprop_bnb")
"""How the names of bitsandbytes' optimizers begin."""

SHORT: Mapping[str, tuple[Any, str]] = {
    "preprocessing_num_workers": (None, "not for so few rows"),
    "logging_steps": (1, "every step is seen"),
    "report_to": ("none", "nothing is reported anywhere"),
    "save_strategy": ("no", "the end is saved, and no step before it"),
    **dict.fromkeys(("save_steps", "save_total_limit", "resume_from_checkpoint"), (None, "no checkpoints")),
    "plot_loss": (None, "three steps are no curve"),
    **dict.fromkeys(
        (
            *("eval_dataset", "val_size", "do_eval", "eval_strategy", "eval_steps", "eval_on_start"),
            *("load_best_model_at_end", "metric_for_best_model", "early_stopping_steps"),
        ),
        (None, "nothing is evaluated while training"),
    ),
    "overwrite_output_dir": (None, "the folder is new"),
}
"""Key -> its value in a training of a few steps (None: it is left out), and why."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A key of a training YAML that gets another value; None: it is left out."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware to train on."""

    gpu: bool
    flash_attention: bool

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        from transformers.utils import is_flash_attn_2_available

        return cls(gpu=has_gpu(), flash_attention=bool(is_flash_attn_2_available()))


def plan(values: Mapping[str, Any], machine: Machine, *, steps: int) -> list[Replacement]:
    """What is replaced in the keys of a training YAML, whether or not its model and data are found."""
    wanted = [*_for_machine(values, machine), *_shorter(values, steps)]
    return [one for one in wanted if values.get(one.key) != one.value]


def apply(values: Mapping[str, Any], replacements: Iterable[Replacement]) -> dict[str, Any]:
    """The keys with their replacements; of two for one key the later one counts."""
    result = dict(values) | {one.key: one.value for one in replacements}
    return {key: value for key, value in result.items() if value is not None}


def _for_machine(values: Mapping[str, Any], machine: Machine) -> Iterator[Replacement]:
    if not machine.gpu:
        for key in FOR_GPUS:
            yield Replacement(key, None, "for GPUs, of which there is none here")
        if str(values.get("optim", "")).startswith(GPU_OPTIMIZERS):
            yield Replacement("optim", "adamw_torch", "that one is for GPUs, of which there is none here")
    if values.get("flash_attn") == "fa2" and not (machine.gpu and machine.flash_attention):
        yield Replacement("flash_attn", "auto", "FlashAttention 2 is not here")


def _shorter(values: Mapping[str, Any], steps: int) -> Iterator[Replacement]:
    yield Replacement("max_steps", steps, "long enough to see it run")
    for key, default, most in (
        ("max_samples", ROWS, ROWS),
        ("per_device_train_batch_size", BATCH, BATCH),
        ("gradient_accumulation_steps", 1, 1),
    ):
        yield Replacement(key, min(values.get(key, default), most), "little data for a few steps")
    for key, (value, why) in SHORT.items():
        yield Replacement(key, value, why)
    block = values.get("simulmask")
    if isinstance(block, Mapping) and "stream_eval" in block:
        rest = {key: value for key, value in block.items() if key != "stream_eval"}
        yield Replacement("simulmask", rest, "nothing is evaluated, so that stream_eval is left out")
