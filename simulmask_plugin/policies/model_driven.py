"""The model writes down itself where it stops reading (EAST)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulmask_plugin.policies.base import Evidence, Policy, Probability, Threshold


@dataclass(frozen=True, kw_only=True)
class ModelDriven(Policy):
    """The model decides (EAST, https://arxiv.org/abs/2504.09570, section 3.4): WRITE when it predicts the end of read.

    In training the chunks of the data give g.
    """

    name = "model_driven"
    threshold = Threshold("read_threshold", 1e-4, 1 - 1e-4, in_odds=True)
    from_data = needs_read_end = True
    run_keys = ("latency",)
    in_label = False
    latency: Literal["low", "low-medium", "medium", "medium-high", "high", "offline"] | None = None
    """For the prompt; None: the only one that was trained, else medium."""
    read_threshold: Probability | None = None
    """WRITE when P(end of read) reaches this; None: when no token is likelier (as published)."""

    def wanted(self, t: int) -> float:
        """None: the model is asked after every unit."""
        return 0

    def accepts(self, evidence: Evidence) -> bool:
        """Whether the read ends here."""
        if self.read_threshold is None:
            return int(evidence.logits.argmax()) == evidence.read_end
        return float(evidence.logits.softmax(dim=-1)[evidence.read_end]) >= self.read_threshold
