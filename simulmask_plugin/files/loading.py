"""Models and tokenizers from a folder or the hub: read, never run; errors for weights that are cut or hold code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
WEIGHTS = ("*model*.safetensors", "*model*.bin")
"""On the hub, of models and adapters; the second only where there is none of the first."""


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


def load_model(folder: str | Path, *, attention: str, dtype: str = "float32") -> Any:
    """A causal language model in evaluation mode, see `weights_of`; the dtype ``auto`` is that of the weights."""
    from transformers import AutoModelForCausalLM

    with weights_of(str(folder)):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model.eval()


def check_location(key: str, path: str) -> None:
    """Refuse a path that is no folder, and no name that the hub knows, at once; the hub would be asked for a minute."""
    is_hub_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and not Path(path.partition("/")[0]).is_dir()
    if not Path(path).is_dir() and not is_hub_name:
        raise ValueError(f"{key}: {path}: no such folder.")


def local_folder(key: str, name: str, *, weights: bool = False) -> Path:
    """The folder of a model or an adapter, which may also have a name on the Hugging Face hub, and is then downloaded.

    Args:
        key: that names it.
        name: a folder, or OWNER/NAME on the hub; where the hub cannot be reached, its cache is what counts.
        weights: whether they are needed, too.

    Raises:
        ValueError: if there is no such folder, and neither the hub nor its cache has all of it.
    """
    check_location(key, name)
    return Path(name) if Path(name).is_dir() else _from_hub(key, name, weights)


@cache
def _from_hub(key: str, name: str, weights: bool) -> Path:
    """Ask once: an evaluation works on one state of what others may change."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    for pattern in WEIGHTS:
        wanted = [*SMALL_FILES, pattern] if weights else [*SMALL_FILES]
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns="*/*"))
        except OSError as error:
            raise ValueError(
                f"{key}: {name}: no such folder, and no model of that name from the Hugging Face hub or its cache "
                f"{HF_HUB_CACHE}: {str(error).splitlines()[0]}"
            ) from error
        if not weights or any(folder.glob(pattern)):
            return folder
    raise ValueError(f"{key}: {name}: {folder}, its copy from the Hugging Face hub, has no weights.")
