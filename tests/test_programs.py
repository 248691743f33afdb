"""Programs with a log."""

import subprocess
import sys
import time

import pytest

from simulmask_plugin.programs import ProgramFailed, run_program


def test_output_is_appended_to_the_log(tmp_path):
    log = tmp_path / "log"
    for text in "ab":
        run_program("echo", ["echo", text], log, {})
    assert log.read_text() == "a\nb\n"


def test_failure_shows_the_end_of_the_log(tmp_path):
    command = [sys.executable, "-c", "print(*range(99), sep='\\n'); exit(3)"]
    with pytest.raises(ProgramFailed, match=r"(?s)^it stopped with code 3; the end of .*log:\n84\n.*98$"):
        run_program("it", command, tmp_path / "log", {})


def test_program_that_outlives_its_caller_is_not_run_beside_itself(tmp_path):
    """The caller is killed; the program goes on, and holds the log."""
    log = tmp_path / "log"
    call = f"run_program('it', ['sh', '-c', 'echo begun; sleep 5'], pathlib.Path({str(log)!r}), {{}})"
    code = f"import pathlib; from simulmask_plugin.programs import run_program; {call}"
    caller = subprocess.Popen([sys.executable, "-c", code])
    while not log.is_file() or "begun" not in log.read_text():
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    prepared = []
    with pytest.raises(ProgramFailed, match="it is still running: another process writes .*log"):
        run_program("it", ["true"], log, {}, prepare=lambda: prepared.append(1))
    assert not prepared
