"""Examples become a padded batch of integers: O(n) per example until the model is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simulmask_plugin.attention.mask import PADDING
from simulmask_plugin.batches.features import ScheduleSampler, from_feature
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, SequenceLayout
from simulmask_plugin.policies import ReadSchedule


def lay_out(
    config: SimulMaskConfig, example: Example, schedule: ReadSchedule, look_ahead: np.ndarray | None = None
) -> SequenceLayout:
    """Lay an example out as the block says; ``look_ahead``: the units that get their look-ahead row, None for all."""
    return config.layout.lay_out(example, schedule, config.convention, look_ahead)


class SimulMaskCollator:
    """Lays out examples and pads them on the right.

    Args:
        settings: layout, rows, positions and policy.
        pad_token_id: fills input_ids.
        pad_to_multiple_of: the length of a batch is a multiple of this.
        seed: of the draws per example and epoch.
    """

    def __init__(
        self, settings: ModelSettings, *, pad_token_id: int, pad_to_multiple_of: int | None = None, seed: int = 0
    ) -> None:
        self.config = settings.config
        self.sampler = ScheduleSampler(settings, seed)
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of or 1
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by data-loader workers too

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch the following batches belong to."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> SimulMaskCollator:
        """Return one that draws the same in every epoch, so that losses on held-out sentences can be compared."""
        collator = copy(self)
        collator._epoch = torch.zeros_like(self._epoch)
        return collator

    def lay_out(self, feature: Mapping[str, Any]) -> SequenceLayout:
        """Draw the schedule of one dataset row and lay it out."""
        example, column = from_feature(feature)
        schedule, look_ahead = self.sampler.draw(example, column, int(self._epoch))
        return lay_out(self.config, example, schedule, look_ahead)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch; every tensor has the shape (batch, length)."""
        return self.pad([self.lay_out(feature) for feature in features])

    def pad(self, layouts: Sequence[SequenceLayout]) -> dict[str, Tensor]:
        """Pad laid-out examples to one length."""
        longest = max(len(layout.input_ids) for layout in layouts)
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        fills = {
            "input_ids": self.pad_token_id,
            "labels": IGNORE_INDEX,
            "position_ids": 0,
            "source_unit": PADDING,
            "num_read": 0,
            "num_hidden": 0,
            "after_source": 0,
        }
        batch = {name: np.full((len(layouts), length), fill) for name, fill in fills.items()}
        for i, layout in enumerate(layouts):
            n = len(layout.input_ids)
            batch["input_ids"][i, :n] = layout.input_ids
            batch["labels"][i, :n] = layout.labels
            batch["position_ids"][i, :n] = layout.position
            batch["source_unit"][i, :n] = layout.source_unit
            batch["num_read"][i, :n] = layout.num_read
            if layout.num_hidden is not None:
                batch["num_hidden"][i, :n] = layout.num_hidden
                batch["after_source"][i, :n] = layout.after_source
        return {name: torch.from_numpy(values) for name, values in batch.items()}
