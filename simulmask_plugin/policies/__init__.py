"""Decision policies: when to READ and when to WRITE; a policy is an entry of ``POLICIES``, see docs/add-a-policy.md."""

from __future__ import annotations

from simulmask_plugin.policies.adaptive import AlignAtt, Confidence, Divergence, Entropy, LocalAgreement, Stability
from simulmask_plugin.policies.base import (
    Action,
    Evidence,
    Following,
    Policy,
    Probability,
    ReadSchedule,
    Threshold,
    Units,
    decide,
    parse_schedule,
    roll_out,
)
from simulmask_plugin.policies.fixed import Offline, ReadN, WaitK
from simulmask_plugin.policies.from_column import FromColumn
from simulmask_plugin.policies.model_driven import ModelDriven
from simulmask_plugin.policies.random_walk import RandomWalk

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        *(WaitK, ReadN, Offline, FromColumn, ModelDriven),
        *(RandomWalk, Confidence, Entropy, LocalAgreement, Divergence, Stability, AlignAtt),
    )
}

__all__ = [
    "POLICIES",
    "Action",
    "AlignAtt",
    "Confidence",
    "Divergence",
    "Entropy",
    "Evidence",
    "Following",
    "FromColumn",
    "LocalAgreement",
    "ModelDriven",
    "Offline",
    "Policy",
    "Probability",
    "RandomWalk",
    "ReadN",
    "ReadSchedule",
    "Stability",
    "Threshold",
    "Units",
    "WaitK",
    "decide",
    "parse_schedule",
    "roll_out",
]
