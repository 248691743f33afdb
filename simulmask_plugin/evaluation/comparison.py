"""What a study has found: its runs side by side, in one table, one figure and one self-contained HTML report."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import pandas
from jinja2 import Environment
from sacrebleu.metrics import BLEU

from simulmask_plugin.evaluation.curves import draw_curve
from simulmask_plugin.evaluation.examples import sentence_chrf, worst_and_typical
from simulmask_plugin.evaluation.report import UNSAID, settings_that_matter
from simulmask_plugin.evaluation.scores import EXTRA_DIGITS, MEASURES, Score, meanings, number_text
from simulmask_plugin.evaluation.significance import bootstrap_p
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.streaming.options import Decision

COLUMNS = ("bleu", "chrf", "laal", "al", "calls_per_token", "gflops_per_sentence")
"""The measures of a run that the table has."""

REPORT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ comparison.title }}</title>
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
<h1>{{ comparison.title }}</h1>
<p>{{ num_systems }} systems, made of {{ comparison.trainings | length }} models, stream the same
{{ comparison.runs[0].score.sentences }} sentences. Report of {{ comparison.date }}.</p>
{% for name, why in comparison.failed.items() %}<p><strong>Failed:</strong> {{ name }}: {{ why }}</p>{% endfor %}
<h2>Results</h2>
<div class="wide">{{ table | safe }}</div>
<p class="note">{% for line in meanings %}{{ line }}.<br>{% endfor %}
p: sacrebleu's paired bootstrap of BLEU against {{ reference }}.<br>
{% if has_seeds %}trainings: of models with several seeds; numbers are means over them, sd is their standard
deviation, and the bootstrap draws them, too.<br>
{% endif %}Time and tokens of training: one epoch as a multiple of one of {{ comparison.plain }}; an epoch is a
pass over all rows, of prefix pairs over all pairs, and of chunks over every latency of a sentence. No time: the
training was interrupted.</p>
<p><img alt="BLEU against LAAL" src="data:image/png;base64,{{ figure }}"></p>
<h2>Translations</h2>
<p class="note">The sentences with the lowest mean chrF of their translations here, then those nearest to the median.
They count from 0, as in instances.log. The number beside a translation is its own chrF.</p>
{% for sample in samples %}
<table>
<caption>Sentence {{ sample.number }}: {{ sample.why }}</caption>
<tr class="text"><td colspan="3">Source</td><td>{{ sample.source }}</td></tr>
<tr class="text"><td colspan="3">Reference</td><td>{{ sample.reference }}</td></tr>
{% for system, policy, chrf, text in sample.outputs %}
<tr><td>{{ system }}</td><td>{{ policy }}</td><td class="number">{{ chrf }}</td><td>{{ text }}</td></tr>
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
{% for name, values in models.items() %}{{ settings(name, values) }}{% endfor %}
<h2>How it was made</h2>
{{ settings("Evaluation", evaluation) }}
{{ settings("Signatures and versions", comparison.versions) }}
</html>
"""


@dataclass(frozen=True, slots=True)
class Training:
    """What the stages of a model took."""

    epochs: float = 0
    """Passes over the data, as LLaMA-Factory counts them (of prefix pairs, over all pairs)."""
    seconds: float = 0
    """Time of the training loops; NaN for a training that was interrupted, whose parts are not added up."""
    tokens: float = 0
    """Tokens that the model was fed, padding left out."""

    def __add__(self, other: Training) -> Training:
        return Training(self.epochs + other.epochs, self.seconds + other.seconds, self.tokens + other.tokens)


def mean_training(trainings: Iterable[Training]) -> Training:
    """What one of them took, on average."""
    return Training(*map(mean, zip(*map(astuple, trainings), strict=True)))


@dataclass(frozen=True, slots=True)
class Run:
    """One system under one policy, streamed over the test set."""

    system: str
    model: str
    """Of a system with several, one of those that were trained with other seeds."""
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
    """Everything that the table, the figure and the report are made of."""

    title: str
    date: str
    runs: Sequence[Run]
    """In the order of the table."""
    trainings: Mapping[str, Training]
    """By model."""
    plain: str
    """The model of plain fine-tuning."""
    reference: tuple[str, str | None]
    """System, and run or None; see `StudyKeys.reference`."""
    bleu: BLEU
    models: Mapping[str, Mapping[str, Any]]
    """Of every model, what its stages were trained with, and the keys of its simulmask.json."""
    evaluation: Mapping[str, Any]
    """The keys of an evaluation YAML that all systems share."""
    versions: Mapping[str, str]
    """Signatures and versions, by name."""
    sources: Sequence[str]
    """The sentences that every run has translated."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Model, system or SYSTEM/RUN that has no result -> why."""


