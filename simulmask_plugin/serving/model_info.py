"""What GET /model says: what the model is, and what a client may choose, from the fields of the policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.options import type_of
from simulmask_plugin.policies import POLICIES, Policy
from simulmask_plugin.serving.service import Limits
from simulmask_plugin.serving.wishes import Wish, Wishes
from simulmask_plugin.text.prompts import PROMPTED

FIRST_GUESS = 3
"""Of a number of source units that has no default, and that the model does not say."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Finds out what a model can do, by wishing for it.

    Args:
        settings: of the model.
        wishes: that it grants.
        limits: of the clients.
    """

    settings: ModelSettings
    wishes: Wishes
    limits: Limits

    def content(self, name: str, family: str) -> dict[str, Any]:
        """The answer; docs/serving.md describes it."""
        config = self.settings.config
        source_lang, target_lang = self._pair
        default = self.wishes.grant(Wish(None, source_lang, target_lang)).decision
        policies = [found for policy in POLICIES.values() if policy.streams and (found := self._about(policy))]
        return {
            "name": name,
            "family": family,
            "layout": config.layout.name,
            "source_lang": source_lang,
            "target_lang": target_lang,
            "languages": [list(pair) for pair in self.settings.trained_on.language_pairs or [self._pair]],
            "unit": config.source_units,
            "default": default,
            "policies": sorted(policies, key=lambda one: one["policy"] != default["policy"]),
            "latencies": [one for one in PROMPTED if config.layout.names_latency and self._goes({"latency": one})],
            "limits": {key: value for key, value in asdict(self.limits).items() if key != "idle"},
        }

    @property
    def _pair(self) -> tuple[str, str]:
        """The first language pair."""
        return (self.settings.trained_on.language_pairs or (self.settings.pair(),))[0]

    def _goes(self, decision: Mapping[str, Any]) -> bool:
        """Whether the model can be streamed like this."""
        try:
            self.wishes.grant(Wish(decision, *self._pair))
        except ValueError:
            return False
        return True

    def _about(self, policy: type[Policy]) -> dict[str, Any] | None:
        """What there is to choose of a policy; None: the model cannot be streamed with it."""
        parameters = [self._parameter(policy, key) for key in policy.parameters() if type_of(policy, key) in KINDS]
        chosen = {one["name"]: one["default"] for one in parameters if one["default"] is not None}
        if not self._goes({"policy": policy.name, **chosen}):
            return None
        calibrated = {entry.laal for entry in self.settings.calibration if entry.policy == policy.name}
        return {
            "policy": policy.name,
            "title": policy.name.replace("_", "-"),
            "parameters": parameters,
            "threshold": policy.threshold and policy.threshold.key,
            "laal": [laal for laal in sorted(calibrated) if self._goes({"policy": policy.name, "laal": laal})],
        }

    def _parameter(self, policy: type[Policy], key: str) -> dict[str, Any]:
        """A parameter: source units, or what a threshold may be."""
        kind, config = type_of(policy, key), self.settings.config
        (default,) = (field.default for field in fields(policy) if field.name == key)
        trained = config.policies[0].values() if config.policy is policy and len(config.policies) == 1 else {}
        if default is MISSING:
            default = FIRST_GUESS if kind is int else None
        least: float | None = 1 if kind is int else None
        most: float | None = self.limits.words if kind is int else None
        if policy.threshold is not None and policy.threshold.key == key:
            least, most = sorted((policy.threshold.loosest, policy.threshold.strictest))
        return {
            "name": key,
            "type": KINDS[kind],
            "least": least,
            "most": most,
            "default": trained.get(key, default),
            "step": 1 if kind is int else None,
        }


KINDS = {int: "integer", float: "number"}
"""Types of parameters, as JSON calls them; a latency is not among them."""
