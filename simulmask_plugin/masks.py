"""The one predicate that is the mask of every layout, and what is made of it."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor

PADDING = 2**31 - 1
"""source_unit of padding: read by no row but its own."""


def may_attend(
    query_order: Int[Tensor, "batch query"],
    key_order: Int[Tensor, "batch key"],
    source_unit: Int[Tensor, "batch key"],
    num_read: Int[Tensor, "batch query"],
) -> Bool[Tensor, "batch 1 query key"]:
    """Return the mask; True where the query may attend.

    may_attend(q, k) = k <= q and (source_unit[k] < num_read[q] or k == q), where k and q are compared by their place
    in the *training* sequence (``order``): arange in training, and while streaming whatever order they arrived in.
    source_unit is -1 outside the source, so that such keys are always readable.

    wait-1, tokens BOS x1 x2 SEP y1 (rows: query, columns: key)::

        BOS 1 . . . .
        x1  1 1 . . .
        x2  1 1 1 . .
        SEP 1 1 . 1 .     reads g(1) = 1
        y1  1 1 1 1 1     reads g(2) = 2 (kept row of a one-token unit)
    """
    query, key = query_order[:, :, None], key_order[:, None, :]
    readable = source_unit[:, None, :] < num_read[:, :, None]
    return ((key < query) & readable | (key == query))[:, None]
