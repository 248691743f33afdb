"""What is measured of a run: how each number is called, written and to be understood."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One field of a score.

    Attributes:
        title: over its column.
        digits: number of decimals.
        meaning: with {unit}, the unit of the source, where it counts some.
    """

    title: str
    digits: int
    meaning: str


MEASURES: Mapping[str, Measure] = {
    "bleu": Measure("BLEU", 2, "0 to 100, the higher the better; sacrebleu, over the whole test set"),
    "chrf": Measure("chrF", 2, "0 to 100, the higher the better; sacrebleu, over the whole test set"),
    "laal": Measure("LAAL", 2, "length-adaptive average lagging, how far the translation is behind: {unit}"),
    "al": Measure("AL", 2, "average lagging: {unit}; lower where a translation is longer than its reference"),
    "ap": Measure("AP", 2, "average proportion: share of the source that had been read, a mean over the translation"),
    "dal": Measure("DAL", 2, "differentiable average lagging: {unit}"),
    "seconds_per_sentence": Measure("s / sentence", 3, "wall-clock time of this machine, with what ran beside it"),
    "calls_per_token": Measure("calls / token", 2, "forward passes of the model for each token that was written"),
    "gflops_per_sentence": Measure("GFLOPs / sentence", 3, "floating-point operations of the matrix products"),
    "truncated": Measure("cut off", 0, "sentences that ended because max_target_tokens was reached"),
}
"""Fields of a `Score`, in the order of a table."""


EXTRA_DIGITS = 4
"""Of the scores of other programs, some of which lie in 0..1."""


def meanings(keys: Iterable[str], unit: str) -> list[str]:
    """What measures mean, each with its title in front; lags are in this unit of the source."""
    return [f"{MEASURES[key].title}: {MEASURES[key].meaning.format(unit=unit)}" for key in keys]


def number_text(value: float, digits: int = 2) -> str:
    """The number with this many decimals; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def p_text(p: float) -> str:
    """A p-value with three digits; what rounds to nothing is less than 0.001."""
    return "<0.001" if p < 0.001 else number_text(p, 3)
