"""What a trainer has to do differently: call the model with our mask, and save simulmask.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import is_multimodal
from simulmask_plugin.attention.mask import MASK_FIELDS, training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import IGNORE_INDEX
from simulmask_plugin.layouts.chunks import NOT_READ_END, Interleaved
from simulmask_plugin.text.prompts import READ_END, WRITE_END
from simulmask_plugin.training.batch_order import ShuffledGroups
from simulmask_plugin.training.losses import interleaved_loss
from simulmask_plugin.training.stream_eval import StreamScores


class SimulMaskTrainer(Trainer):
    """A mixin for any transformers Trainer; its collator is a SimulMaskCollator, or makes plain batches.

    ``settings`` and ``stream_scores`` are class attributes, set when the class is composed.
    """

    settings: ModelSettings
    stream_scores: StreamScores | None = None
    model: PreTrainedModel  # or PEFT's wrapper, which forwards its attributes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epochs = EpochCallback()
        self.add_callback(self._epochs)
        if isinstance(self.data_collator, SimulMaskCollator):
            prepare(self.model)
            self._epochs.followers.append(self.data_collator.set_epoch)
        if self.settings.config.layout.has_own_loss:
            self.compute_loss_func = self._interleaved_loss
        elif is_multimodal(self.model.config) and self.compute_loss_func is None:
            self.compute_loss_func = _causal_loss  # its own loss expects a 2D mask

    def _interleaved_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        layout = self.settings.config.layout
        assert isinstance(layout, Interleaved)
        tokenizer = cast(PreTrainedTokenizerBase, self.processing_class)
        (read_end,), (write_end,) = (tokenizer.encode(t, add_special_tokens=False) for t in (READ_END, WRITE_END))
        return interleaved_loss(
            outputs["logits"],
            labels,
            read_end=read_end,
            write_end=write_end,
            weight=layout.special_token_weight,
            num_items=num_items_in_batch,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """With ``group_by_length``, shuffle the steps as well."""
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        step_size = sampler.batch_size * self.args.world_size
        groups = ShuffledGroups(sampler.lengths, step_size=step_size, seed=self.args.seed)
        # When several processes resume, accelerate finds no sampler in the loader that skips seen batches.
        self._epochs.followers.append(groups.set_epoch)
        return groups

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make the random draws once, not per epoch."""
        with self._held_out():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Make the random draws once, not per epoch."""
        with self._held_out():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _held_out(self) -> Iterator[None]:
        collator = self.data_collator
        if isinstance(collator, SimulMaskCollator):
            self.data_collator = collator.for_evaluation()
        try:
            yield
        finally:
            self.data_collator = collator

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """With ``stream_eval``, stream as well, through the model that the loop leaves in evaluation mode."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        if self.stream_scores is not None:
            assert output.metrics is not None
            output.metrics.update(self.stream_scores.measure(self.model, metric_key_prefix))
        return output

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Hide labels that are not tokens from metrics."""
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        if isinstance(labels, torch.Tensor):
            labels = labels.masked_fill(labels == NOT_READ_END, IGNORE_INDEX)
        return loss, logits, labels

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Turn the integers of the batch into the mask, on the device, once per batch."""
        prepared = super()._prepare_inputs(inputs)
        if MASK_FIELDS[0] not in prepared:  # packed, or for an attention with a built-in causal mask
            return prepared
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        return training_inputs(prepared, self.model.config, dtype)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the checkpoint with simulmask.json, which says how to stream the model."""
        super()._save(output_dir, state_dict)
        directory = output_dir if output_dir is not None else self.args.output_dir
        assert directory is not None
        self.settings.save(directory)


def _causal_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The loss of every text model in transformers."""
    logits = outputs["logits"]
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch)


class EpochCallback(TrainerCallback):
    """Passes the epoch, on which their random draws depend, to collator and sampler."""

    def __init__(self) -> None:
        self.followers: list[Callable[[int], None]] = []

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Round, since the state counts epochs in floating point."""
        for set_epoch in self.followers:
            set_epoch(int((state.epoch or 0) + 1e-6))
