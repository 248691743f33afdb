"""What the tokens of a target unit may see as queries: the four row conventions, for training and for streaming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Convention:
    """What the tokens of target unit t see, each as a query: g(t) or g(t + 1) source units.

    Attributes:
        inner_waits: an inner token sees g(t + 1), which no session can show it: the unit is written before that.
        last_waits: the unit's last token sees g(t + 1); a session feeds it once so much has been read.
        look_ahead: the unit's last token has two rows where g(t) < g(t + 1), which both predict the next token: first
            a look-ahead row, which sees g(t) and is seen by no other row, then the row that is kept.
    """

    inner_waits: bool
    last_waits: bool
    look_ahead: bool = False


CONVENTIONS: Mapping[str, Convention] = {
    "look_ahead": Convention(inner_waits=False, last_waits=True, look_ahead=True),
    "query_unit": Convention(inner_waits=True, last_waits=True),  # as published
    "own_unit": Convention(inner_waits=False, last_waits=False),
    "next_unit": Convention(inner_waits=False, last_waits=True),  # negative control
}
