"""The folder of one streamed run: what SimulEval and our agent write there, and whether it is complete.

A run is finished once ``finished.json`` holds the SHA-256 of all that it left; that file is written last, and whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from simulmask_plugin.evaluation.digests import check_same, save, saved
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import parse_json

INSTANCES, SESSIONS, SCORES = "instances.log", "sessions.jsonl", "scores.tsv"
LOGS = {
    INSTANCES: {"index", "prediction", "reference", "source", "delays"},
    SESSIONS: {"seconds", "calls", "written_tokens", "flops", "truncated"},
}
"""Of SimulEval and of our agent, one object a line; and the keys that each of them has."""
RESULTS = (*LOGS, SCORES)
SETTINGS, FINISHED = "settings.json", "finished.json"
AUDIT = "audit.json"
"""Of the engine batched: how many sentences SimulEval's own agent has streamed the same."""
DERIVED = ("extra_metrics.json", SCORES, FINISHED)
"""Made from the logs of a run, and worth nothing once these change."""
LATENCY_METRICS = ("AL", "LAAL", "AP", "DAL")


def work_left(
    directory: Path, made_with: Mapping[str, Any], *, free: Collection[str], say: Callable[[str], None]
) -> Callable[[], None] | None:
    """Return None if the run is finished and complete; else what to do with its folder before SimulEval runs in it.

    Args:
        directory: of the run.
        made_with: everything that its results depend on; JSON.
        free: keys of it that may differ, such as paths.
        say: prints why something is made again.

    Raises:
        ValueError: if it holds results made with other settings, other texts or another model.
    """
    logs = [directory / name for name in LOGS]
    if not any(log.is_file() and log.stat().st_size for log in logs):  # nothing else in the folder matters
        return partial(_begin, directory, made_with)
    settings = saved(directory / SETTINGS)
    if not settings:
        say(f"{SETTINGS} is missing or cut, so it is unknown what the results were made with; streaming again")
        return partial(_begin, directory, made_with)
    _check_same(directory, settings, made_with, free)
    finished = saved(directory / FINISHED)
    if not finished:
        return partial(_continue, directory, say)
    damaged = [name for name in RESULTS if finished.get(name) != _digest(directory / name)]
    if not damaged:
        return None
    only_scores = damaged == [SCORES]
    again = "scoring" if only_scores else "streaming"
    say(f"{', '.join(damaged)}: missing or changed since the run ended; {again} again")
    return partial(_continue, directory, say) if only_scores else partial(_begin, directory, made_with)


def finish(directory: Path, num_sentences: int) -> None:
    """Declare a run finished.

    Raises:
        ProgramFailed: if SimulEval has not left a result for every sentence, and all scores.
    """
    for log in (directory / name for name in LOGS):
        lines = _whole_lines(log)
        if len(lines) != num_sentences or "".join(lines) != log.read_text(encoding="utf-8"):
            raise ProgramFailed(
                f"{log} holds {len(lines)} whole lines of {num_sentences} sentences; is the disk full? "
                "Run the same command again to continue from there."
            )
    if fault := _fault_of_scores(directory / SCORES):
        raise ProgramFailed(f"{directory / SCORES} {fault}; is the disk full? Run the same command again.")
    save(directory / FINISHED, {name: _digest(directory / name) for name in RESULTS})


def predictions(directory: Path) -> list[str]:
    """What a run has written so far, a text per sentence."""
    return [json.loads(line)["prediction"] for line in _whole_lines(directory / INSTANCES)]


def _check_same(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]) -> None:
    if not isinstance(before.get("files"), dict):
        raise ValueError(
            f"{directory} holds results of an earlier version, which did not note what texts and what model they were "
            "made from; take another output directory, or delete this one."
        )
    compared = [key for key in now if key not in (*free, "files")]
    old, new = ({key: made.get(key) for key in compared} | made["files"] for made in (before, now))
    check_same(directory, old, new, "holds results made with other settings or files")


def _begin(directory: Path, made_with: Mapping[str, Any]) -> None:
    for name in (*LOGS, *DERIVED):
        (directory / name).unlink(missing_ok=True)
    save(directory / SETTINGS, made_with)


def _continue(directory: Path, say: Callable[[str], None]) -> None:
    """After a kill, both logs may end in half a line, and one may be shorter: keep the sentences complete in both."""
    for name in DERIVED:
        (directory / name).unlink(missing_ok=True)
    kept = {name: _whole_lines(directory / name) for name in LOGS}
    num_kept = min(map(len, kept.values()))
    for name, lines in kept.items():
        write_text(directory / name, "".join(lines[:num_kept]))
    say(f"continues after {num_kept} sentences that were streamed before")


def _whole_lines(log: Path) -> list[str]:
    """The lines of a log up to the first that is cut, lacks a key or is out of order."""
    lines: list[str] = []
    for line in log.read_bytes().split(b"\n")[:-1] if log.is_file() else ():
        try:
            value = parse_json(line.decode(), str(log))
        except ValueError:  # half a line
            break
        number = len(lines)
        if not isinstance(value, dict) or not LOGS[log.name] <= value.keys() or value.get("index", number) != number:
            break
        lines.append(f"{line.decode()}\n")
    return lines


def _fault_of_scores(path: Path) -> str:
    """What is wrong with SimulEval's table of one row; empty if nothing is."""
    if not path.is_file():
        return "is missing"
    header, _, rest = path.read_text(encoding="utf-8").partition("\n")
    values = dict(zip(header.split("\t"), rest.rstrip("\n").split("\t"), strict=False))
    if not rest.endswith("\n") or not set(LATENCY_METRICS) <= values.keys():
        return f"is empty or cut; expected {', '.join(LATENCY_METRICS)} and their values"
    return ""


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
