"""Finds the thresholds with which a policy reaches latencies on a dev set; all of a round are streamed at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy.optimize.elementwise import find_root

from simulmask_plugin.config.calibration import Calibrated, beside_threshold, threshold_of
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.batched import job, load_for, opener_of
from simulmask_plugin.evaluation.config import EvaluationConfig, num_sentences
from simulmask_plugin.evaluation.scores import metrics, translations
from simulmask_plugin.files.texts import read_text
from simulmask_plugin.policies import Threshold
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.pool import Job, Pool
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.simulation import Record, laal
from simulmask_plugin.streaming.translator import Translator

GRID = 8
"""Thresholds of the first round, from the loosest to the strictest."""
NEAR = 0.05
"""Source units between a latency that is asked for and one that counts as reached."""
ROUNDS, SMALLEST = 10, 1e-4
"""At most so many rounds after the first, until thresholds differ by this share of the scale."""

Result = tuple[Session, Record]


@dataclass(frozen=True, slots=True)
class Trial:
    """The dev set streamed with one threshold."""

    threshold: float
    laal: float
    """Mean over the sentences for which something was written, as in SimulEval."""
    bleu: float
    calls_per_token: float


@dataclass(slots=True)
class Trials:
    """Streams the dev set with thresholds, each once.

    Attributes:
        config: an evaluation of one policy, resolved.
        translator: its model.
        threshold: of the policy.
        say: called before a round, with what it does.
        found: what has been streamed, by the threshold.
    """

    config: EvaluationConfig
    translator: Translator
    threshold: Threshold
    say: Callable[[str], None]
    found: dict[float, Trial] = field(default_factory=dict)

    def laal(self, shares: Any) -> Any:
        """LAAL with the thresholds at shares (n,) of the way from loosest to strictest; all new ones at once."""
        wanted = [self.threshold.at(share) for share in shares]
        if new := [value for value in dict.fromkeys(wanted) if value not in self.found]:
            self.say(f"{self.threshold.key}: {', '.join(f'{value:g}' for value in new)}")
            self.found |= {trial.threshold: trial for trial in self._streamed(new)}
        return np.array([self.found[value].laal for value in wanted])

    def by_strictness(self) -> list[Trial]:
        """All trials, from the loosest to the strictest."""
        falls = self.threshold.strictest < self.threshold.loosest
        return [self.found[value] for value in sorted(self.found, reverse=falls)]

    def _streamed(self, thresholds: Sequence[float]) -> Iterator[Trial]:
        config, (policy,) = self.config, self.config.policies
        decisions = [Decision.from_dict({**policy, self.threshold.key: value}) for value in thresholds]
        sources, references = (read_text(path).splitlines(keepends=True) for path in (config.source, config.target))
        num = num_sentences(config)

        def opened() -> Iterator[Job[Result | ValueError]]:
            for decision in decisions:
                opener = opener_of(config, self.translator, decision)
                for source, reference in zip(sources[:num], references, strict=False):
                    yield job(config, opener, source.split(), reference)

        results: dict[int, Result] = {}
        for number, result in Pool(self.translator.model, config.lanes).run(opened()):
            if isinstance(result, ValueError):
                raise result
            results[number] = result
        for place, threshold in enumerate(thresholds):
            yield self._scored(threshold, [results[place * num + index] for index in range(num)])

    def _scored(self, threshold: float, results: Sequence[Result]) -> Trial:
        records, costs = [record for _, record in results], [session.counters for session, _ in results]
        lags = [laal(record, str(self.config.latency_unit)) for record in records if record["delays"]]
        if not lags:
            raise ValueError(
                f"The model wrote nothing for any sentence with {self.threshold.key} {threshold:g}, so that there is "
                "no latency to measure; train it for longer."
            )
        bleu, _ = metrics(self.config)
        calls = sum(cost.calls for cost in costs) / max(sum(cost.written_tokens for cost in costs), 1)
        return Trial(threshold, mean(lags), bleu.corpus_score(*translations(records)).score, calls)


def find_thresholds(trials: Trials, asked: Sequence[float]) -> dict[float, Trial]:
    """Stream until every latency that can be reached is, or its threshold is known; return the nearest trial of each.

    A latency that lies outside of all that a first grid of thresholds reaches has none.
    """
    shares = np.linspace(0, 1, GRID)
    grid = trials.laal(shares)
    between = {wanted: place for wanted in asked if (place := _place(grid, wanted)) is not None}
    if between:
        places = np.array(list(between.values()))
        find_root(
            lambda share, wanted: trials.laal(share) - wanted,
            (shares[places], shares[places + 1]),
            args=(np.array(list(between)),),
            tolerances={"fatol": NEAR, "xatol": SMALLEST},
            maxiter=ROUNDS,
        )
    nearest = {wanted: min(trials.found.values(), key=lambda trial: abs(trial.laal - wanted)) for wanted in asked}
    return {wanted: trial for wanted, trial in nearest.items() if wanted in between or abs(trial.laal - wanted) <= NEAR}


def _place(grid: Any, wanted: float) -> int | None:
    """The first two neighbours with this latency between them; None: there are none, or one that is near."""
    if np.abs(grid - wanted).min() <= NEAR:
        return None
    return next((i for i, (one, next_) in enumerate(pairwise(grid)) if (one < wanted) != (next_ < wanted)), None)


def calibrate(
    config: EvaluationConfig, settings: ModelSettings, asked: Sequence[float], say: Callable[[str], None]
) -> tuple[Trials, dict[float, Calibrated]]:
    """Find the thresholds of a policy for some latencies.

    Args:
        config: an evaluation on the dev set, resolved, whose one policy names no threshold.
        settings: of the model.
        asked: LAAL, in source units.
        say: called before every round, with what it does.

    Returns:
        what was streamed, and what was found, by the latency asked for; one that cannot be reached is not there.

    Raises:
        ValueError: if the policy has no threshold, or a sentence cannot be streamed.
    """
    pair = settings.pair(config.source_lang, config.target_lang)
    (decision,) = config.decisions
    policy, run = decision.resolve(settings.for_pair(*pair))
    threshold = threshold_of(policy)
    trials = Trials(config, load_for(config), threshold, say)
    found = {}
    for wanted, trial in find_thresholds(trials, asked).items():
        found[wanted] = Calibrated(
            policy=policy.name,
            parameters=beside_threshold(policy, run),
            language_pair=pair,
            laal=wanted,
            threshold=trial.threshold,
            reached=round(trial.laal, 4),
            latency_unit=str(config.latency_unit),
            sentences=num_sentences(config),
            files=_digests(config.source, config.target),
        )
    return trials, found


def _digests(*paths: str) -> Mapping[str, str]:
    return {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
