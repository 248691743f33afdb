"""Models and tokenizers from a folder: read, never run; and the errors for weights that are truncated or hold code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def weights_of(folder: str) -> Iterator[None]:
    """Raise a ValueError where the weights of a folder are truncated, or are a pickle with code, which is never run."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "a .bin file that contains more than tensors, or is truncated; code from a model is never run"
        raise ValueError(
            f"{folder}: the weights cannot be read ({reason}). Copy them again, or save the model as safetensors."
        ) from error


def load_config(folder: str | Path) -> Any:
    """The configuration of a model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_model(folder: str, *, attention: str, dtype: str = "float32") -> Any:
    """A causal language model in evaluation mode, see `weights_of`; the dtype ``auto`` is that of the weights."""
    from transformers import AutoModelForCausalLM

    with weights_of(folder):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model.eval()


def check_location(key: str, path: str) -> None:
    """Refuse a path that is no folder, and no name that the hub knows, at once; the hub would be asked for a minute."""
    is_hub_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and not Path(path.partition("/")[0]).is_dir()
    if not Path(path).is_dir() and not is_hub_name:
        raise ValueError(f"{key}: {path}: no such folder.")
