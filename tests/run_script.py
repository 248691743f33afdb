"""How the tests run a script of the project: in a process of its own, on the code of this checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from simulmask_plugin.corpora.parallel_text import read_lines

ROOT = Path(__file__).resolve().parents[1]


def run_script(script, *arguments, cwd, status=0, path=""):
    """Return what a script of the project printed.

    Args:
        script: its path in the project.
        arguments: of its command line.
        cwd: where it runs.
        status: the exit code that it has to end with.
        path: a folder to import from before all others.
    """
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}" if path else str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def rows_of(path):
    """The rows of a JSONL file that a script has written."""
    return [json.loads(line) for line in read_lines(path)]


def advice(printed):
    """The keys that a script advises for the training YAML, as YAML reads them."""
    _, found, keys = printed.partition("For the training YAML:\n")
    assert found, printed
    return yaml.safe_load(keys)
