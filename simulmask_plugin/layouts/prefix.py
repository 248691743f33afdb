"""The layout ``prefix`` (SimulMask, https://arxiv.org/abs/2405.10443): the text as it is, with unread source hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulmask_plugin.layouts.base import Example, SequenceLayout
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.positions import Scheme
from simulmask_plugin.layouts.rows import Flags, lay_out_rows
from simulmask_plugin.policies import ReadSchedule


def prefix_layout(
    example: Example,
    schedule: ReadSchedule,
    *,
    rows: str,
    scheme: Scheme,
    look_ahead: Flags | None = None,
) -> SequenceLayout:
    """Lay an example out as prompt | source | header | target | end of sentence (SimulMask, section 4).

    wait-1, two source units x1 x2, target units ya yb (two tokens, one unit) and z, look_ahead::

        token        P  x1 x2  H  ya yb yb  z  E
        source_unit -1  0  1  -1  -1  2 -1 -1 -1    2 = S: a look-ahead row
        num_read     2  2  2   1   1  1  2  2  2
        labels       .  .  .   .  ya yb  z  z  E

    Args:
        example: the tokens.
        schedule: g(1..T+1) over the example's units.
        rows: the row convention.
        scheme: of the positions.
        look_ahead: for ``look_ahead``, the units that get their look-ahead row; None for all of them.
    """
    text = np.arange(len(example.input_ids))
    layout = lay_out_rows(
        example, schedule, CONVENTIONS[rows], look_ahead, token=text, position=text, opening=np.zeros(1, dtype=int)
    )
    visible = np.concatenate(([0], np.cumsum(example.source_lengths)))
    start, num_hidden = scheme.behind_source(int(visible[-1]), visible[layout.num_read])
    position = np.where(layout.after_source, layout.position + (start - int(visible[-1])), layout.position)
    return replace(layout, position=position, num_hidden=num_hidden)
