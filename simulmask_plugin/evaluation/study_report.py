"""The report of a study: one self-contained HTML file with table, figure and translations."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from jinja2 import Environment
from sacrebleu.metrics import CHRF

from simulmask_plugin.evaluation.comparison import COLUMNS, Comparison, Run, make_table
from simulmask_plugin.evaluation.curves import draw_curve
from simulmask_plugin.evaluation.measures import EXTRA_DIGITS, MEASURES, meanings, number_text, p_text
from simulmask_plugin.evaluation.report import UNSAID, settings_that_matter
from simulmask_plugin.evaluation.scores import Score
from simulmask_plugin.files.atomic import write_text

FORMATS: Mapping[str, Callable[[Any], str]] = {
    **{"system": str, "policy": str, "p (BLEU)": p_text},
    **{MEASURES[key].title: partial(number_text, digits=MEASURES[key].digits) for key in COLUMNS},
    **dict.fromkeys(("epochs", "M tokens", "time / epoch", "tokens / epoch"), number_text),
}
"""How the cells of a column are written; those of other programs are numbers with `EXTRA_DIGITS`."""

QUANTILES = {"the worst": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "the best": 1.0}
"""Which sentences are shown: their places among all, ordered by the mean chrF of their translations."""

REPORT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem }
  .wide { overflow-x: auto }
  table { border-collapse: collapse; margin: .5rem 0 1rem }
  caption { text-align: left; font-weight: bold }
  th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
  .number, .results :is(td, th):nth-child(n + 3) {
    text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums
  }
  tr.text td { background: #f4f4f4 }
  img { max-width: 100% }
  .note { color: #555; font-size: 90% }
</style>
<h1>{{ title }}</h1>
<p>{{ num_systems }} systems, made of {{ num_models }} models, stream the same {{ sentences }} sentences. Report of
{{ date }}.</p>
<h2>Results</h2>
<div class="wide">{{ table | safe }}</div>
<p class="note">{% for line in meanings %}{{ line }}.<br>{% endfor %}
p: sacrebleu's paired bootstrap of BLEU against {{ reference }}.<br>
Time and tokens of training: one epoch as a multiple of one of {{ plain }}; an epoch is a pass over all rows, of prefix
pairs over all pairs, and of chunks over every latency of a sentence. No time: the training was interrupted.</p>
<p><img alt="BLEU against LAAL" src="data:image/png;base64,{{ figure }}"></p>
<h2>Translations</h2>
<p class="note">Of all sentences, ordered by the mean chrF of their translations here. The number is the sentence's own
chrF.</p>
{% for sample in samples %}
<table>
<caption>Sentence {{ sample.number }}: {{ sample.why }}</caption>
<tr class="text"><td colspan="3">Source</td><td>{{ sample.source }}</td></tr>
<tr class="text"><td colspan="3">Reference</td><td>{{ sample.reference }}</td></tr>
{% for output in sample.outputs %}
<tr><td>{{ output.system }}</td><td>{{ output.policy }}</td><td class="number">{{ output.chrf }}</td>
<td>{{ output.text }}</td></tr>
{% endfor %}
</table>
{% endfor %}
<h2>Models</h2>
<p class="note">The stages of each, and the keys of its simulmask: block that have another value than their default. The
whole YAML of a stage, and its log, are in the folder of the study.</p>
{% macro settings(caption, values) %}
<table><caption>{{ caption }}</caption>
{% for key, value in values.items() %}<tr><td>{{ key }}</td><td><code>{{ value }}</code></td></tr>{% endfor %}
</table>
{% endmacro %}
{% for name, block in blocks.items() %}{{ settings(name, block) }}{% endfor %}
<h2>How it was made</h2>
{{ settings("Evaluation", evaluation) }}
{{ settings("Signatures and versions", versions) }}
</html>
"""


class Output(NamedTuple):
    """What one run made of a sentence."""

    system: str
    policy: str
    chrf: str
    text: str


class Sample(NamedTuple):
    """A sentence, what every run made of it, and why it is shown; sentences count from 1."""

    number: int
    why: str
    source: str
    reference: str
    outputs: Sequence[Output]


def write_comparison(output: Path, comparison: Comparison) -> tuple[Path, Path, Path]:
    """Write compare.tsv, compare.png and compare.html, which holds both; return their paths."""
    tsv, png, html = (output / f"compare.{ending}" for ending in ("tsv", "png", "html"))
    table = make_table(comparison)
    write_text(tsv, table.to_csv(sep="\t", index=False, float_format="%.4f"))
    systems: dict[str, list[Score]] = {}
    for run in comparison.runs:
        systems.setdefault(run.system, []).append(run.score)
    draw_curve(png, systems, comparison.title)
    system, name = comparison.reference
    formats = {column: FORMATS.get(column, partial(number_text, digits=EXTRA_DIGITS)) for column in table}
    text = (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(REPORT)
        .render(
            title=comparison.title,
            date=comparison.date,
            num_systems=len(systems),
            num_models=len(comparison.trainings),
            sentences=comparison.runs[0].score.sentences,
            table=table.to_html(
                index=False, border=0, justify="left", classes="results", na_rep="", formatters=formats
            ),
            meanings=meanings(COLUMNS, "source units"),
            reference=f"{system}, {name}" if name else f"{system} with the same policy",
            plain=comparison.plain,
            figure=base64.b64encode(png.read_bytes()).decode(),
            samples=samples(comparison.sources, comparison.runs),
            blocks={name: _model(comparison, name) for name in comparison.blocks},
            evaluation=settings_that_matter(comparison.evaluation, {}),
            versions=comparison.versions,
        )
    )
    write_text(html, text)
    return tsv, png, html


def _model(comparison: Comparison, name: str) -> dict[str, str]:
    """The stages and the settings of a model."""
    stages = {f"stage {number}": stage for number, stage in enumerate(comparison.stages[name], 1)}
    return stages | settings_that_matter(comparison.blocks[name], UNSAID)


def samples(sources: Sequence[str], runs: Sequence[Run]) -> list[Sample]:
    """Return a few sentences, from the worst translated to the best translated."""
    metric = CHRF()
    (references,) = runs[0].references
    by_run = [
        [
            metric.sentence_score(text, [reference]).score
            for text, reference in zip(run.predictions, references, strict=True)
        ]
        for run in runs
    ]
    means = [mean(scores) for scores in zip(*by_run, strict=True)]
    order = sorted(range(len(means)), key=lambda sentence: means[sentence])
    places: dict[int, str] = {}
    for why, quantile in QUANTILES.items():
        places.setdefault(order[round(quantile * (len(order) - 1))], why)
    return [
        Sample(
            number=sentence + 1,
            why=f"{why} (mean chrF {number_text(means[sentence], 1)})",
            source=sources[sentence],
            reference=references[sentence],
            outputs=[
                Output(run.system, run.score.name, number_text(scores[sentence], 1), run.predictions[sentence])
                for run, scores in zip(runs, by_run, strict=True)
            ],
        )
        for sentence, why in places.items()
    ]
