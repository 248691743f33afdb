"""What a study has found: its runs, side by side in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from simulmask_plugin.evaluation.measures import MEASURES
from simulmask_plugin.evaluation.scores import Score
from simulmask_plugin.streaming.options import Decision

COLUMNS = ("bleu", "chrf", "laal", "al", "calls_per_token", "gflops_per_sentence")
"""The measures of a run that the table has."""


@dataclass(frozen=True, slots=True)
class Training:
    """What the stages of a model took.

    Attributes:
        epochs: passes over the data, as LLaMA-Factory counts them (of prefix pairs, over all pairs).
        seconds: time of the training loops; NaN for a training that was interrupted, whose parts nobody added up.
        tokens: tokens that the model was fed, padding left out.
    """

    epochs: float = 0
    seconds: float = 0
    tokens: int = 0

    def __add__(self, other: Training) -> Training:
        return Training(self.epochs + other.epochs, self.seconds + other.seconds, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Run:
    """One system under one policy, streamed over the test set."""

    system: str
    model: str
    decision: Decision
    score: Score
    predictions: Sequence[str]
    references: Sequence[Sequence[str]]

    @property
    def policy(self) -> tuple[Any, ...]:
        """What decides on READ and WRITE, whatever is computed for it."""
        decision = self.decision
        return decision.policy, *decision.parameters.items()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the table, the figure and the report are made of.

    Attributes:
        title: of the study.
        date: of the report.
        runs: in the order of the table.
        trainings: by model.
        plain: the model that stands for plain fine-tuning.
        reference: system, and run or None; see `Study.reference`.
        bleu: the metric.
        blocks: the simulmask: block of every model.
        stages: of every model, what each was trained with.
        evaluation: the keys of an evaluation YAML that all systems share.
        versions: signatures and versions, by name.
        sources: the sentences that every run has translated.
    """

    title: str
    date: str
    runs: Sequence[Run]
    trainings: Mapping[str, Training]
    plain: str
    reference: tuple[str, str | None]
    bleu: BLEU
    blocks: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, Sequence[str]]
    evaluation: Mapping[str, Any]
    versions: Mapping[str, str]
    sources: Sequence[str]


def p_values(comparison: Comparison) -> list[float | None]:
    """Return p of sacrebleu's paired bootstrap of every run against its reference; None where it has none, or is it."""
    system, name = comparison.reference
    result: list[float | None] = []
    for run in comparison.runs:
        baselines = [
            other
            for other in comparison.runs
            if other.system == system and (other.policy == run.policy if name is None else other.score.name == name)
        ]
        if not baselines or baselines[0] is run:
            result.append(None)
            continue
        if list(run.predictions) == list(baselines[0].predictions):
            result.append(1.0)  # where no resample differs, sacrebleu would find the difference significant
            continue
        named = [("reference", baselines[0].predictions), ("run", run.predictions)]
        test = PairedTest(named, {"BLEU": comparison.bleu}, baselines[0].references, test_type="bs")
        _, scores = test()
        of_run = scores["BLEU"][1]
        assert not isinstance(of_run, str)  # names are in the column "System" only
        result.append(of_run.p_value)
    return result


def make_table(comparison: Comparison) -> pandas.DataFrame:
    """Return one row per run; training costs are those of one pass over the data, as multiples of plain fine-tuning."""
    plain = comparison.trainings[comparison.plain]
    rows = []
    for run, p in zip(comparison.runs, p_values(comparison), strict=True):
        training = comparison.trainings[run.model]
        rows.append(
            {
                "system": run.system,
                "policy": run.score.name,
                **{MEASURES[key].title: getattr(run.score, key) for key in COLUMNS},
                "p (BLEU)": math.nan if p is None else p,
                "epochs": training.epochs,
                "M tokens": training.tokens / 1e6,
                "time / epoch": training.seconds / training.epochs / (plain.seconds / plain.epochs),
                "tokens / epoch": training.tokens / training.epochs / (plain.tokens / plain.epochs),
                **run.score.extra,
            }
        )
    return pandas.DataFrame(rows)
