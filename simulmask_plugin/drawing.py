"""The mask of one example as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from simulmask_plugin.picture import COLORS, LOOK_AHEAD_COLOR, LOOK_AHEAD_MARK, Picture, visible

HIDDEN_COLOR = "#ececec"


def save_png(picture: Picture, path: str | Path, heading: str) -> None:
    """Draw the mask: rows are queries, columns keys; on the right what each row reads, and its position."""
    size = len(picture.tokens)
    side = max(4.5, 0.3 * size)
    with rc_context({"font.family": _fonts(), "font.size": 9}):
        figure = Figure(figsize=(side + 2.6, side + 1.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(_cell_colors(picture))
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        _mark_look_ahead(picture, axes)
        _label_tokens(picture, axes)
        _label_rows(picture, axes)
        axes.set_title(heading, fontsize=10, loc="left", pad=12)
        axes.set_xlabel("key: the token that is seen")
        axes.set_ylabel("query: the token that looks")
        _add_legend(picture, figure)
        figure.savefig(path, dpi=150)


def _fonts() -> list[str]:
    """The default font, and behind it one with Chinese and Japanese characters where the machine has one."""
    known = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Source Han Sans SC", "SimHei")
    installed = font_manager.get_font_names()
    return ["DejaVu Sans", *(name for name in known if name in installed)]


def _cell_colors(picture: Picture) -> np.ndarray:
    """RGB of every cell: the key's region where it is seen, grey where it is hidden, white in the future."""
    size = len(picture.tokens)
    colors = np.ones((size, size, 3))
    colors[np.tril_indices(size)] = to_rgb(HIDDEN_COLOR)
    by_column = np.array([to_rgb(COLORS[region]) for region in picture.regions])
    colors[picture.mask] = by_column[np.nonzero(picture.mask)[1]]
    return colors


def _mark_look_ahead(picture: Picture, axes: Axes) -> None:

    for row in range(len(picture.tokens)):
        if picture.is_look_ahead(row):
            frame = Rectangle((-0.5, row - 0.5), row + 1, 1, fill=False, edgecolor=LOOK_AHEAD_COLOR, linewidth=1.6)
            axes.add_patch(frame)


def _label_tokens(picture: Picture, axes: Axes) -> None:
    places = range(len(picture.tokens))
    labels = [visible(token) for token in picture.tokens]
    axes.set_xticks(places, labels, rotation=90)
    marks = [f"{LOOK_AHEAD_MARK} " if picture.is_look_ahead(i) else "" for i in places]
    axes.set_yticks(places, [mark + label for mark, label in zip(marks, labels, strict=True)])
    for i in places:
        color = LOOK_AHEAD_COLOR if picture.is_look_ahead(i) else COLORS[picture.regions[i]]
        for label in (axes.get_xticklabels()[i], axes.get_yticklabels()[i]):
            label.set(color=color, parse_math=False)


def _label_rows(picture: Picture, axes: Axes) -> None:
    size = len(picture.tokens)
    columns = {
        "reads": ["all" if r in ("prompt", "source") else str(n) for r, n in zip(picture.regions, picture.num_read)],
        "position": [str(position) for position in picture.position],
    }
    for offset, (name, values) in zip((0.6, 2.6), columns.items(), strict=True):
        axes.text(size + offset, -1.0, name, ha="center", fontsize=8, color="#555555")
        for row, value in enumerate(values):
            axes.text(size + offset, row, value, ha="center", va="center", fontsize=8)


def _add_legend(picture: Picture, figure: Figure) -> None:

    handles = [Patch(color=color, label=name) for name, color in COLORS.items() if name in picture.regions]
    handles.append(Patch(color=HIDDEN_COLOR, label="not seen"))
    if any(map(picture.is_look_ahead, range(len(picture.tokens)))):
        label = f"{LOOK_AHEAD_MARK} look-ahead row"
        handles.append(Patch(facecolor="white", edgecolor=LOOK_AHEAD_COLOR, linewidth=1.6, label=label))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8)
