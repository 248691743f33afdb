"""Sentences that reports show: the worst translated, and typical ones, by chrF of the sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from sacrebleu.metrics import CHRF

SHOWN = 10
"""Sentences of each kind."""


def sentence_chrf(predictions: Iterable[str], references: Iterable[str]) -> list[float]:
    """ChrF of every sentence by itself; BLEU of one sentence is 0 as soon as no four words match."""
    metric = CHRF()
    pairs = zip(predictions, references, strict=True)
    return [metric.sentence_score(prediction, [reference]).score for prediction, reference in pairs]


def worst_and_typical(scores: Sequence[float]) -> dict[str, list[int]]:
    """The indices of the sentences with the lowest scores, and of the others nearest to the median; in this order."""
    ascending = sorted(range(len(scores)), key=lambda index: scores[index])
    middle = median(scores)
    typical = sorted(ascending[SHOWN:], key=lambda index: abs(scores[index] - middle))
    return {"worst": ascending[:SHOWN], "typical": typical[:SHOWN]}
