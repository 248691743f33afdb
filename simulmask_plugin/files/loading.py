"""Weights are read, never run: the errors for weights that are truncated or contain code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


@contextmanager
def weights_of(folder: str) -> Iterator[None]:
    """While this is entered, a model is loaded from the folder.

    Raises:
        ValueError: if its weights are truncated, or are a pickle with code, which transformers does not read.
    """
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "a .bin file that contains more than tensors, or is truncated; code from a model is never run"
        raise ValueError(
            f"{folder}: the weights cannot be read ({reason}). Copy them again, or save the model as safetensors."
        ) from error
