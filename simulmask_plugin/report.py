"""The report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from simulmask_plugin.atomic import write_text
from simulmask_plugin.config import ModelSettings
from simulmask_plugin.evaluation_config import EvaluationConfig
from simulmask_plugin.languages import is_japanese
from simulmask_plugin.scores import Score
from simulmask_plugin.sessions import Decision

COLUMNS = {
    "name": "policy",
    "bleu": "BLEU",
    "chrf": "chrF",
    "al": "AL",
    "laal": "LAAL",
    "ap": "AP",
    "dal": "DAL",
    "seconds_per_sentence": "s / sentence",
    "calls_per_token": "calls / token",
    "gflops_per_sentence": "GFLOPs / sentence",
    "truncated": "cut off",
}


def slot_length_note(config: EvaluationConfig, settings: ModelSettings) -> str:
    """Name the runs that were streamed with another slot_length than trained with; empty where there are none."""
    decisions = [Decision.from_dict(policy) for policy in config.policies]
    others = [decision.name for decision in decisions if decision.streamed_with(settings) != settings]
    trained = settings.config.slot_length
    return f"Streamed with another slot_length than trained with ({trained}): {', '.join(others)}." if others else ""


def tokenizer_note(config: EvaluationConfig) -> str:
    """Say what BLEU of Japanese counts where it is no words; empty elsewhere."""
    if config.bleu_tokenize != "char" or not is_japanese(config.target_lang or ""):
        return ""
    return "BLEU counts characters (sacrebleu's tokenizer char); for words, ja-mecab: `pip install 'sacrebleu[ja]'`."


def markdown_table(scores: Sequence[Score]) -> str:
    """Return the scores as a Markdown table."""
    extra = list(scores[0].extra)
    names = [*COLUMNS.values(), *extra]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for score in scores:
        values = [*(getattr(score, c) for c in COLUMNS), *(score.extra[name] for name in extra)]
        cells = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(
    path: Path,
    config: EvaluationConfig,
    settings: ModelSettings,
    scores: Sequence[Score],
    signatures: Mapping[str, str],
) -> None:
    """Write report.md: the table, the curve, and every setting and version behind them.

    Args:
        path: of the file.
        config: the evaluation, resolved: what was really used stands in the report, whoever decided on it.
        settings: of the model.
        scores: the table.
        signatures: of the scores, and versions.
    """
    trained = asdict(settings.config) | asdict(settings.prompt)
    sections = [
        f"# {config.model}",
        f"{scores[0].sentences} sentences of `{config.source}`.",
        markdown_table(scores),
        slot_length_note(config, settings),
        tokenizer_note(config),
        "![BLEU against LAAL](curve.png)",
        "## How the model was trained (simulmask.json)",
        "\n".join(f"- {key}: `{value!r}`" for key, value in trained.items()),
        "## How it was evaluated",
        "\n".join(f"- {key}: `{value!r}`" for key, value in asdict(config).items()),
        "## Signatures and versions",
        "\n".join(f"- {key}: `{value}`" for key, value in signatures.items()),
    ]
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
