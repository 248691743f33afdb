"""Quality-latency curves: which runs make one, and the picture; ``simulmask curve`` draws those of several evaluations.

A curve joins runs that differ in one setting alone, k or the latency prompt or the read threshold, from the shortest
lag to the longest. Runs that wait for the whole source have no place on the axis of latency: they are drawn as levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill

import numpy as np
from adjustText import adjust_text
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulmask_plugin.evaluation.scores import Score, read_scores
from simulmask_plugin.files.atomic import replacing
from simulmask_plugin.pictures.drawing import text_style
from simulmask_plugin.policies import ModelDriven
from simulmask_plugin.streaming.options import Decision, parameters, run_keys
from simulmask_plugin.text.prompts import OFFLINE_LATENCY

COLORS = tuple(f"C{i}" for i in range(10))
MARKERS = "osD^v<>P*X"
DASHES = ("solid", (0, (5, 1)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Colour and line tell the systems apart, the marker the curves of one system."""

MOST_LABELS = 16
"""Points that leave room for labels of their own; the legend has the values in any case."""

ROUNDS, STEPS = 300, 100
"""How often the labels are moved, and between two points of a line the number of places that they keep off."""

LEGEND_WIDTH, TITLE_WIDTH = 52, 72
"""In letters; longer texts are wrapped."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Runs of one system that differ in one setting."""

    scores: Sequence[Score]
    """From the shortest lag to the longest."""
    shared: str
    """Name of what they have in common, e.g. wait_k or medium; of a single run, its name."""
    knob: str | None = None
    """The setting in which they differ, a key of a policy; None: a single run."""
    values: Sequence[str] = ()
    """Of the knob, one per score."""

    @property
    def text(self) -> str:
        """What its runs are, e.g. "wait_k, k = 1, 3, 5"."""
        if self.knob is None:
            return self.shared
        setting = f"{self.knob} = {', '.join(self.values)}"
        return setting if self.shared == ModelDriven.name else f"{self.shared}, {setting}"


def curves_of(scores: Sequence[Score]) -> list[Curve]:
    """Return the curves of one system's runs, then the runs that belong to none.

    Where runs differ in several keys, the first one in the table of policies makes the curves.

    Raises:
        ValueError: if a name is not that of a run.
    """
    left = {score.name: (score, Decision.from_name(score.name)) for score in scores}
    curves = []
    for knob in (*parameters(), *run_keys()):
        groups: dict[Decision, list[Score]] = {}
        for score, decision in left.values():
            if decision[knob] is not None:
                groups.setdefault(decision.without(knob), []).append(score)
        for shared, group in groups.items():
            if len(group) > 1:
                group.sort(key=lambda score: score.laal)
                values = [str(left.pop(score.name)[1][knob]) for score in group]
                curves.append(Curve(group, shared.name, knob, values))
    return curves + [Curve([score], score.name) for score, _ in left.values()]


def is_offline(score: Score) -> bool:
    """Whether all of the source is read first, with whatever slots."""
    decision = Decision.from_name(score.name)
    return OFFLINE_LATENCY in (decision.policy, decision["latency"])


def curve_figure(systems: Mapping[str, Sequence[Score]], title: str) -> Figure:
    """Draw BLEU against LAAL: the curves of every system, by its name, and its offline runs as levels."""
    with text_style():
        figure = Figure(figsize=(7, 4.6))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(xlabel="LAAL (source units)", ylabel="BLEU")
        axes.set_title(_heading(title, systems), fontsize=10, loc="left")
        axes.margins(x=0.1, y=0.1)
        axes.grid(alpha=0.3)
        legend: dict[str, Artist] = {}
        labels: list[tuple[Score, str, str]] = []
        for place, (name, scores) in enumerate(systems.items()):
            for number, curve in enumerate(curves_of([score for score in scores if not is_offline(score)])):
                legend[f"{name}: {curve.text}"] = _draw_curve(axes, curve, place, number)
                values = curve.values or [curve.shared]
                labels += [(*point, _color(place)) for point in zip(curve.scores, values, strict=True)]
            for number, score in enumerate(filter(is_offline, scores)):
                entry = name if name == score.name else f"{name}: {score.name}"
                legend[entry] = _draw_level(axes, score, place, number)
        if not labels:
            axes.set_xticks([])  # levels have no latency
        _add_legend(axes, legend)
        if 0 < len(labels) <= MOST_LABELS:
            _label_points(axes, labels)
    return figure


