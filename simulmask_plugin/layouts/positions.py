"""Position schemes: where RoPE turns a token to, or the place from which ALiBi measures distance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from simulmask_plugin.layouts.base import SequenceLayout


def position_ids(layout: SequenceLayout, *, scheme: str, group_offset: int = 0) -> Int[np.ndarray, " tokens"]:
    """Return the position of every token of a training sequence; a look-ahead pair shares one.

    - ``contiguous``: 0..n-1, what plain fine-tuning does.
    - ``modified_alibi``: the same numbers; :func:`key_rank` takes the unread source away, row by row
      (SimulMask, section 4.3).
    - ``group``: prompt and source count from 0; header and target count from the end of the prompt, ``group_offset``
      further on, so that they do not depend on the length of the source.
    - ``slots``: those of the layout, see :mod:`~simulmask_plugin.layouts.slots`.
    """
    if scheme == "slots":
        assert layout.position is not None, "positions: slots belong to the layout slots"
        return layout.position
    if scheme == "group":
        example = layout.example
        moved = (
            layout.token
            - example.source_end
            + target_start(num_prompt=example.num_prompt, num_source_tokens=0, scheme=scheme, group_offset=group_offset)
        )
        return np.where(layout.after_source, moved, layout.token)
    return layout.token


def target_start(*, num_prompt: int, num_source_tokens: int, scheme: str, group_offset: int) -> int:
    """Return the position of the first header token.

    ``num_source_tokens`` are those before it: all of them in training, those that have arrived when a cache grows
    (where this differs, ``contiguous`` has its known mismatch), none for a scheme that does not count them.
    """
    return num_prompt + (group_offset if scheme == "group" else num_source_tokens)
