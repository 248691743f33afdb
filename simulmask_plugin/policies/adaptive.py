"""Policies that look at the model's predictions while streaming, within a band of lags.

All of them ask one question: would more source change what is written next? See docs/adaptive.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from simulmask_plugin.options import Must
from simulmask_plugin.policies.band import Band
from simulmask_plugin.policies.base import Evidence, Probability, Threshold, Units

Nats = Annotated[float, Must("be at least 0 (nats)", lambda value: value >= 0)]


@dataclass(frozen=True, kw_only=True)
class Adaptive(Band):
    """Unit t is written with a lag of `least` source units at the earliest, and of `most` at the latest.

    Its model is trained with random schedules, or with several k.
    """

    trains = False
    spelled = ("least", "most", "units")
    most: Units = 4
    """The largest lag. A wide band gains nothing: the model would wait for what one word more does not settle."""

    def latest(self, t: int) -> float:
        """With the largest lag."""
        return self.most + t - 1


@dataclass(frozen=True, kw_only=True)
class Confidence(Adaptive):
    """WRITE when the likeliest token that opens the unit has a probability of at least this."""

    name = "confidence"
    threshold = Threshold("probability", 0.01, 1 - 1e-4, in_odds=True)
    probability: Probability = 0.5
    """Of the token."""

    def accepts(self, evidence: Evidence) -> bool:
        """Whether the model is sure."""
        return float(evidence.logits.softmax(dim=-1).max()) >= self.probability


@dataclass(frozen=True, kw_only=True)
class Entropy(Adaptive):
    """WRITE when the entropy of the token that opens the unit is at most this."""

    name = "entropy"
    threshold = Threshold("entropy", 8.0, 1e-3)
    entropy: Nats = 2.0
    """Nats."""

    def accepts(self, evidence: Evidence) -> bool:
        """Whether the model hesitates between few tokens."""
        log_p = evidence.logits.log_softmax(dim=-1)
        return float(-(log_p.exp() * log_p).sum()) <= self.entropy


@dataclass(frozen=True, kw_only=True)
class LocalAgreement(Adaptive):
    """WRITE when the same token opens the unit with and without the last units read.

    Local agreement (Liu et al., 2020, https://arxiv.org/abs/2005.11185, section 3.2) commits what two prefixes of the
    source agree on. There the whole hypothesis is decoded again for every prefix; here one row more is fed.
    """

    name = "local_agreement"
    units: Units = 1
    """How many source units the shorter prefix lacks."""

    @property
    def fewer(self) -> int:
        """The shorter prefix."""
        return self.units

    def accepts(self, evidence: Evidence) -> bool:
        """Whether they agree."""
        return evidence.fewer is not None and int(evidence.logits.argmax()) == int(evidence.fewer.argmax())


@dataclass(frozen=True, kw_only=True)
class Divergence(Adaptive):
    """WRITE when the last units read have changed the prediction by at most so much.

    The measure is the Kullback-Leibler divergence of the prediction now from the one with fewer units, as in DaP-SiMT
    (https://arxiv.org/abs/2310.14853), which trains a predictor of the divergence from the whole source, and LSG
    (https://arxiv.org/abs/2501.00868), which compares with the shortest prefix that is allowed.
    """

    name = "divergence"
    threshold = Threshold("divergence", 8.0, 1e-4)
    units: Units = 1
    """How many source units the shorter prefix lacks."""
    divergence: Nats = 0.5
    """Nats."""

    @property
    def fewer(self) -> int:
        """The shorter prefix."""
        return self.units

    def accepts(self, evidence: Evidence) -> bool:
        """Whether little has changed."""
        if evidence.fewer is None:
            return False
        now, before = (logits.log_softmax(dim=-1) for logits in (evidence.logits, evidence.fewer))
        return float((now.exp() * (now - before)).sum()) <= self.divergence


@dataclass(frozen=True, kw_only=True)
class Stability(Adaptive):
    """WRITE when one source unit more would hardly change the prediction, with at least this probability.

    The probability is that of a probe that ``simulmask probe`` fits to the model and saves beside it, as DaP-SiMT
    (https://arxiv.org/abs/2310.14853) trains a predictor of the divergence from the whole source on a frozen model.
    """

    name = "stability"
    threshold = Threshold("stability", 0.01, 1 - 1e-4, in_odds=True)
    needs_probe = True
    stability: Probability = 0.5
    """That it hardly changes."""

    @property
    def fewer(self) -> int:
        """What the last unit has changed is evidence, too."""
        return 1

    def accepts(self, evidence: Evidence) -> bool:
        """Whether waiting is unlikely to change anything."""
        assert evidence.probe is not None
        return evidence.probe(evidence.logits, evidence.fewer) >= self.stability


@dataclass(frozen=True, kw_only=True)
class AlignAtt(Adaptive):
    """WRITE unless the row that opens the unit looks at what has been read last.

    AlignAtt (Papi et al., 2023, https://arxiv.org/abs/2305.11408, section 3), for decoder-only models as in
    https://arxiv.org/abs/2606.03967: the heads that align are found once (``simulmask heads``), and saved beside the
    model.
    """

    name = "alignatt"
    spelled = ("least", "most", "last")
    needs_heads = True
    last: Units = 2
    """How many source units count as read last."""

    def accepts(self, evidence: Evidence) -> bool:
        """Whether the unit that it looks at most has others behind it."""
        assert evidence.attention is not None
        return int(evidence.attention.argmax()) < len(evidence.attention) - self.last