def _heading(title: str, systems: Mapping[str, Sequence[Score]]) -> str:
    sentences = sorted({score.sentences for scores in systems.values() for score in scores})
    subtitle = f"BLEU against LAAL, {' and '.join(map(str, sentences))} sentences"
    return "\n".join([fill(title, TITLE_WIDTH, break_on_hyphens=False), subtitle]) if title else subtitle


def draw_curve(path: Path, systems: Mapping[str, Sequence[Score]], title: str = "") -> None:
    """Draw the curves into a file, see `curve_figure`."""
    figure = curve_figure(systems, title)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150, bbox_inches="tight", pad_inches=0.15)


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _draw_curve(axes: Axes, curve: Curve, place: int, number: int) -> Artist:
    """Draw one curve of the system at a place; hollow markers are those of its second, fourth, ... curve."""
    (line,) = axes.plot(
        [score.laal for score in curve.scores],
        [score.bleu for score in curve.scores],
        color=_color(place),
        linestyle=DASHES[place // len(COLORS) % len(DASHES)],
        marker=MARKERS[(place + place // len(MARKERS) + number) % len(MARKERS)],
        markerfacecolor="white" if number % 2 else _color(place),
        markersize=5,
    )
    return line


def _draw_level(axes: Axes, score: Score, place: int, number: int) -> Artist:
    """Draw an offline run: a thin line, whose dashes are longer where a colour comes back."""
    dashes = (6 + 4 * (place // len(COLORS)), 3, *(1, 3) * number)
    return axes.axhline(score.bleu, color=_color(place), linewidth=1, linestyle=(0, dashes))


def _add_legend(axes: Axes, entries: Mapping[str, Artist]) -> None:
    """Name every line, beside the axes, where no point is."""
    legend = axes.legend(
        list(entries.values()),
        list(map(str, range(len(entries)))),
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        borderaxespad=0,
        fontsize=8,
        frameon=False,
    )
    for text, entry in zip(legend.get_texts(), entries, strict=True):  # matplotlib leaves out those that begin with "_"
        text.set_text(fill(entry, LEGEND_WIDTH, break_on_hyphens=False))


def _label_points(axes: Axes, labels: Sequence[tuple[Score, str, str]]) -> None:
    """Write the value of its knob beside every point, where it covers no marker, no line and no other label."""
    texts = [axes.text(score.laal, score.bleu, value, color=color, fontsize=8) for score, value, color in labels]
    occupied = axes.transData.inverted().transform(np.concatenate([_pixels(line) for line in axes.lines]))
    adjust_text(texts, *occupied.T, ax=axes, iter_lim=ROUNDS, expand=(1.2, 1.3), force_static=(0.3, 0.4))


def _pixels(line: Line2D) -> np.ndarray:
    """Places that a line covers, in pixels: along it, and all around its markers."""
    ends = line.get_transform().transform(line.get_xydata())
    shares = np.linspace(0, 1, STEPS).reshape(-1, 1, 1)
    places = [ends, (ends[:-1] + shares * np.diff(ends, axis=0)).reshape(-1, 2)]
    if line.get_marker() != "None":
        radius = line.get_markersize() / 72 * line.figure.dpi / 2
        places += [ends + radius * np.array(side) for side in product((-1, 0, 1), repeat=2)]
    return np.concatenate(places)


def run_curve(evaluations: list[str], png: str) -> int:
    """Draw BLEU against LAAL of several evaluations, given as LABEL=FOLDER; return the exit code.

    Raises:
        ValueError: if one is no evaluation, or two have the same label.
    """
    systems = {}
    for evaluation in evaluations:
        label, _, folder = evaluation.partition("=")
        if not (label and folder):
            raise ValueError(f"Evaluations have the form LABEL=FOLDER, got {evaluation!r}.")
        if label in systems:
            raise ValueError(f"Two evaluations have the label {label!r}; name them differently.")
        systems[label] = read_scores(folder)
    draw_curve(Path(png), systems)
    print(f"Drawn into {png}")
    return 0
