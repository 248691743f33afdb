"""The report of an evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from simulmask_plugin.config.calibration import threshold_of
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.evaluation.config import EvaluationConfig, calibrated, counting
from simulmask_plugin.evaluation.digests import saved
from simulmask_plugin.evaluation.examples import sentence_chrf, worst_and_typical
from simulmask_plugin.evaluation.runs import AUDIT, INSTANCES, MEMORY
from simulmask_plugin.evaluation.scores import (
    EXTRA_DIGITS,
    MEASURES,
    Score,
    meanings,
    number_text,
    read_jsonl,
    translations,
)
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.options import yaml_text
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.text.languages import TOKENIZER_PACKAGES, UNSPACED
from simulmask_plugin.text.units import CHARACTER

NOTHING: Mapping[str, Any] = {"simulmask": {}, "extra_metrics": {}, "context_sentences": 0, "trace": False}
"""Values of an evaluation's keys that say nothing, besides None."""

UNSAID: Mapping[str, Any] = asdict(TrainedOn())
"""Values in simulmask.json, beside its block, that need not be listed."""


def slot_length_note(config: EvaluationConfig, settings: ModelSettings) -> str:
    """Name the runs that were streamed with another slot_length than trained with; empty where there are none."""
    settings = settings.for_pair(config.source_lang, config.target_lang)
    others = [decision.name for decision in config.decisions if decision.streamed_with(settings) != settings]
    trained = settings.config.keys().get("slot_length")
    return f"Streamed with another slot_length than trained with ({trained}): {', '.join(others)}." if others else ""


def latency_table(config: EvaluationConfig, settings: ModelSettings, scores: Sequence[Score]) -> str:
    """The latency reached beside the one asked for, of the runs that name a laal; empty if none does."""
    entries, rows = calibrated(config, settings), []
    for score in (score for score in scores if score.name in entries):
        entry = entries[score.name]
        numbers = [number_text(laal) for laal in (entry.laal, score.laal, entry.reached)]
        of = f"{entry.sentences} sentences of {' and '.join(entry.files)}"
        rows.append([score.name, *numbers, f"{threshold_of(POLICIES[entry.policy]).key} {entry.threshold:g}", of])
    columns = ["policy", "LAAL asked for:", "reached here:", "in the calibration:", "threshold", "calibrated on"]
    return markdown_table(columns, rows) if rows else ""


def audit_note(config: EvaluationConfig) -> str:
    """Of the engine batched: for how many sentences SimulEval's own agent writes the same; else empty."""
    audits = {decision.name: saved(Path(config.output, decision.name, AUDIT)) for decision in config.decisions}
    counts = [f"{name} {found['equal']} of {found['sentences']}" for name, found in audits.items() if found]
    return f"The same by SimulEval's own agent, word by word and delay by delay: {', '.join(counts)}." if counts else ""


def memory_note(config: EvaluationConfig) -> str:
    """Of the engine batched: the lanes of a process, and what their keys and values took; else empty."""
    found = saved(Path(config.output, MEMORY.format(0)))
    if config.engine != "batched" or not found:
        return ""
    size = found["cache_bytes"] / 2**20
    return f"Up to {found['lanes']} sentences at once in a process; their keys and values took {size:.1f} MiB."


def failure_note(failed: Mapping[str, Exception]) -> str:
    """Name what failed, each with the first line of why; empty if nothing has."""
    reasons = [f"- {name}: {str(error).splitlines()[0]}" for name, error in failed.items()]
    return "\n".join(["**Not everything succeeded:**", "", *reasons]) if reasons else ""


def tokenizer_note(config: EvaluationConfig, settings: ModelSettings) -> str:
    """Say what BLEU of Japanese and Korean counts if not words; else empty."""
    wanted = counting(config, settings).tokenizer if config.bleu_tokenize == UNSPACED.tokenizer else ""
    if wanted not in TOKENIZER_PACKAGES:
        return ""
    install = f"pip install 'sacrebleu[{wanted[:2]}]'"
    return f"BLEU counts characters (sacrebleu's tokenizer char); for words, {wanted}: `{install}`."


def settings_that_matter(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that differ from their defaults, as one would write them into a YAML."""
    return {key: yaml_text(value) for key, value in values.items() if value != defaults.get(key)}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a column whose title ends in a colon has its texts on the right."""
    titles = [title.removesuffix(":") for title in columns]
    sides = ["---:" if title.endswith(":") else "---" for title in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, sides, *rows))


