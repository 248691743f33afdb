"""The SimulEval agent, without SimulEval's loop."""

from argparse import ArgumentParser

import pytest
from reference import settings_of

from simulmask_plugin.agents import SimulMaskAgent
from simulmask_plugin.families import FAMILIES


def test_gemma_2_is_streamed_with_the_soft_capping_of_training(model_of, byte_level, tmp_path):
    """Only eager attention caps the scores of Gemma 2, in training and in streaming."""
    model_of("gemma2", len(byte_level), 0).save_pretrained(tmp_path)
    byte_level.save_pretrained(tmp_path)
    settings_of(policy="wait_k", k=3).save(tmp_path)
    parser = ArgumentParser()
    SimulMaskAgent.add_args(parser)
    args = parser.parse_args(["--model", str(tmp_path)])
    args.device = "cpu"
    assert SimulMaskAgent(args).model.config._attn_implementation == "eager"
    args.attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="Attention 'sdpa' cannot take .* for gemma2; expected eager"):
        SimulMaskAgent(args)


def test_families_that_train_without_sdpa_stream_without_it():
    assert {name for name, family in FAMILIES.items() if family.attention == "eager"} == {"gemma2", "bloom", "mpt"}
