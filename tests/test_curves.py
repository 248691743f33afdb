"""Which runs make a curve, and what can be told from the picture; scores are made up."""

from itertools import combinations

import pytest
from matplotlib.colors import to_rgba

from simulmask_plugin.evaluation.curves import Curve, curve_figure, curves_of, run_curve
from simulmask_plugin.evaluation.scores import Score, write_scores


def score_of(name, laal, bleu, sentences=150):
    return Score(name, sentences, bleu, bleu + 20, laal, laal, 0.7, laal, 0.05, 1.5, 0.4, 0)


WAIT_K = [score_of(f"wait_k-{k}", laal, bleu) for k, laal, bleu in ((1, 1.2, 20), (3, 3.0, 30), (5, 4.9, 32))]
OFFLINE = score_of("offline", 11.9, 31)
PROMPTS = [score_of("low", 1.28, 22.4), score_of("medium", 3.12, 26.3), score_of("medium-high", 3.49, 26.2)]
THRESHOLDS = [score_of(f"medium-{p}", laal, bleu) for p, laal, bleu in ((0.1, 2.3, 24.8), (0.7, 4.1, 24.5))]


def names(curve):
    return [score.name for score in curve.scores]


def lines(figure):
    """The curves and the levels of a figure."""
    found = figure.axes[0].lines
    return [line for line in found if line.get_marker() != "None"], [x for x in found if x.get_marker() == "None"]


def dashes(line):
    """Its pattern; matplotlib itself tells it to nobody."""
    return str(line._unscaled_dash_pattern)


def test_prompts_and_thresholds_are_two_curves_each_from_the_shortest_lag_to_the_longest():
    mixed = [THRESHOLDS[1], PROMPTS[2], PROMPTS[0], THRESHOLDS[0], PROMPTS[1]]
    prompts, thresholds = curves_of(mixed)
    assert names(prompts) == ["low", "medium", "medium-high"]
    assert names(thresholds) == ["medium-0.1", "medium-0.7"]
    assert prompts.text == "latency = low, medium, medium-high"
    assert thresholds.text == "medium, read_threshold = 0.1, 0.7"


@pytest.mark.parametrize(
    "runs, expected",
    [
        (["wait_k-1", "wait_k-3"], [["wait_k-1", "wait_k-3"]]),
        (
            ["wait_k-3-slot8", "wait_k-3", "wait_k-5-slot8", "wait_k-5"],
            [["wait_k-3-slot8", "wait_k-5-slot8"], ["wait_k-3", "wait_k-5"]],
        ),
        (["wait_k-7-slot8", "wait_k-7-slot32"], [["wait_k-7-slot8", "wait_k-7-slot32"]]),
        (["read_n-2", "wait_k-2"], [["read_n-2"], ["wait_k-2"]]),
        (["wait_k-3", "wait_k-3-recompute"], [["wait_k-3"], ["wait_k-3-recompute"]]),
        (["low-0.3-beam2", "low-0.3-beam4"], [["low-0.3-beam2", "low-0.3-beam4"]]),
        (["model_driven"], [["model_driven"]]),
    ],
)
def test_a_curve_joins_runs_that_differ_in_one_setting(runs, expected):
    found = curves_of([score_of(name, lag, 20) for lag, name in enumerate(runs)])
    assert [names(curve) for curve in found] == expected


def test_a_single_run_has_its_own_name():
    assert curves_of([WAIT_K[1]]) == [Curve([WAIT_K[1]], "wait_k-3")]


def test_every_one_of_forty_five_systems_can_be_told_from_all_others():
    """Of a curve by colour, marker and line; of an offline run by colour and dashes."""
    systems = {
        f"system {i}": [*PROMPTS, *THRESHOLDS, OFFLINE]
        if i % 3
        else [*WAIT_K, score_of("offline-slot8", 12, 30), OFFLINE]
        for i in range(45)
    }
    curves, levels = lines(curve_figure(systems, ""))
    assert (len(curves), len(levels)) == (75, 60)
    looks = {
        (to_rgba(line.get_color()), line.get_marker(), to_rgba(line.get_markerfacecolor()), dashes(line))
        for line in curves
    }
    assert len(looks) == len(curves)
    assert len({(to_rgba(line.get_color()), dashes(line)) for line in levels}) == len(levels)