def score_table(scores: Sequence[Score]) -> str:
    """Return the scores as a Markdown table."""
    extra = scores[0].extra
    columns = ["policy", *(f"{measure.title}:" for measure in MEASURES.values()), *(f"{name}:" for name in extra)]
    digits = [measure.digits for measure in MEASURES.values()] + [EXTRA_DIGITS] * len(extra)
    rows = []
    for score in scores:
        values = [*(getattr(score, key) for key in MEASURES), *(score.extra[name] for name in extra)]
        rows.append([score.name, *map(number_text, values, digits)])
    return markdown_table(columns, rows)


def code(text: str) -> str:
    """The text as it is, in a cell of a Markdown table; empty if it is."""
    if not text:
        return ""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def examples_section(config: EvaluationConfig, scores: Sequence[Score]) -> list[str]:
    """The worst and typical sentences of one run, the one in the middle by latency; a run without LAAL comes last."""
    by_latency = sorted(scores, key=lambda score: (math.isnan(score.laal), score.laal))
    name = by_latency[(len(scores) - 1) // 2].name
    instances = read_jsonl(Path(config.output, name, INSTANCES))
    predictions, (references,) = translations(instances)
    chrf = sentence_chrf(predictions, references)
    sections = [
        "## Sentences",
        f"As streamed with {code(name)}, the run in the middle by LAAL: those with the lowest chrF, then those nearest "
        "to its median. They count from 0, as in instances.log; `simulmask trace` draws one, step by step.",
    ]
    for kind, sentences in worst_and_typical(chrf).items():
        rows = []
        for index in sentences:
            rows.append([str(index), f"{chrf[index]:.1f}", "source", code(instances[index]["source"])])
            rows += [["", "", "reference", code(references[index])], ["", "", "output", code(predictions[index])]]
        if rows:
            sections += [f"### {kind.capitalize()}", markdown_table(["sentence:", "chrF:", "", "text"], rows)]
    return sections


def _settings_table(settings: Mapping[str, str]) -> str:
    return markdown_table(["key", "value"], ([key, code(value)] for key, value in settings.items()))


def write_report(
    path: Path,
    name: str,
    config: EvaluationConfig,
    settings: ModelSettings,
    scores: Sequence[Score],
    signatures: Mapping[str, str],
    failed: Mapping[str, Exception],
) -> None:
    """Write report.md: the table with its units, the curve, and every setting and version behind them.

    ``failed`` are policies without a score, or without their audit, and why.

    The evaluation is resolved: the report says what was really used, be it set or a default.
    """
    trained = settings.config.said() | asdict(settings.prompt) | asdict(settings.trained_on)
    evaluated = asdict(config) | {"policies": ", ".join(decision.name for decision in config.decisions)}
    streamed = "side by side, scored by SimulEval,"
    if config.engine == "simuleval":
        evaluated, streamed = evaluated | {"lanes": None, "audit": None}, "by SimulEval"
    sections = [
        f"# {name}",
        f"{_named(config)} translates {scores[0].sentences} sentences of `{config.source}` from {config.source_lang} "
        f"to {config.target_lang}, streamed {streamed} under {len(scores)} policies. Reference: `{config.target}`. "
        f"Report of {date.today().isoformat()}.",
        "## Scores",
        score_table(scores),
        latency_table(config, settings, scores),
        failure_note(failed),
        audit_note(config),
        memory_note(config),
        slot_length_note(config, settings),
        tokenizer_note(config, settings),
        "\n".join(f"- {meaning}" for meaning in meanings(MEASURES, _unit(config, settings))),
        "![BLEU against LAAL](curve.png)",
        *examples_section(config, scores),
        "## Signatures and versions",
        _settings_table(signatures),
        "## How it was evaluated",
        _settings_table(settings_that_matter(evaluated, NOTHING)),
        "## How the model was trained",
        "From its simulmask.json; a key of the block that is not listed has its default.",
        _settings_table(settings_that_matter(trained, UNSAID)),
    ]
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")


def _named(config: EvaluationConfig) -> str:
    """The model, and its adapter if there is one."""
    return f"`{config.model}`" + (f" with the adapter `{config.adapter}`" if config.adapter else "")


def _unit(config: EvaluationConfig, settings: ModelSettings) -> str:
    """In which lags are measured."""
    source = "characters" if settings.config.source_units == CHARACTER else "words"
    target = "characters" if config.latency_unit == "char" else "words"
    return f"source {source} (the target is counted in {target})"
