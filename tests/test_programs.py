"""Programs with a log."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from simulmask_plugin.evaluation import programs
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program


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
    code = f"import pathlib; from simulmask_plugin.evaluation.programs import run_program; {call}"
    caller = subprocess.Popen([sys.executable, "-c", code])
    while not log.is_file() or "begun" not in log.read_text():
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    prepared = []
    with pytest.raises(ProgramFailed, match="it is still running: another process writes .*log"):
        run_program("it", ["true"], log, {}, prepare=lambda: prepared.append(1))
    assert not prepared


# Signals

PARENT = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has its program ignore it
from concurrent.futures import ThreadPoolExecutor
from simulmask_plugin import cli
from simulmask_plugin.evaluation import programs
child = "import subprocess; subprocess.run(['sleep', '60'])"
def work(number):
    programs.run_program("it", [sys.executable, "-c", child], pathlib.Path(f"{sys.argv[1]}{number}"), {})
def run(options):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(3)))
cli.parse = lambda arguments: type("Options", (), {"run": staticmethod(run)})
sys.exit(cli.main())
"""
"""Ends as `simulmask eval` does, which runs a program that starts another one."""


def descendants(pid):
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_a_command_with_all_that_it_has_started_in_one_line(tmp_path, number, code):
    command = [sys.executable, "-c", PARENT, tmp_path / "log"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len([one for one in descendants(process.pid) if one.name() == "sleep"]) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    started = descendants(process.pid)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert printed == f"simulmask: ended by {number.name}; what is finished is kept.\n"
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started)


def test_program_that_takes_no_notice_is_killed(monkeypatch):
    monkeypatch.setattr(programs, "ENDS", [(number, 0.2) for number, _ in programs.ENDS])
    code = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print('deaf', flush=True)"
    code += "; time.sleep(60)"
    process = psutil.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"deaf\n"
    programs._end([process])
    assert process.wait(timeout=5) is not None
    process.stdout.close()


def test_program_that_is_ended_writes_out_its_log(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "with open('log', 'w') as file: file.write('kept'); print('ready', flush=True); time.sleep(60)"
    process = psutil.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    assert process.stdout.readline() == b"ready\n"
    assert (tmp_path / "log").read_text() == ""
    programs._end([process])
    process.stdout.close()
    process.wait()
    assert (tmp_path / "log").read_text() == "kept"


def test_error_while_a_program_runs_ends_it():
    with pytest.raises(RuntimeError, match="ours"), programs._started(["sleep", "60"]) as process:
        raise RuntimeError("ours")
    assert process.poll() is not None


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with programs.programs_end_with_us():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is interrupt
