"""Where that goes which is fitted to a trained model, and the sentence pairs that it is fitted to."""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path

from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.corpora.parallel_text import Pair, read_aligned
from simulmask_plugin.layouts.base import Example
from simulmask_plugin.layouts.rows import UnitLayout
from simulmask_plugin.streaming.trained_model import TrainedModel


def folder_to_write(model: str, adapter: str | None) -> Path:
    """Where what is fitted to a model goes.

    Raises:
        ValueError: if it is not the user's own, or the model has no rows of which a policy could ask.
    """
    folder = TrainedModel.of(model, adapter).own_folder()
    layout = ModelSettings.load(folder).config.layout
    if not isinstance(layout, UnitLayout):
        raise ValueError(f"{folder} has layout: {layout.name}; expected prefix or slots.")
    return folder


def first_pairs(source: str, target: str, number: int) -> list[Pair]:
    """The first so many pairs of two line-aligned files; the rest is only counted.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: if the files do not have the same number of sentences.
    """
    pairs = read_aligned(Path(source), Path(target))
    first = list(islice(pairs, number))
    deque(pairs, maxlen=0)
    return first


def encode(encoder: ExampleEncoder, pair: Pair, languages: tuple[str, str]) -> Example:
    """Encode a pair between two languages, or raise a ValueError that says where it stands."""
    try:
        return encoder.encode(Row(pair.source, pair.target, *languages))
    except ValueError as error:
        raise ValueError(f"{pair.where}: {error}") from error
