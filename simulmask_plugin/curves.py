"""``simulmask curve``: several evaluations on the same axes."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from simulmask_plugin.evaluation import Score
from simulmask_plugin.report import draw_curve


def read_scores(folder: str) -> list[Score]:
    """Read the scores.tsv of an evaluation.

    Raises:
        ValueError: if the folder has none.
    """
    path = Path(folder, "scores.tsv")
    if not path.is_file():
        raise ValueError(f"{folder} has no scores.tsv; expected the output of `simulmask eval`.")
    kinds = get_type_hints(Score)
    names = [field.name for field in fields(Score) if field.name != "extra"]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        Score(
            **{name: kinds[name](row[name]) for name in names},
            extra={key: float(value) for key, value in row.items() if key not in names},
        )
        for row in rows
    ]


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
