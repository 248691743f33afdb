"""What a terminal or a log shows of an evaluation that runs."""

from types import SimpleNamespace

import pytest

from simulmask_plugin.evaluation.progress import Bar, say


@pytest.fixture
def runs(tmp_path):
    """Three sentences and a half of one policy, in two journals; nothing yet of another, whose log is the second."""
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        run.mkdir()
    (runs[0] / "streamed.0.jsonl").write_text("{}\n{}\n")
    (runs[0] / "streamed.1.jsonl").write_text("{}\n{")
    return runs


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def test_terminal_has_one_bar_for_all_policies(runs, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    with Bar(runs, 4):
        print("said meanwhile")
    captured = capsys.readouterr()
    assert "3 of 8 sentences (38 %)" in captured.err
    assert captured.out == "said meanwhile\n"


def test_lines_of_several_threads_stay_whole(monkeypatch):
    written = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    say("one", "two")
    assert [text for text in written if text] == ["one two\n"]


def test_log_gets_a_line_for_every_tenth(runs, capsys, pipe):
    with Bar(runs, 10) as bar:
        for _ in range(2):  # no new line without a new sentence
            bar.refresh()
        (runs[1] / "sessions.jsonl").write_text("{}\n" * 10)
        bar.refresh()
        (runs[1] / "sessions.jsonl").write_text("{}\n" * 11)  # a journal is not gone yet
        (runs[0] / "streamed.0.jsonl").write_text("{}\n" * 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" sentences")[0] for line in lines] == ["3 of 20", "13 of 20", "14 of 20"]


def test_speed_is_that_of_this_call(runs, capsys, pipe, monkeypatch):
    """What was streamed before took no time now."""
    now = 0.0
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    with Bar(runs, 60) as bar:
        for count in (30, 50):
            now += 5
            (runs[1] / "sessions.jsonl").write_text("{}\n" * count)
            bar.refresh()
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "53 of 120 sentences (44 %), 5.0 a second, 0:00:14 left"


def test_nothing_to_wait_for_needs_no_bar(capsys, pipe):
    with Bar([], 4):
        pass
    assert capsys.readouterr().err == ""
