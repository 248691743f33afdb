"""Schedules that the training data brings."""

from __future__ import annotations

from dataclasses import dataclass

from simulmask_plugin.policies.base import Policy


@dataclass(frozen=True, kw_only=True)
class FromColumn(Policy):
    """g(t) is a column of the training data; it cannot decide on unseen text."""

    name = "schedule"
    from_data = needs_column = True
    streams = False
