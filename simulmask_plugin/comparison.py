"""The table, the figure and the report in which the systems of a study stand side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from jinja2 import Environment
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from simulmask_plugin.atomic import write_text
from simulmask_plugin.curves import draw_curve
from simulmask_plugin.scores import Score
from simulmask_plugin.sessions import Decision

COLUMNS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "laal": "LAAL",
    "al": "AL",
    "calls_per_token": "calls / token",
    "gflops_per_sentence": "GFLOPs / sentence",
}


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
        return decision.policy, decision.k, decision.n, decision.latency, decision.read_threshold


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the table, the figure and the report are made of.

    Attributes:
        study: path of the study.
        runs: in the order of the table.
        trainings: by model.
        plain: the model that stands for plain fine-tuning.
        reference: system, and run or None; see `Study.reference`.
        bleu: the metric.
        blocks: the simulmask: block of every model.
        evaluation: the keys of an evaluation YAML that all systems share.
        versions: signatures and versions, by name.
    """

    study: str
    runs: Sequence[Run]
    trainings: Mapping[str, Training]
    plain: str
    reference: tuple[str, str | None]
    bleu: BLEU
    blocks: Mapping[str, Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    versions: Mapping[str, str]


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
                **{title: getattr(run.score, key) for key, title in COLUMNS.items()},
                "p (BLEU)": p,
                "epochs": training.epochs,
                "M tokens": training.tokens / 1e6,
                "time / epoch": training.seconds / training.epochs / (plain.seconds / plain.epochs),
                "tokens / epoch": training.tokens / training.epochs / (plain.tokens / plain.epochs),
                **run.score.extra,
            }
        )
    return pandas.DataFrame(rows)


REPORT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ study }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
  table { border-collapse: collapse }
  th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
  th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
  img { max-width: 100% }
</style>
<h1>{{ study }}</h1>
<p>{{ sentences }} sentences. Latency in source units. p: sacrebleu's paired bootstrap of BLEU against {{ reference }}.
Time and tokens of training: one epoch as a multiple of one of {{ plain }}; an epoch is a pass over all rows, of prefix
pairs over all pairs, and of chunks over every latency of a sentence. No time: the training was interrupted.</p>
{{ table | safe }}
<p><img alt="BLEU against LAAL" src="data:image/png;base64,{{ figure }}"></p>
<h2>Models</h2>
{% for name, block in blocks.items() %}
<h3>{{ name }}</h3>
<ul>{% for key, value in block.items() %}<li>{{ key }}: <code>{{ value }}</code></li>{% endfor %}</ul>
{% endfor %}
<h2>Evaluation</h2>
<ul>{% for key, value in evaluation.items() %}<li>{{ key }}: <code>{{ value }}</code></li>{% endfor %}</ul>
<h2>Signatures and versions</h2>
<ul>{% for name, value in versions.items() %}<li>{{ name }}: <code>{{ value }}</code></li>{% endfor %}</ul>
</html>
"""


def write_comparison(output: Path, comparison: Comparison) -> tuple[Path, Path, Path]:
    """Write compare.tsv, compare.png and compare.html, which holds both; return their paths."""
    tsv, png, html = (output / f"compare.{ending}" for ending in ("tsv", "png", "html"))
    table = make_table(comparison)
    write_text(tsv, table.to_csv(sep="\t", index=False, float_format="%.4f"))
    curves: dict[str, list[Score]] = {}
    for run in comparison.runs:
        curves.setdefault(run.system, []).append(run.score)
    draw_curve(png, curves, comparison.study)
    system, name = comparison.reference
    template = Environment(autoescape=True, trim_blocks=True).from_string(REPORT)
    text = template.render(
        study=comparison.study,
        sentences=comparison.runs[0].score.sentences,
        reference=f"{system}, {name}" if name else f"{system} with the same policy",
        plain=comparison.plain,
        table=table.to_html(index=False, border=0, float_format="{:.2f}".format, na_rep=""),
        figure=base64.b64encode(png.read_bytes()).decode(),
        blocks=comparison.blocks,
        evaluation=comparison.evaluation,
        versions=comparison.versions,
    )
    write_text(html, text)
    return tsv, png, html
