"""Weights that are read, and never run: what is said where they are cut or hold code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


@contextmanager
def weights_of(folder: str) -> Iterator[None]:
    """While this is entered, a model is loaded from the folder.

    Raises:
        ValueError: if its weights are cut, or are a pickle with code, which transformers leaves unread.
    """
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "a .bin file that holds more than numbers, or is cut; no code of a model is ever run"
        raise ValueError(
            f"{folder}: the weights cannot be read ({reason}). Copy them again, or save the model as safetensors."
        ) from error
