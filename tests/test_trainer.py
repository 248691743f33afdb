"""What the trainer does beside LLaMA-Factory's: epochs, held-out sentences, labels that are no token."""

import pytest
import torch
from driving import encoder_of
from transformers import Trainer, TrainerState, TrainingArguments

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import Row, to_feature
from simulmask_plugin.layouts.chunks import NOT_READ_END
from simulmask_plugin.training.trainer import SimulMaskTrainer

SENTENCES = [(" ".join("abcdefgh"[: 1 + i % 8]), " ".join("hgfedcba"[: 1 + i % 7])) for i in range(24)]


@pytest.fixture
def trainer(tokenizer, tmp_path):
    """A trainer of a tiny model with k drawn per epoch and batches of similar length."""
    encoder = encoder_of(tokenizer, policy="wait_k", k=(1, 2, 3, 4, 5, 6))
    features = [to_feature(encoder.encode(Row(source, target, None, None)), None) for source, target in SENTENCES]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=len(SENTENCES),
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    composed = type("Composed", (SimulMaskTrainer, Trainer), {"settings": encoder.settings})
    return composed(
        tiny_model("llama", len(tokenizer), 0),
        arguments,
        SimulMaskCollator(encoder.settings, pad_token_id=tokenizer.pad_token_id),
        train_dataset=features,
        eval_dataset=features,
    )


def begin_epoch(trainer, epoch):
    trainer.state = TrainerState(epoch=epoch)
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)


def test_a_resumed_run_has_the_order_of_its_epoch_whoever_wraps_the_sampler(trainer):
    """Of several processes that resume, the loader holds the sampler so deep that accelerate does not find it."""
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    first = list(sampler)
    begin_epoch(trainer, 1.4)
    second = list(sampler)
    assert second != first and sorted(second) == sorted(first)
    begin_epoch(trainer, 0.4)
    assert list(sampler) == first


def test_training_draws_anew_in_every_epoch_and_evaluation_does_not(trainer):
    training, held_out = [], []
    for epoch in (0, 1.0):
        begin_epoch(trainer, epoch)
        training.append(trainer.data_collator(trainer.train_dataset)["num_read"].tolist())
        for loader in (trainer.get_eval_dataloader(), trainer.get_test_dataloader(trainer.eval_dataset)):
            (batch,) = loader  # in any order
            held_out.append(sorted(batch["num_read"].tolist()))
    assert training[0] != training[1]
    assert held_out == [sorted(training[0])] * 4


def test_metrics_see_no_label_that_is_no_token(trainer, monkeypatch):
    labels = torch.tensor([[-100, 3, NOT_READ_END, 5]])
    monkeypatch.setattr(Trainer, "prediction_step", lambda self, *args, **kwargs: (None, None, labels))
    _, _, given = trainer.prediction_step(trainer.model, {}, False)
    assert given.tolist() == [[-100, 3, -100, 5]]
    assert labels[0, 2] == NOT_READ_END
