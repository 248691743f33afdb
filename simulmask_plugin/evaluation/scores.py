"""Scores of a streamed test set: how they are computed, called and written, their signatures, and their file."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import Any

import pandas
from sacrebleu.metrics import BLEU, CHRF

from simulmask_plugin import __version__
from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.evaluation.extra_metrics import run_metrics
from simulmask_plugin.evaluation.runs import INSTANCES, LATENCY_METRICS, SCORES, SESSIONS
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.files.texts import numbered_lines

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "llamafactory", "sacrebleu", "simuleval")
"""Whose versions are named; SimulEval needs no LLaMA-Factory, which may be installed elsewhere."""


@dataclass(frozen=True, slots=True)
class Score:
    """One row of scores.tsv."""

    name: str
    sentences: int
    bleu: float
    chrf: float
    al: float
    laal: float
    ap: float
    dal: float
    seconds_per_sentence: float
    calls_per_token: float
    gflops_per_sentence: float
    truncated: int
    extra: Mapping[str, float] = field(default_factory=dict)
    """Scores of `extra_metrics`; columns of their own."""


OWN = tuple(field.name for field in fields(Score) if field.name != "extra")
"""The columns that every scores.tsv has."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One field of a score."""

    title: str
    """Over its column."""
    digits: int
    meaning: str
    """With {unit}, the unit of the source, where it counts some."""


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


def score(config: EvaluationConfig, directory: Path) -> Score:
    """Score a finished run of a resolved evaluation: by sacrebleu (quality), SimulEval (latency), our log (cost)."""
    instances, sessions = (read_jsonl(directory / name) for name in (INSTANCES, SESSIONS))
    latency = pandas.read_csv(directory / SCORES, sep="\t").iloc[0]
    predictions, references = translations(instances)
    bleu, chrf = metrics(config)
    written = sum(session["written_tokens"] for session in sessions)
    return Score(
        name=directory.name,
        sentences=len(instances),
        bleu=bleu.corpus_score(predictions, references).score,
        chrf=chrf.corpus_score(predictions, references).score,
        **{metric.lower(): float(latency[metric]) for metric in LATENCY_METRICS},
        seconds_per_sentence=mean(session["seconds"] for session in sessions),
        calls_per_token=sum(session["calls"] for session in sessions) / max(written, 1),
        gflops_per_sentence=mean(session["flops"] for session in sessions) / 1e9,
        truncated=sum(session["truncated"] for session in sessions),
        extra=run_metrics(config.extra_metrics, instances, directory),
    )


def translations(instances: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the predictions and, as sacrebleu takes them, the references of a run's instances.log."""
    pairs = [(instance["prediction"], instance["reference"].strip()) for instance in instances]
    return [prediction for prediction, _ in pairs], [[reference for _, reference in pairs]]


def metrics(config: EvaluationConfig) -> tuple[BLEU, CHRF]:
    """The quality metrics of a resolved evaluation."""
    return BLEU(tokenize=config.bleu_tokenize), CHRF()


def signatures(config: EvaluationConfig) -> dict[str, str]:
    """The signature of the scores of a resolved evaluation: sacrebleu's signatures, latency unit and versions."""
    bleu, chrf = metrics(config)
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # a signature knows its number of references only after a score
    return {
        "BLEU": str(bleu.get_signature()),
        "chrF": str(chrf.get_signature()),
        "latency unit": str(config.latency_unit),
        "Python": platform.python_version(),
        "simulmask_plugin": __version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores.tsv."""
    rows = [{name: getattr(score, name) for name in OWN} | dict(score.extra) for score in scores]
    write_text(path, pandas.DataFrame(rows).to_csv(sep="\t", index=False, float_format="%.4f", na_rep="nan"))


def read_scores(folder: str | Path) -> list[Score]:
    """Read the scores.tsv of an evaluation.

    Raises:
        ValueError: if the folder has none, or it is damaged.
    """
    path = Path(folder, SCORES)
    if not path.is_file():
        raise ValueError(f"{folder} has no scores.tsv; expected the output of `simulmask eval`.")
    try:
        rows = pandas.read_csv(path, sep="\t", dtype={"name": str}).to_dict("records")
        scores = [Score(**{name: row.pop(name) for name in OWN}, extra=row) for row in rows]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); run `simulmask eval` again, which writes it anew.") from error
    if not scores:
        raise ValueError(f"{path} holds no scores; run `simulmask eval` again, which writes it anew.")
    return scores


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a log of one JSON object a line.

    Raises:
        OSError: if it cannot be read.
        ValueError: naming the line that is no JSON.
    """
    return [parse_json(line, str(path), line=number) for number, (line, _) in enumerate(numbered_lines(path), 1)]
