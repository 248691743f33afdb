"""Batches: padding, and what is drawn for them."""

import pickle

import numpy as np
import pytest
import reference
import torch

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.attention.mask import MASK_FIELDS, PADDING, training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import to_feature
from simulmask_plugin.layouts.base import IGNORE_INDEX

VOCAB = 450
FEATURES = [
    to_feature(reference.pieces_of(2, source, 1, target).example(), None)
    for source, target in [([1, 2, 1], [2, 1, 3]), ([3], [1]), ([1] * 6, [1, 4]), ([2, 1], [1] * 7)]
]


def collator_of(pad_to_multiple_of=None, seed=0, **block):
    settings = reference.settings_of(**({"policy": "wait_k", "k": 1, "look_ahead_rate": 1} | block))
    return SimulMaskCollator(settings, pad_token_id=9, pad_to_multiple_of=pad_to_multiple_of, seed=seed)


def test_golden_batch():
    first, second = (
        to_feature(reference.pieces_of(1, source, 1, target).example(), None)
        for source, target in [([1, 2], [2, 1]), ([1], [1])]
    )
    batch = collator_of(positions="modified_alibi")([first, second])
    assert {name: values[1].tolist() for name, values in batch.items()} == {
        "input_ids": [10, 20, 300, 400, 2, 9, 9, 9, 9, 9],
        "labels": [-100, -100, -100, 400, 2] + [-100] * 5,
        "position_ids": [0, 1, 2, 3, 4, 0, 0, 0, 0, 0],
        "source_unit": [-1, 0, -1, -1, -1] + [PADDING] * 5,
        "num_read": [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "num_hidden": [0] * 10,
        "after_source": [0, 0, 1, 1, 1, 0, 0, 0, 0, 0],
    }
    assert batch["num_hidden"][0].tolist() == [0, 0, 0, 0, 2, 2, 2, 0, 0, 0]
    assert all(values.dtype == torch.int64 for values in batch.values())


@pytest.mark.parametrize("multiple, length", [(None, 17), (1, 17), (8, 24), (64, 64)])
def test_length_is_a_multiple(multiple, length):
    batch = collator_of(multiple)(FEATURES)
    assert {values.shape for values in batch.values()} == {(len(FEATURES), length)}


@pytest.mark.parametrize("positions", ["group", "contiguous"])
def test_only_modified_alibi_moves_the_keys(positions):
    batch = collator_of(positions=positions)(FEATURES)
    assert not batch["num_hidden"].any()
    assert not batch["after_source"].any()


@torch.no_grad()
def logits_of(model, batch):
    prepare(model)
    inputs = training_inputs(batch, model.config, model.dtype)
    assert not inputs.keys() & set(MASK_FIELDS)
    del inputs["labels"]
    return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_nothing(model_of, name):
    """A batch of one and the same example in a longer, padded batch; the padding's logits are finite."""
    block = {"positions": "modified_alibi"} if FAMILIES[name].position == "alibi" else {}
    padded = logits_of(model_of(name, VOCAB, 0), collator_of(32, **block)(FEATURES))
    assert padded.isfinite().all()
    for row, feature in zip(padded, FEATURES, strict=True):
        (alone,) = logits_of(model_of(name, VOCAB, 0), collator_of(**block)([feature]))
        torch.testing.assert_close(row[: len(alone)], alone, atol=3e-5, rtol=1e-5)


def test_padding_token_is_read_by_nobody(model_of):
    batch = collator_of(32)(FEATURES)
    padding = batch["source_unit"] == PADDING
    before = logits_of(model_of("llama", VOCAB, 0), batch)
    batch["input_ids"][padding] = 7
    after = logits_of(model_of("llama", VOCAB, 0), batch)
    assert torch.equal(before[~padding], after[~padding])
    assert (batch["labels"][padding] == IGNORE_INDEX).all()


def test_the_loss_of_a_batch_is_that_of_its_labels(model_of):
    """The shift is the model's: the label of a row is the target of the row before it."""
    model, batch = model_of("llama", VOCAB, 0), collator_of()(FEATURES)
    loss = model(**training_inputs(batch, model.config, model.dtype), use_cache=False).loss
    rows = logits_of(model, batch)[:, :-1].log_softmax(-1)
    targets = batch["labels"][:, 1:]
    scored = targets != IGNORE_INDEX
    expected = -rows[scored].gather(1, targets[scored][:, None]).mean()
    torch.testing.assert_close(loss, expected)


DRAWS = {"k": "1-5", "look_ahead_rate": 0.5}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_draws_the_same_whatever_the_batches_are():
    """As for another number of processes, or after a resume in the middle of the epoch."""
    whole = collator_of(40, **DRAWS)
    whole.set_epoch(2)
    together = whole(FEATURES)
    resumed = collator_of(40, **DRAWS)
    resumed.set_epoch(2)
    for i in (3, 1):
        assert same({name: values[i : i + 1] for name, values in together.items()}, resumed([FEATURES[i]]))


def test_epochs_and_seeds_draw_differently():
    collator = collator_of(40, **DRAWS)
    first = collator(FEATURES)
    collator.set_epoch(1)
    assert not same(first, collator(FEATURES))
    assert not same(first, collator_of(40, seed=1, **DRAWS)(FEATURES))


def test_workers_see_the_epoch_of_the_main_process():
    """Persistent workers are started once, and asked for batches of every epoch."""
    collator = collator_of(40, **DRAWS)
    loader = torch.utils.data.DataLoader(
        FEATURES, batch_size=4, collate_fn=collator, num_workers=1, persistent_workers=True
    )
    for epoch in range(2):
        collator.set_epoch(epoch)
        (batch,) = loader
        assert same(batch, collator(FEATURES))


def test_draws_do_not_touch_the_global_random_state():
    before = torch.random.get_rng_state(), pickle.dumps(np.random.get_state())
    collator_of(**DRAWS)(FEATURES)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == pickle.dumps(np.random.get_state())