def groups_of(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in the order of the table; those of one system and policy, by models of other seeds, together."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.system, run.score.name), []).append(run)
    return list(groups.values())


def p_values(comparison: Comparison) -> list[float | None]:
    """Return p of the paired bootstrap of every group against its reference; None where it has none, or is it."""
    system, name = comparison.reference
    groups = groups_of(comparison.runs)
    result: list[float | None] = []
    for group in groups:
        of_system = [other for other in groups if other[0].system == system]
        same = (
            other
            for other in of_system
            if name == other[0].score.name or (not name and other[0].policy == group[0].policy)
        )
        baseline = next(same, group)
        if baseline is group:
            result.append(None)
        else:
            ours, theirs = ([run.predictions for run in side] for side in (group, baseline))
            result.append(bootstrap_p(comparison.bleu, ours, theirs, group[0].references))
    return result


def mean_score(group: Sequence[Run]) -> Score:
    """The score of the first run, with means over all for the measures of the table and of other programs."""
    scores = [run.score for run in group]
    extra = {name: mean(score.extra[name] for score in scores) for name in scores[0].extra}
    return replace(scores[0], extra=extra, **{key: mean(getattr(score, key) for score in scores) for key in COLUMNS})


def make_table(comparison: Comparison) -> pandas.DataFrame:
    """Return one row per group; training costs are those of a pass over the data, in multiples of plain fine-tuning."""
    plain = comparison.trainings.get(comparison.plain, Training(*[math.nan] * 3))
    groups = groups_of(comparison.runs)
    has_seeds = any(len(group) > 1 for group in groups)
    rows = []
    for group, p in zip(groups, p_values(comparison), strict=True):
        score = mean_score(group)
        training = mean_training(comparison.trainings[run.model] for run in group)
        bleu = [run.score.bleu for run in group]
        rows.append(
            {
                "system": group[0].system,
                "policy": score.name,
                **{MEASURES[key].title: getattr(score, key) for key in COLUMNS},
                "p (BLEU)": math.nan if p is None else p,
                **({"trainings": len(group), "sd (BLEU)": stdev(bleu) if bleu[1:] else math.nan} if has_seeds else {}),
                "epochs": training.epochs,
                "M tokens": training.tokens / 1e6,
                "time / epoch": training.seconds / training.epochs / (plain.seconds / plain.epochs),
                "tokens / epoch": training.tokens / training.epochs / (plain.tokens / plain.epochs),
                **score.extra,
            }
        )
    return pandas.DataFrame(rows)


def p_text(p: float) -> str:
    """A p-value with three digits; what rounds to nothing is less than 0.001."""
    return "<0.001" if p < 0.001 else number_text(p, 3)


FORMATS = {
    **{MEASURES[key].title: partial(number_text, digits=MEASURES[key].digits) for key in COLUMNS},
    **dict.fromkeys(("epochs", "M tokens", "time / epoch", "tokens / epoch"), number_text),
    "p (BLEU)": p_text,
    "sd (BLEU)": number_text,
}
"""How the numbers of a column are written; those of other programs have `EXTRA_DIGITS`."""


class Sample(NamedTuple):
    """A sentence, why it is shown, and what every run made of it; sentences count from 0."""

    number: int
    why: str
    source: str
    reference: str
    outputs: Sequence[tuple[str, str, str, str]]
    """System, policy, chrF and text."""


def write_comparison(output: Path, comparison: Comparison) -> tuple[Path, Path, Path]:
    """Write compare.tsv, compare.png and compare.html, which holds both; return their paths."""
    tsv, png, html = (output / f"compare.{ending}" for ending in ("tsv", "png", "html"))
    table = make_table(comparison)
    write_text(tsv, table.to_csv(sep="\t", index=False, float_format="%.4f"))
    systems: dict[str, list[Score]] = {}
    for group in groups_of(comparison.runs):
        systems.setdefault(group[0].system, []).append(mean_score(group))
    draw_curve(png, systems, comparison.title)
    system, name = comparison.reference
    report = Environment(autoescape=True, trim_blocks=True).from_string(REPORT)
    text = report.render(
        comparison=comparison,
        num_systems=len(systems),
        table=table.to_html(
            index=False, border=0, classes="results", na_rep="", formatters=FORMATS, float_format=f"%.{EXTRA_DIGITS}f"
        ),
        meanings=meanings(COLUMNS, "source units"),
        reference=f"{system}, {name}" if name else f"{system} with the same policy",
        figure=base64.b64encode(png.read_bytes()).decode(),
        has_seeds="trainings" in table,
        samples=samples(comparison.sources, [group[0] for group in groups_of(comparison.runs)]),
        models={name: settings_that_matter(values, UNSAID) for name, values in comparison.models.items()},
        evaluation=settings_that_matter(comparison.evaluation, {}),
    )
    write_text(html, text)
    return tsv, png, html


def samples(sources: Sequence[str], runs: Sequence[Run]) -> list[Sample]:
    """Return the worst translated sentences, then typical ones, by the mean chrF of their translations."""
    (references,) = runs[0].references
    chrf = pandas.DataFrame(sentence_chrf(run.predictions, references) for run in runs)
    means = chrf.mean()
    return [
        Sample(
            number=sentence,
            why=f"{why} (mean chrF {means[sentence]:.1f})",
            source=sources[sentence],
            reference=references[sentence],
            outputs=[
                (run.system, run.score.name, f"{score:.1f}", run.predictions[sentence])
                for run, score in zip(runs, chrf[sentence], strict=True)
            ],
        )
        for why, sentences in worst_and_typical(list(means)).items()
        for sentence in sentences
    ]
