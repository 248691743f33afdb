"""The mask of one example as a PNG, the attention weights under it, and the staircase of a streamed sentence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import ScaledTranslation

from simulmask_plugin.files.atomic import replacing
from simulmask_plugin.pictures.picture import (
    LOOK_AHEAD_COLOR,
    LOOK_AHEAD_MARK,
    REGIONS,
    Picture,
    num_read_text,
    to_json,
    visible,
)
from simulmask_plugin.pictures.staircase import NEW, OLD, Staircase

HIDDEN_COLOR, ABSENT_COLOR = "#f2f2f2", "#dcdcdc"
HIDDEN_DOT: Mapping[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3, "color": "#a0a0a0"}
BRACKET: Mapping[str, Any] = {"color": REGIONS["slot"].color, "linewidth": 2}

TINT = 0.6
"""Share of a region's colour in the cells of its columns; the rest is white."""

CELL_INCHES = 0.34

STRIP_START, STRIP_END = 0.1, 0.5
"""Distance from the mask, in cells, of the strips that show the region of every row and column."""

LABEL_POINTS = 16
"""Distance of the tokens from the mask."""

FILE: Mapping[str, Any] = {"dpi": 100, "bbox_inches": "tight", "pad_inches": 0.15, "pil_kwargs": {"optimize": True}}

READS_POINTS, POSITION_POINTS, LEGEND_POINTS = 26, 72, 100
"""Distance of the columns and the legend to the right of the mask."""

LABEL_INCHES = 1.2
"""Space for the tokens on the left of an attention map."""

SCALE_TICKS = (0, 0.05, 0.2, 0.5, 1)
"""Ticks on the scale of an attention map; colours follow the square root, so that small probabilities are visible."""

CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei")


def save_png(picture: Picture, path: str | Path, heading: str) -> None:
    """Draw the mask into a file, see `mask_figure`; the comment of the file has its numbers as JSON."""
    figure, metadata = mask_figure(picture, heading), {"Title": heading, "Comment": to_json(picture)}
    with replacing(path) as unfinished:
        figure.savefig(unfinished, metadata=metadata, **FILE)


def mask_figure(picture: Picture, heading: str) -> Figure:
    """Draw the mask: rows are queries, columns keys; on the right num_read and position of each row.

    Strips on the left and below show the region by colour and letter; in the layout ``slots``, brackets at the top
    mark the columns of each slot.
    """
    side = CELL_INCHES * len(picture.tokens)
    with text_style():
        figure = Figure(figsize=(side, side))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw_cells(picture, axes)
        _label_tokens(picture, axes)
        _label_rows(picture, axes)
        _bracket_slots(picture, axes)
        _add_legend(picture, axes, figure)
        axes.set_title(heading, fontsize=10, loc="left", pad=44 if picture.slots else 24)
    return figure


def save_attention_png(
    picture: Picture, maps: Mapping[str, np.ndarray], path: str | Path, heading: str, *, note: str
) -> None:
    """Draw maps of attention weights side by side: rows are queries, columns keys, rows without weights are grey.

    ``maps`` has title and probabilities (rows, columns) of each map, nan where a row has none; the heading is above the
    maps, the note next to the colour scale.
    """
    side = CELL_INCHES * len(picture.tokens)
    with text_style():
        figure = Figure(figsize=(len(maps) * (side + LABEL_INCHES), side))
        FigureCanvasAgg(figure)
        width = side / (len(maps) * (side + LABEL_INCHES))
        for place, (title, probabilities) in enumerate(maps.items()):
            axes = figure.add_axes((place / len(maps), 0, width, 1), facecolor=ABSENT_COLOR)
            image = axes.imshow(np.sqrt(probabilities), cmap="Blues", vmin=0, vmax=1)
            axes.spines[:].set_visible(False)
            _label_tokens(picture, axes)
            _bracket_slots(picture, axes)
            axes.set_title(title, fontsize=10, loc="left", pad=30 if picture.slots else None)
        bar = figure.colorbar(
            image, cax=figure.add_axes((1.01 - width * LABEL_INCHES / side, 0.1, 0.01, 0.8)), label=note
        )
        bar.set_ticks([tick**0.5 for tick in SCALE_TICKS], labels=[f"{tick:g}" for tick in SCALE_TICKS])
        figure.suptitle(heading, fontsize=10, x=0, y=1 + (0.95 if picture.slots else 0.6) / side, ha="left")
        with replacing(path) as unfinished:
            figure.savefig(unfinished, **FILE)


def save_staircase_png(staircase: Staircase, path: str | Path, heading: str) -> None:
    """Draw the source words that had been read before each target unit, and on the right what is known of the unit."""
    size, stairs = len(staircase.source), staircase.stairs
    with text_style():
        figure = Figure(figsize=(CELL_INCHES * size, CELL_INCHES * max(1, len(stairs))))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size), ylim=(max(1, len(stairs)), 0))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(size) + 0.5, staircase.source, rotation=90)
        axes.xaxis.tick_top()
        axes.set_yticks(np.arange(len(stairs)) + 0.5, [visible(stair.text) for stair in stairs])
        for row, stair in enumerate(stairs):
            new = len(staircase.new_words(row))
            for start, count, color in ((0, stair.num_read - new, OLD), (stair.num_read - new, new, NEW)):
                axes.broken_barh([(start + i + 0.03, 0.94) for i in range(count)], (row + 0.03, 0.94), color=color)
            known = [] if stair.probability is None else [f"P {stair.probability:.2f}"]
            known += [] if stair.seconds is None else [f"{stair.seconds:.3f} s"]
            color = LOOK_AHEAD_COLOR if stair.is_unsure else "black"
            axes.text(size + 0.3, row + 0.5, "   ".join(known), va="center", color=color)
        steps = [stair.num_read for stair in stairs]
        axes.stairs(
            steps, np.arange(len(steps) + 1), orientation="horizontal", baseline=None, color="black", linewidth=2
        )
        axes.set_title(heading, fontsize=10, loc="left", pad=10)
        axes.set_xlabel(f"reference: {staircase.reference}", loc="left", labelpad=10)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, metadata={"Title": heading}, **FILE)


