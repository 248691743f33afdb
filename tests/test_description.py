"""What validate and the log of a training say of a block."""

import pytest

from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.description import describe_training

BLOCKS = {
    "prefix": (
        {"policy": "wait_k", "k": [3, 5], "look_ahead_rate": 0.5},
        "layout prefix; policy wait_k, k drawn from 3, 5 for every example and epoch; rows look_ahead, 50% of the "
        "units with a look-ahead row; positions group; units source word, target word",
    ),
    "interleaved": (
        {"layout": "interleaved"},
        "layout interleaved; policy model_driven; rows every token once, plain causal; positions contiguous; units "
        "source word, target word",
    ),
    "slots": (
        {"layout": "slots", "policy": "read_n", "n": 2, "slot_length": 8, "rows": "own_unit"},
        "layout slots, slots of 8 tokens; policy read_n, n = 2; rows own_unit; positions slots; units source word, "
        "target word",
    ),
}


@pytest.mark.parametrize(("block", "words"), BLOCKS.values(), ids=BLOCKS)
def test_log_of_a_training_names_layout_policy_rows_positions_and_attention(block, words):
    config = SimulMaskConfig.from_dict(block)
    line = describe_training(config, "sdpa", flat=False)
    assert line == f"simulmask: {words}; attention sdpa, with the mask of every example."


def test_log_says_where_batches_are_llama_factorys_own():
    line = describe_training(SimulMaskConfig.from_dict({"layout": "interleaved"}), "flash_attention_2", flat=True)
    assert line.endswith("attention flash_attention_2, LLaMA-Factory's own batches, plain causal.")
