"""What a terminal shows of an evaluation that runs."""

import pytest

from simulmask_plugin.evaluation.progress import Bars


@pytest.fixture
def logs(tmp_path):
    """Three sentences and a half of one policy; nothing yet of another."""
    (tmp_path / "sessions.jsonl").write_text("{}\n{}\n{}\n{")
    return {"wait_k-1": tmp_path / "sessions.jsonl", "offline": tmp_path / "nothing.jsonl"}


def test_terminal_has_a_bar_for_every_policy(logs, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    with Bars(logs, 4):
        print("said meanwhile")
    captured = capsys.readouterr()
    for words in ("wait_k-1", "3/4", "offline", "0/4"):
        assert words in captured.err
    assert captured.out == "said meanwhile\n"


def test_log_or_pipe_gets_no_bar(logs, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with Bars(logs, 4):
        pass
    assert capsys.readouterr().err == ""
