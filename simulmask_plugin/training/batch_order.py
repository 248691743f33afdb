"""Batches of similar length, in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class ShuffledGroups(Sampler[int]):
    """``group_by_length`` of transformers, with its optimizer steps in random order.

    Stock, every fifty steps go from the longest sentences to the shortest. This is markedly worse for a small model
    trained from scratch on parallel text (docs/results.md).

    Args:
        lengths: number of tokens of every example.
        step_size: number of examples in an optimizer step, on all devices and in all accumulated batches.
        seed: with the epoch, determines the order, so that it is the same on every device and after a resume.
    """

    def __init__(self, lengths: Sequence[int], *, step_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.step_size = step_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Change the order; called at the beginning of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the examples, step by step; an incomplete step comes last."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)))
        grouped = get_length_grouped_indices(self.lengths, self.step_size, generator=generator)
        num_steps = len(grouped) // self.step_size
        for step in torch.randperm(num_steps, generator=generator).tolist():
            yield from grouped[step * self.step_size : (step + 1) * self.step_size]
        yield from grouped[num_steps * self.step_size :]
