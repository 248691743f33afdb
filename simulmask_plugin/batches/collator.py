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

ROW_FIELDS = ("input_ids", "labels", "position", "source_unit", "num_read")
HIDDEN_FIELDS = ("num_hidden", "after_source")
"""Fields of a layout that become a batch; the second ones only where the positions need them."""


def lay_out(
    config: SimulMaskConfig, example: Example, schedule: ReadSchedule, look_ahead: np.ndarray | None = None
) -> SequenceLayout:
    """Lay an example out as the block says; ``look_ahead``: the units that get their look-ahead row, None for all."""
    return config.layout.lay_out(example, schedule, config.convention, look_ahead)


class SimulMaskCollator:
    """Lays out examples and pads them on the right; the seed is that of the draws per example and epoch."""

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
        fills = {"input_ids": self.pad_token_id, "labels": IGNORE_INDEX, "source_unit": PADDING}
        batch = {name: np.full((len(layouts), length), fills.get(name, 0)) for name in (*ROW_FIELDS, *HIDDEN_FIELDS)}
        for row, layout in enumerate(layouts):
            for name in ROW_FIELDS if layout.num_hidden is None else (*ROW_FIELDS, *HIDDEN_FIELDS):
                batch[name][row, : len(layout.input_ids)] = getattr(layout, name)
        batch["position_ids"] = batch.pop("position")
        return {name: torch.from_numpy(values) for name, values in batch.items()}
