"""PiSSA: adapters that start as the principal part of the weights, and what their conversion to LoRA omits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.adapters import PISSA_CONVERTED

BACKUP = "pissa_backup"
"""Folder that LLaMA-Factory writes into output_dir: the adapter as trained."""
WEIGHTS = "adapter_model.safetensors"
EXACT = -1
"""pissa_iter: the singular values are computed exactly, not estimated by a random method."""


def check_pissa(finetuning_args: Any, training_args: Any) -> None:
    """Raise a ValueError with the remedy where the adapter of PiSSA would only be usable in this process."""
    if finetuning_args.pissa_init and not finetuning_args.pissa_convert and finetuning_args.pissa_iter != EXACT:
        raise ValueError(
            f"pissa_init with pissa_iter: {finetuning_args.pissa_iter} estimates what it takes out of the weights by a "
            "random method, and a merge would take out something else; set pissa_convert: true and merge "
            f"output_dir/{PISSA_CONVERTED}, or set pissa_iter: {EXACT}."
        )
    if finetuning_args.pissa_convert and training_args.resume_from_checkpoint is not None:
        raise ValueError(
            "pissa_convert mistakes the adapter that a training resumes from for the one that it began with, and would "
            f"convert it into something else; train from the start, or with pissa_iter: {EXACT} and pissa_convert: "
            "false, which can resume."
        )


class PissaCallback(TrainerCallback):
    """Completes the converted adapter, into which PEFT only writes LoRA layers."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add all other trained weights, and simulmask.json; called after LLaMA-Factory's own callback."""
        if args.should_save:
            output = Path(str(args.output_dir))
            weights = [load_file(output / folder / WEIGHTS) for folder in (BACKUP, PISSA_CONVERTED)]
            save_file(weights[0] | weights[1], output / PISSA_CONVERTED / WEIGHTS, metadata={"format": "pt"})
            self.settings.save(output / PISSA_CONVERTED)
