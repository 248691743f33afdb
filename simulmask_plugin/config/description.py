"""The ``simulmask:`` block in words, for `simulmask validate` and for the log of a training."""

from __future__ import annotations

from simulmask_plugin.config.block import SimulMaskConfig, block_keys


def describe_block(config: SimulMaskConfig) -> dict[str, str]:
    """What the ``simulmask:`` block means, in words, by topic."""
    described = config.layout.describe(config.convention)
    return {
        "layout": described["layout"],
        "policy": describe_policy(config),
        "rows": described["rows"],
        "positions": described["positions"],
        "units": f"source {config.source_units}, target {config.target_units}",
    }


def describe_policy(config: SimulMaskConfig) -> str:
    """The policy and its parameters."""
    keys = config.keys()
    words = [config.policy.name]
    for key in block_keys(config.policy):
        if isinstance(keys[key], tuple):
            words.append(f"{key} drawn from {', '.join(map(str, keys[key]))} for every example and epoch")
        elif keys[key] is not None:
            words.append(f"{key} = {keys[key]}")
    return ", ".join(words)


def describe_training(config: SimulMaskConfig, attention: str, *, flat: bool) -> str:
    """What takes part in a training, in one line.

    Args:
        config: the block.
        attention: the attention implementation.
        flat: whether batches are LLaMA-Factory's own, plain causal.
    """
    mask = "LLaMA-Factory's own batches, plain causal" if flat else "with the mask of every example"
    topics = "; ".join(f"{topic} {words}" for topic, words in describe_block(config).items())
    return f"simulmask: {topics}; attention {attention}, {mask}."
