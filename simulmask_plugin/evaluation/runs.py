"""The folder of one streamed run: what SimulEval and our agent write there, and whether it is complete.

A run is finished once ``finished.json`` holds the SHA-256 of all that it left; that file is written last, and whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from simulmask_plugin.evaluation.digests import check_same, save, saved
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import parse_json

INSTANCES, SESSIONS, TRACE, SCORES = "instances.log", "sessions.jsonl", "trace.jsonl", "scores.tsv"
LOGS = {
    INSTANCES: {"index", "prediction", "reference", "source", "delays"},
    SESSIONS: {"seconds", "calls", "written_tokens", "flops", "truncated"},
    TRACE: {"steps"},
}
"""Of SimulEval and of our agent, one object a line; and the keys that each of them has."""
SETTINGS, FINISHED = "settings.json", "finished.json"
JOURNAL = "streamed.{}.jsonl"
"""Of the engine batched: what a process has streamed, a line for every sentence, in the order in which they end."""
MEMORY = "memory.{}.json"
"""Of the engine batched, in the folder of the evaluation: what the lanes of a process took."""
AUDIT = "audit.json"
"""Of the engine batched: how many sentences SimulEval's own agent has streamed the same."""
DERIVED = ("extra_metrics.json", SCORES, FINISHED)
"""Made from the logs of a run, and worth nothing once these change."""
LATENCY_METRICS = ("AL", "LAAL", "AP", "DAL")


def logs_of(trace: bool) -> list[str]:
    """The logs of a run: the trace only where it is asked for."""
    return [name for name in LOGS if trace or name != TRACE]


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
    logs = [*(directory / name for name in LOGS), *_journals(directory)]
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
    results = (*_logs_in(directory), SCORES)
    damaged = [name for name in results if finished.get(name) != _digest(directory / name)]
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
    logs = _logs_in(directory)
    for log in (directory / name for name in logs):
        lines = _whole_lines(log)
        if len(lines) != num_sentences or "".join(lines) != log.read_text(encoding="utf-8"):
            raise ProgramFailed(
                f"{log} holds {len(lines)} whole lines of {num_sentences} sentences; is the disk full? "
                "Run the same command again to continue from there."
            )
    if fault := _fault_of_scores(directory / SCORES):
        raise ProgramFailed(f"{directory / SCORES} {fault}; is the disk full? Run the same command again.")
    save(directory / FINISHED, {name: _digest(directory / name) for name in (*logs, SCORES)})


def has_scores(directory: Path) -> bool:
    """Whether SimulEval has scored a run."""
    return not _fault_of_scores(directory / SCORES)


def predictions(directory: Path) -> list[str]:
    """What a run has written so far, a text per sentence."""
    return [json.loads(line)["prediction"] for line in _whole_lines(directory / INSTANCES)]


def enter(directory: Path, process: int, index: int, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in the journal of a process what the logs are to hold of a sentence: name of the log -> its line."""
    with (directory / JOURNAL.format(process)).open("a", encoding="utf-8") as file:
        file.write(json.dumps([index, records]) + "\n")


def entered(directory: Path) -> dict[int, dict[str, str]]:
    """What logs and journals hold of a run: index of a sentence -> name of the log -> its line."""
    logs = {name: _whole_lines(directory / name) for name in _logs_in(directory)}
    found = {
        index: dict(zip(logs, lines, strict=True)) for index, lines in enumerate(zip(*logs.values(), strict=False))
    }
    for journal in _journals(directory):
        for line in _lines(journal):
            index, records = parse_json(line.decode(), str(journal))
            found[index] = {name: json.dumps(record) + "\n" for name, record in records.items()}
    return found


def undone(runs: Iterable[Path], num_sentences: int) -> list[tuple[Path, int]]:
    """The sentences of some runs that have not been streamed: folder of a run, index."""
    done = {run: entered(run).keys() for run in runs}
    return [(run, index) for index in range(num_sentences) for run in done if index not in done[run]]


def num_streamed(directory: Path) -> int:
    """How many sentences a run has streamed so far, as far as lines tell."""
    return sum(len(_lines(log)) for log in (directory / SESSIONS, *_journals(directory)))


def close(directory: Path) -> None:
    """Write the logs of a run, a line for every sentence in their order, in place of its journals."""
    found = [records for _, records in sorted(entered(directory).items())]
    for name in _logs_in(directory):
        write_text(directory / name, "".join(records[name] for records in found))
    for journal in _journals(directory):
        journal.unlink()


def _logs_in(directory: Path) -> list[str]:
    """The logs of a run that has begun, as its settings have it."""
    return logs_of(saved(directory / SETTINGS).get("trace", False))


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
    for path in (*_journals(directory), *(directory / name for name in (*LOGS, *DERIVED))):
        path.unlink(missing_ok=True)
    save(directory / SETTINGS, made_with)


def _continue(directory: Path, say: Callable[[str], None]) -> None:
    for name in DERIVED:
        (directory / name).unlink(missing_ok=True)
    repair(directory)
    say(f"continues after {len(entered(directory))} sentences that were streamed before")


def repair(directory: Path) -> None:
    """Drop what a kill has cut: half lines, and of the logs the lines that another one does not have."""
    kept = {name: _whole_lines(directory / name) for name in _logs_in(directory)}
    num_kept = min(map(len, kept.values()))
    for name, lines in kept.items():
        write_text(directory / name, "".join(lines[:num_kept]))
    for journal in _journals(directory):
        write_text(journal, "".join(f"{line.decode()}\n" for line in _lines(journal)))


def _journals(directory: Path) -> list[Path]:
    return sorted(directory.glob(JOURNAL.format("*")))


def _whole_lines(log: Path) -> list[str]:
    """The lines of a log up to the first that is cut, lacks a key or is out of order."""
    lines: list[str] = []
    for line in _lines(log):
        try:
            value = parse_json(line.decode(), str(log))
        except ValueError:  # half a line
            break
        number = len(lines)
        if not isinstance(value, dict) or not LOGS[log.name] <= value.keys() or value.get("index", number) != number:
            break
        lines.append(f"{line.decode()}\n")
    return lines


def _lines(log: Path) -> list[bytes]:
    """The lines that have an end."""
    return log.read_bytes().split(b"\n")[:-1] if log.is_file() else []


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
