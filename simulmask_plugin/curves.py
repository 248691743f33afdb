"""``simulmask curve``: several evaluations on the same axes."""

from __future__ import annotations

from pathlib import Path

from simulmask_plugin.report import draw_curve
from simulmask_plugin.scores import read_scores


def run_curve(evaluations: list[str], png: str) -> int:
    """Draw BLEU against LAAL of several evaluations, given as LABEL=FOLDER; return the exit code.

    Raises:
        ValueError: if one is no evaluation.
    """
    curves = {}
    for evaluation in evaluations:
        label, equals, folder = evaluation.partition("=")
        if not equals:
            raise ValueError(f"Evaluations have the form LABEL=FOLDER, got {evaluation!r}.")
        curves[label] = read_scores(folder)
    draw_curve(Path(png), curves)
    print(f"Drawn into {png}")
    return 0
