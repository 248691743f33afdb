"""The quality-latency curve and the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from simulmask_plugin.config import ModelSettings
from simulmask_plugin.evaluation_config import EvaluationConfig
from simulmask_plugin.languages import is_japanese
from simulmask_plugin.scores import Score
from simulmask_plugin.sessions import Decision

OFFLINE = "offline"
FEW = 3
"""Curves that leave room for the names of their points."""
MARKERS = "osD^v<>Pp*"

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


def draw_curve(path: Path, curves: Mapping[str, Sequence[Score]]) -> None:
    """Draw BLEU against LAAL, a line per model, and each model's offline scores as dashed levels."""
    from matplotlib.figure import Figure

    few = len(curves) <= FEW
    figure = Figure(figsize=(6.4, 4.2) if few else (9, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for i, (label, scores) in enumerate(curves.items()):
        streamed = sorted((s for s in scores if not _is_offline(s)), key=lambda s: s.laal)
        if streamed:
            points = [s.laal for s in streamed], [s.bleu for s in streamed]
            axes.plot(*points, color=f"C{i}", marker=MARKERS[i % len(MARKERS)], label=label)
        for s in streamed if few else ():
            axes.annotate(s.name, (s.laal, s.bleu), xytext=(4, -10), textcoords="offset points", fontsize=8)
        for s in scores:
            if _is_offline(s):
                name = f"{label}, {s.name}" if streamed else label
                axes.axhline(s.bleu, linestyle="--", color=f"C{i}", label=name)
    axes.set(xlabel="LAAL (source units)", ylabel="BLEU")
    axes.margins(x=0.18 if few else 0.05)  # room for the labels
    axes.grid(alpha=0.3)
    if few:
        axes.legend()
    else:
        figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=150)


def _is_offline(score: Score) -> bool:
    """Whether all of the source is read first, with whatever slots."""
    return score.name.partition("-")[0] == OFFLINE


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
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
