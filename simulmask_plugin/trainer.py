"""The two things that a trainer has to do differently: call the model with our mask, and save simulmask.json."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from simulmask_plugin.alibi import prepare
from simulmask_plugin.collator import SimulMaskCollator
from simulmask_plugin.config import ModelSettings
from simulmask_plugin.delivery import training_inputs


class SimulMaskTrainer(Trainer):
    """A mixin to stand before any transformers Trainer; its collator must be a SimulMaskCollator.

    ``settings`` is a class attribute, set by whoever composes the class.
    """

    settings: ModelSettings
    model: PreTrainedModel  # or PEFT's wrapper of one, which hands its attributes through
    data_collator: SimulMaskCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.data_collator, SimulMaskCollator), type(self.data_collator)
        prepare(self.model)
        self.add_callback(EpochCallback(self.data_collator))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Turn the integers of the batch into the mask, on the device, once per batch."""
        return training_inputs(super()._prepare_inputs(inputs), self.model.config, self._attention_dtype())

    def _attention_dtype(self) -> torch.dtype:
        if self.args.bf16:
            return torch.bfloat16
        return torch.float16 if self.args.fp16 else self.model.dtype

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the checkpoint and, beside it, how the model has to be streamed."""
        super()._save(output_dir, state_dict)
        directory = output_dir if output_dir is not None else self.args.output_dir
        assert directory is not None
        self.settings.save(directory)


class EpochCallback(TrainerCallback):
    """Tells the collator the epoch, from which its draws are derived."""

    def __init__(self, collator: SimulMaskCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Round: the state counts epochs in floating point."""
        self.collator.set_epoch(int((state.epoch or 0) + 1e-6))
