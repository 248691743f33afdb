"""The ``simulmask:`` block in words, for `simulmask validate` and for the log of a training."""

from __future__ import annotations

from simulmask_plugin.config.block import CHUNKED, SimulMaskConfig


def describe_block(config: SimulMaskConfig) -> dict[str, str]:
    """What the ``simulmask:`` block means, in words, by topic."""
    rate = f", {config.look_ahead_rate:.0%} of the units with a look-ahead row" if config.has_look_ahead else ""
    offset = f", target {config.group_offset} positions further on" if config.group_offset else ""
    slots = f", slots of {config.slot_length} tokens" if config.layout == "slots" else ""
    rows = "every token once, plain causal" if config.layout in CHUNKED else config.rows + rate
    if config.prefix_pairs:
        rows = "prefix pairs: every WRITE is plain causal text of its own"
    return {
        "layout": config.layout + slots,
        "policy": describe_policy(config),
        "rows": rows,
        "positions": config.positions + offset,
        "units": f"source {config.source_units}, target {config.target_units}",
    }


def describe_policy(config: SimulMaskConfig) -> str:
    """The policy and its parameters."""
    if isinstance(config.k, tuple):
        return f"{config.policy}, k drawn from {', '.join(map(str, config.k))} for every example and epoch"
    parameters = [f", {key} = {getattr(config, key)}" for key in ("k", "n") if getattr(config, key) is not None]
    return config.policy + "".join(parameters)


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