FIGURES = {
    "one evaluation": {"toy": [*WAIT_K, OFFLINE]},
    "wait-k and EAST": {"wait-k": [*WAIT_K, OFFLINE], "EAST": [*PROMPTS, *THRESHOLDS]},
    "one point": {"toy": WAIT_K[:1]},
    "one level": {"toy": [OFFLINE]},
    "points in one place": {"a": WAIT_K[:1], "b": WAIT_K[:1], "c": WAIT_K[:1]},
    "many": {f"system {i}": [score_of(f"wait_k-{k}", k + i / 9, 20 + k + i) for k in (1, 9)] for i in range(24)},
}


@pytest.mark.parametrize("systems", FIGURES.values(), ids=FIGURES)
def test_points_and_labels_stay_inside_the_axes(systems):
    figure = curve_figure(systems, "")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    curves, levels = lines(figure)
    frame = axes.get_window_extent()
    for line in curves:
        radius = line.get_markersize() / 72 * figure.dpi / 2
        for x, y in axes.transData.transform(line.get_xydata()):
            assert frame.x0 + radius < x < frame.x1 - radius and frame.y0 + radius < y < frame.y1 - radius
    for line in levels:
        assert axes.get_ylim()[0] < line.get_ydata()[0] < axes.get_ylim()[1]
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


@pytest.mark.parametrize("name", ["one evaluation", "wait-k and EAST", "one point", "points in one place"])
def test_labels_cover_neither_markers_nor_each_other(name):
    figure = curve_figure(FIGURES[name], "")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == sum(len(line.get_xdata()) for line in lines(figure)[0])
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    for line in lines(figure)[0]:
        for x, y in axes.transData.transform(line.get_xydata()):
            assert not [box for box in boxes if box.contains(x, y)]


def test_labels_are_the_values_of_the_knob():
    figure = curve_figure(FIGURES["wait-k and EAST"], "")
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["1", "3", "5", "low", "medium", "medium-high", "0.1", "0.7"]


def test_many_points_are_named_by_the_legend_alone():
    figure = curve_figure(FIGURES["many"], "")
    assert not figure.axes[0].texts
    entries = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert entries == [f"system {i}: wait_k, k = 1, 9" for i in range(24)]


def test_names_are_no_markup_and_none_is_left_out_of_the_legend():
    figure = curve_figure({"_$a$": WAIT_K, "offline": [OFFLINE]}, "a title")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "_$a$: wait_k, k = 1, 3, 5",
        "offline",
    ]
    assert not any(text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())


def test_title_says_what_is_shown_and_of_how_many_sentences():
    figure = curve_figure({"a": WAIT_K, "b": [score_of("low", 1, 2, sentences=20)]}, "Toy")
    assert figure.axes[0].get_title(loc="left") == "Toy\nBLEU against LAAL, 20 and 150 sentences"


def test_levels_alone_have_no_latency():
    assert not len(curve_figure(FIGURES["one level"], "").axes[0].get_xticks())


def test_curve_command_draws_several_evaluations(tmp_path, capsys):
    for folder, scores in {"a": [*WAIT_K, OFFLINE], "b": PROMPTS + THRESHOLDS}.items():
        (tmp_path / folder).mkdir()
        write_scores(tmp_path / folder / "scores.tsv", scores)
    png = tmp_path / "curves.png"
    assert run_curve([f"wait-k={tmp_path / 'a'}", f"EAST={tmp_path / 'b'}"], str(png)) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert str(png) in capsys.readouterr().out


@pytest.mark.parametrize(
    "evaluations, message",
    [
        (["folder"], r"have the form LABEL=FOLDER, got 'folder'"),
        (["=folder"], r"have the form LABEL=FOLDER, got '=folder'"),
        (["a={0}", "a={0}"], r"Two evaluations have the label 'a'; name them differently"),
        (["a={0}/nothing"], r"has no scores\.tsv; expected the output of `simulmask eval`"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path, evaluations, message):
    write_scores(tmp_path / "scores.tsv", WAIT_K)
    with pytest.raises(ValueError, match=message):
        run_curve([one.format(tmp_path) for one in evaluations], str(tmp_path / "curves.png"))
    assert not (tmp_path / "curves.png").exists()
