"""benchmarks/: the exit code of run.py tells whether the plugin costs more than it may; document.py draws."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RUN = BENCHMARKS / "run.py"


@pytest.fixture
def run(monkeypatch):
    """The script's main with a benchmark that costs what it is told, in turn."""
    names = runpy.run_path(str(RUN))

    def call(name, costs, *options):
        monkeypatch.setattr("sys.argv", [str(RUN), "--only", name, *options])
        monkeypatch.setitem(names["BENCHMARKS"], name, lambda: names["Result"](["| the table |"], costs))
        return names["main"]()

    return call


@pytest.mark.parametrize(
    "name, costs, code",
    [
        ("collate", [5.0, 4.0], 0),
        ("collate", [4.0, 5.1], 1),
        ("step", [1.1, 0.9], 0),
        ("step", [1.11, 0.9], 1),
        ("gpu", [1.11], 1),
        ("gpu", [], 0),  # not measured
        ("look-ahead", [], 0),  # has no bar
    ],
)
def test_cost_above_its_bar_exits_with_1(run, capsys, name, costs, code):
    assert run(name, costs) == code
    captured = capsys.readouterr()
    assert "| the table |" in captured.out
    assert captured.err.startswith(name) == ("above the bar of" in captured.err) == bool(code)


def test_bars_can_be_left_out(run):
    assert run("collate", [99.0], "--no-bars") == 0


def test_document_draws_where_nothing_of_the_project_is(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["document.py", "--sentences", "2"])
    runpy.run_path(str(BENCHMARKS / "document.py"))["main"]()
    assert "no context, first tenth" in capsys.readouterr().out
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == ["output/document.png"]
