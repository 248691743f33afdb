"""Weights in four or eight bits: the model is really quantized, or the run stops before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn

NOT_QUANTIZED = ("torch.", "transformers.models.", "peft.")
"""Modules of linear layer classes that are not quantized themselves, or wrap quantized ones."""

BITSANDBYTES_OPTIMIZERS = ("bnb", "paged", "adamw_8bit", "lion_8bit", "ademamix_8bit", "galore_adamw_8bit")
"""Parts of the names of bitsandbytes optimizers."""


def check_bitsandbytes(model_args: Any, training_args: Any) -> None:
    """Raise a ValueError that names the key if a YAML needs bitsandbytes, and it is not installed."""
    optimizer = str(getattr(training_args.optim, "value", training_args.optim))
    needed = {
        f"quantization_bit: {model_args.quantization_bit}": model_args.quantization_bit is not None
        and model_args.quantization_method == "bnb",
        f"optim: {optimizer}": any(name in optimizer for name in BITSANDBYTES_OPTIMIZERS),
    }
    for key, is_needed in needed.items():
        if is_needed and find_spec("bitsandbytes") is None:
            raise ValueError(f"{key} needs bitsandbytes, which is not installed; pip install bitsandbytes.")


@contextmanager
def quantizable() -> Iterator[None]:
    """Build Falcon with plain linear layers, the only ones that transformers replaces by quantized ones.

    Falcon's own class computes the same, but is a subclass, which transformers silently does not quantize.
    """
    from transformers.models.falcon import modeling_falcon

    own = modeling_falcon.FalconLinear
    modeling_falcon.FalconLinear = nn.Linear  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        modeling_falcon.FalconLinear = own  # type: ignore[misc]


def num_quantized(model: nn.Module) -> int:
    """Number of linear layers whose weights are quantized."""
    kinds = (type(module) for module in model.modules())
    return sum("Linear" in kind.__name__ and not kind.__module__.startswith(NOT_QUANTIZED) for kind in kinds)


def check_quantized(model: Any, wanted: str) -> int:
    """Return the number of quantized layers, or raise a ValueError if there is none."""
    count = num_quantized(model)
    if not count:
        raise ValueError(
            f"{wanted} has quantized no layer of {model.config.model_type}: transformers replaces torch.nn.Linear, and "
            "this model has layers of another class; remove the key, or take another model."
        )
    return count
