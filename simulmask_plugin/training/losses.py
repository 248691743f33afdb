"""The loss of the layout ``interleaved``: a weight for the special tokens, and decisions without a token as label."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simulmask_plugin.layouts.base import IGNORE_INDEX
from simulmask_plugin.layouts.chunks import NOT_READ_END


def interleaved_loss(
    logits: Float[Tensor, "batch tokens vocabulary"],
    labels: Int[Tensor, "batch tokens"],
    *,
    read_end: int,
    write_end: int,
    weight: float,
    num_items: Tensor | int | None,
) -> Float[Tensor, ""]:
    """Return the mean over the labelled rows of -log P(label), times ``weight`` for the two special tokens.

    A row with the label `NOT_READ_END` costs -log(1 - P(read end)), with the weight of the special tokens: the source
    continues, and the model does not have to predict the word.

    The labels are at the row *after* the one that predicts them (the shift of transformers); ``read_end`` and
    ``write_end`` are ids, and ``num_items`` the labelled rows in the whole step (gradient accumulation, all devices),
    None: those in this batch.
    """
    targets = labels[:, 1:]
    is_labelled = targets != IGNORE_INDEX
    # Cast only labelled rows: with a large vocabulary, a copy of all logits takes gigabytes.
    rows, targets = logits[:, :-1][is_labelled].float(), targets[is_labelled]
    goes_on = targets == NOT_READ_END
    special = goes_on | (targets == read_end) | (targets == write_end)
    log_p = rows.log_softmax(dim=-1)
    log_label = log_p.gather(1, torch.where(goes_on, read_end, targets)[:, None])[:, 0]
    # log(1 - P) is summed over the other tokens, so that a P that rounds to 1 still has a loss and a gradient.
    others = log_p[goes_on].index_fill(1, targets.new_tensor([read_end]), -torch.inf).logsumexp(dim=-1)
    losses = -log_label.masked_scatter(goes_on, others)
    total = (losses * torch.where(special, weight, 1.0)).sum()
    return total / (num_items if num_items is not None else max(len(targets), 1))