def text_style() -> AbstractContextManager[None]:
    """The default font, with installed Chinese and Japanese fonts as fallbacks, and no mathematical notation."""
    installed = font_manager.get_font_names()
    fonts = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
    return rc_context({"font.family": fonts, "font.size": 9, "text.parse_math": False})


def _draw_cells(picture: Picture, axes: Axes) -> None:
    """Draw visible keys in a tint of their region, hidden keys as a dot, and future keys not at all."""
    size = len(picture.tokens)
    colors = np.ones((size, size, 3))
    colors[np.tril_indices(size)] = to_rgb(HIDDEN_COLOR)
    by_column = TINT * np.array([to_rgb(REGIONS[region].color) for region in picture.regions]) + 1 - TINT
    colors[picture.mask] = by_column[np.nonzero(picture.mask)[1]]
    axes.imshow(colors)
    rows, columns = np.nonzero(picture.hidden)
    axes.plot(columns, rows, **HIDDEN_DOT)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for row in filter(picture.is_look_ahead, range(size)):
        corner, width = (-0.46, row - 0.44), row + 0.92
        axes.add_patch(Rectangle(corner, width, 0.88, fill=False, edgecolor=LOOK_AHEAD_COLOR, linewidth=2, zorder=3))


def _label_tokens(picture: Picture, axes: Axes) -> None:
    """Draw the strips of the regions, and the tokens next to them."""
    for place, token in enumerate(picture.tokens):
        label = f"{LOOK_AHEAD_MARK} {visible(token)}" if picture.is_look_ahead(place) else visible(token)
        color = LOOK_AHEAD_COLOR if picture.is_look_ahead(place) else "black"
        left = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
        below = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top", "rotation": 90}
        for xy, offset, style in (((0, place), (-LABEL_POINTS, 0), left), ((place, 0), (0, -LABEL_POINTS), below)):
            axes.annotate(label, xy, offset, textcoords="offset points", color=color, annotation_clip=False, **style)
    _draw_strips(picture, axes)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_strips(picture: Picture, axes: Axes) -> None:
    """Draw the region of every row on the left of the mask and of every column below it, with its letter."""
    axes.autoscale(False)
    thickness = STRIP_END - STRIP_START
    for place, name in enumerate(picture.regions):
        region = REGIONS[name]
        below = len(picture.regions) - 0.5
        for x, y, width, height in (
            (-0.5 - STRIP_END, place - 0.46, thickness, 0.92),
            (place - 0.46, below + STRIP_START, 0.92, thickness),
        ):
            axes.add_patch(Rectangle((x, y), width, height, color=region.color, linewidth=0, clip_on=False))
            style: Mapping[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": region.ink}
            axes.text(x + width / 2, y + height / 2, region.letter, **style)


def _bracket_slots(picture: Picture, axes: Axes) -> None:
    """Draw a bracket over the columns of each slot, with the number of its filled positions."""
    for number, slot in enumerate(picture.slots, 1):
        start, end = slot.first - 0.4, slot.end - 0.6
        axes.plot([start, start, end, end], [-0.6, -0.75, -0.75, -0.6], clip_on=False, **BRACKET)
        text = f"slot {number}\n{slot.end - slot.first} of {slot.reserved}"
        axes.text((start + end) / 2, -0.85, text, ha="center", va="bottom", fontsize=7)


def _label_rows(picture: Picture, axes: Axes) -> None:
    """Write the two columns on the right, with their names."""
    reads = [num_read_text(picture, row) for row in range(len(picture.tokens))]
    for offset, name, values in (
        (READS_POINTS, "num_read", reads),
        (POSITION_POINTS, "position", [str(position) for position in picture.position]),
    ):
        for row, text in enumerate([name, *values], -1):
            axes.annotate(
                text,
                (1, row),
                (offset, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if row >= 0 else "#666666",
                annotation_clip=False,
            )


def _add_legend(picture: Picture, axes: Axes, figure: Figure) -> None:
    """Explain letters, colours and marks on the right."""
    handles: list[Artist] = []
    for region in picture.legend():
        handles.append(Patch(color=region.color, label=f"{region.letter}  {region.meaning}"))
    if picture.slots:
        handles.append(Line2D([], [], label="slot: how many of its\npositions are filled", **BRACKET))
    if picture.hidden.any():
        handles.append(Line2D([], [], label="not seen", **HIDDEN_DOT))
    if picture.has_look_ahead:
        label = f"{LOOK_AHEAD_MARK} look-ahead row"
        handles.append(Patch(facecolor="white", edgecolor=LOOK_AHEAD_COLOR, linewidth=2, label=label))
    axes.legend(
        handles=handles,
        title="a row sees tinted columns",
        alignment="left",
        loc="upper left",
        borderaxespad=0,
        frameon=False,
        bbox_to_anchor=(1, 1),
        bbox_transform=axes.transAxes + ScaledTranslation(LEGEND_POINTS / 72, 0, figure.dpi_scale_trans),
    )
