"""The Makefile: what `make clean` and `make distclean` remove, and what they never do; and what `make install` says."""

import re
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

MADE = (
    ".venv/bin/python",
    "build/x",
    "dist/x",
    "simulmask_plugin.egg-info/x",
    ".mypy_cache/x",
    "east/__pycache__/x.pyc",
)
DEMOS = ("output/demo/eval/scores.tsv", "output/demo_east/data/x", "output/demo_compare/compare/x")
RESULTS = ("output/toy/stage1/model.safetensors", "output/eval/mine/scores.tsv", "saves/mine/adapter.safetensors")


def make(folder, target, *options):
    """Run the Makefile in a folder and return what it prints."""
    done = subprocess.run(
        ["make", "-f", MAKEFILE, *options, target], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize(("target", "removed"), [("clean", MADE), ("distclean", (*MADE, *DEMOS))])
def test_cleaning_leaves_results_and_says_so(tmp_path, target, removed):
    for name in (*MADE, *DEMOS, *RESULTS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    printed = make(tmp_path, target)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*MADE, *DEMOS, *RESULTS} - {*removed}
    assert not any((tmp_path / name).parent.exists() for name in removed)
    assert "results are in there" in printed


def test_header_names_every_target():
    text = MAKEFILE.read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", "".join(re.findall(r"^#.*", text, re.MULTILINE)))) == {
        *targets.split()
    } - {"lint"}


def test_install_says_what_it_does(tmp_path):
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
    printed = make(
        tmp_path, "install", "--dry-run", "--always-make", "--old-file=.ci/requirements.txt", "--old-file=.ci/alone.txt"
    )
    assert re.findall(r"make install, (\d) of 3", printed) == ["1", "2", "3"]
    assert printed.count("--quiet") == 1, "of the plugin alone, which takes a second"
