"""The thresholds in simulmask.json with which policies reach a latency; `simulmask calibrate` finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from simulmask_plugin.config.trained_on import LanguagePair
from simulmask_plugin.layouts.base import RunOptions
from simulmask_plugin.options import check_choice
from simulmask_plugin.policies import POLICIES, Policy, Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A threshold of a policy, and the latency that was reached with it; an entry of ``calibration``."""

    policy: str
    parameters: Mapping[str, Any]
    """All others of the policy, and what the run chose beside it."""
    language_pair: LanguagePair
    """That was streamed."""
    laal: float
    """Asked for, in source units."""
    threshold: float
    reached: float
    """LAAL, over the sentences below."""
    latency_unit: str
    """In which SimulEval counts the target."""
    sentences: int
    """The first so many."""
    files: Mapping[str, str]
    """SHA-256 of source and target, by their names."""

    def __post_init__(self) -> None:
        """Check the policy."""
        check_choice("policy", self.policy, POLICIES)

    def replaces(self, other: Calibrated) -> bool:
        """Whether both say the same latency of the same policy."""
        return self.laal == other.laal and self.goes_with(other.policy, other.parameters, other.language_pair)

    def goes_with(self, policy: str, parameters: Mapping[str, Any], language_pair: LanguagePair) -> bool:
        """Whether it is a threshold of this policy."""
        return (self.policy, self.parameters, self.language_pair) == (policy, parameters, language_pair)


def threshold_of(policy: type[Policy] | Policy) -> Threshold:
    """The parameter of a policy that a latency stands for.

    Raises:
        ValueError: if it has none.
    """
    if policy.threshold is None:
        others = ", ".join(name for name, other in POLICIES.items() if other.threshold)
        raise ValueError(
            f"Policy {policy.name} has no threshold that a laal could stand for; these have one: {others}."
        )
    return policy.threshold


def beside_threshold(policy: Policy, run: RunOptions) -> dict[str, Any]:
    """What a calibrated threshold goes with: the other parameters of the policy, and what the run chose."""
    values = policy.values() | {key: value for key, value in asdict(run).items() if value not in (None, False)}
    return {key: value for key, value in values.items() if key not in (threshold_of(policy).key, "laal")}


def find(calibration: Iterable[Calibrated], policy: Policy, run: RunOptions, language_pair: LanguagePair) -> Calibrated:
    """The entry of the latency that a run asks for.

    Raises:
        ValueError: if there is none, with those that there are, and the command that adds it.
    """
    parameters, entries = beside_threshold(policy, run), tuple(calibration)
    for entry in entries:
        if entry.laal == run.laal and entry.goes_with(policy.name, parameters, language_pair):
            return entry
    flags = "".join(
        f" --{key.replace('_', '-')}" + ("" if value is True else f" {value}") for key, value in parameters.items()
    )
    raise ValueError(
        f"laal: {run.laal:g} was not calibrated for {_named(policy.name, parameters)}, {' to '.join(language_pair)}; "
        f"calibrated: {_listed(entries)}. Add it: simulmask calibrate MODEL --policy {policy.name}{flags} "
        f"--laal {run.laal:g} --source FILE --target FILE."
    )


def _named(policy: str, parameters: Mapping[str, Any]) -> str:
    return " ".join([policy, *(f"{key}={value}" for key, value in parameters.items())])


def _listed(entries: Iterable[Calibrated]) -> str:
    """The latencies that there are, by what they are of."""
    known: dict[str, list[str]] = {}
    for entry in entries:
        of = f"{_named(entry.policy, entry.parameters)}, {' to '.join(entry.language_pair)}"
        known.setdefault(of, []).append(f"{entry.laal:g}")
    return "; ".join(f"{of}: laal {', '.join(laals)}" for of, laals in known.items()) or "nothing"
