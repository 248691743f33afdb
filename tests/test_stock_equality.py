"""With policy offline and contiguous positions, what the plugin trains is plain causal fine-tuning."""

import numpy as np
import pytest
import torch
from driving import FAMILY_ATTENTION

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import to_feature
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import Example
from simulmask_plugin.text.prompts import Prompt

VOCABULARY = 50


def make_features() -> list[dict]:
    """Three examples of different lengths, with units of 1 to 3 tokens."""
    random = np.random.default_rng(0)
    features = []
    for num_source, num_target in ((1, 1), (5, 7), (9, 4)):
        source, target = random.integers(1, 4, num_source), random.integers(1, 4, num_target)
        ids = random.integers(3, VOCABULARY, 4 + source.sum() + 2 + target.sum() + 1)
        features.append(to_feature(Example(ids, 4, source, 2, target), None))
    return features


@pytest.mark.parametrize(("name", "implementation"), FAMILY_ATTENTION)
def test_offline_with_contiguous_positions_has_the_loss_of_plain_fine_tuning(name: str, implementation: str) -> None:
    config = SimulMaskConfig.from_dict({"policy": "offline", "positions": "contiguous"})
    collator = SimulMaskCollator(ModelSettings(config, Prompt("", "->")), pad_token_id=0, pad_to_multiple_of=8)
    features = make_features()
    batch = collator(features)
    lengths = [len(feature["input_ids"]) for feature in features]
    padding = torch.arange(batch["input_ids"].shape[1])[None] < torch.tensor(lengths)[:, None]
    # Stock Falcon applies ALiBi twice under eager attention; ours does it once, as sdpa does.
    stock_implementation = "sdpa" if name == "falcon" else implementation
    stock = tiny_model(name, VOCABULARY, seed=0, attn_implementation=stock_implementation)
    model = tiny_model(name, VOCABULARY, seed=0, attn_implementation=implementation)
    plain = {"input_ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": padding.long()}
    expected = stock(**plain, use_cache=False).loss

    prepare(model)
    loss = model(**training_inputs(batch, model.config, model.dtype), use_cache=False).loss

    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    moved = training_inputs(batch | {"num_read": batch["num_read"] - 1}, model.config, model.dtype)
    assert abs(model(**moved, use_cache=False).loss.item() - expected.item()) > 1e-3  # the comparison can fail
