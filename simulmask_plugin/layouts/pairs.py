"""Prefix fine-tuning: a sentence pair becomes pairs of prefixes, one for every WRITE of its schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np

from simulmask_plugin.layouts.base import Example
from simulmask_plugin.policies import ReadSchedule


def prefix_pairs(example: Example, schedule: ReadSchedule) -> Iterator[tuple[Example, ReadSchedule]]:
    """Yield what the WRITEs see and write, each as plain causal text with its schedule; the longest comes last.

    Target units with the same g(t) form one WRITE. Its text is prompt | the first g(t) source units | header | the
    target up to its last unit | the token behind that, which teaches where the unit ends. Only its own units and this
    token carry labels, so that together the pairs label every target unit once. Where g(T + 1) > g(T), the end of
    sentence is a WRITE of its own.

    wait-1, two source units x1 x2, target units ya yb (two tokens, one unit) and z::

        token   P  x1  H  ya yb z             P  x1  x2  H  ya yb  z  E
        labels  .   .  .  ya yb z             .   .   .  .   .  .  z  E

    Args:
        example: the tokens of the sentence pair.
        schedule: g(1..T+1) over its units.
    """
    ids, num_target = example.input_ids, len(example.target_lengths)
    source_ends = np.cumsum([example.num_prompt, *example.source_lengths])
    target_ends = np.cumsum([example.source_end + example.num_header, *example.target_lengths])
    num_written = 0
    for num_read, units in groupby(schedule.num_read):
        end = min(num_written + len(list(units)), num_target)  # the end of sentence is no unit
        pair = replace(
            example,
            input_ids=np.concatenate([ids[: source_ends[num_read]], ids[example.source_end : target_ends[end] + 1]]),
            source_lengths=example.source_lengths[:num_read],
            target_lengths=example.target_lengths[:end],
            num_written=num_written,
        )
        yield pair, ReadSchedule((num_read,) * (end + 1), num_read)
        num_written = end
