"""Metrics of other programs (COMET, BLEURT, OmniSTEval): a command each, in whatever environment it needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from simulmask_plugin.evaluation.digests import save, saved
from simulmask_plugin.evaluation.programs import ProgramFailed, run_and_read, tail
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.options import Must, read
from simulmask_plugin.text.prompts import placeholders

TEXTS = {"source": "source", "hypothesis": "prediction", "reference": "reference"}
"""Line-aligned texts that a command may name in braces, and their keys in SimulEval's instances.log."""
FILES = (*TEXTS, "instances")

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class ExtraMetric:
    """A command, and where to find the score in its output."""

    command: Annotated[str, Must("be a command such as sacrebleu {reference} -i {hypothesis}", str.strip)]
    """May name the files in braces; not run by a shell."""
    after: str | None = None
    """The score is the first number after the last occurrence of this text; None: the last number."""

    @classmethod
    def from_value(cls, name: str, value: Any) -> ExtraMetric:
        """Read a command, or a mapping with the keys command and after.

        Raises:
            ValueError: naming the metric, if the command is no text or names a file that does not exist.
        """
        keys = value if isinstance(value, Mapping) else {"command": value}
        metric = read(cls, keys, f"extra_metrics.{name}.")
        for file in placeholders(metric.command):
            if file not in FILES:
                known = ", ".join(f"{{{known}}}" for known in FILES)
                raise ValueError(f"extra_metrics.{name}: unknown file {{{file}}}; expected {known}.")
        return metric


def run_metrics(
    metrics: Mapping[str, Any], instances: Sequence[Mapping[str, Any]], directory: Path
) -> dict[str, float]:
    """Return the score of each metric, for a run with SimulEval's log of these instances.

    A score is saved in extra_metrics.json in the directory of the run, and only measured again if the command changes.

    Raises:
        ProgramFailed: if a command fails or prints no score; the message holds the end of what it printed.
    """
    if not metrics:
        return {}
    files = {"instances": directory / "instances.log"}
    for name, key in TEXTS.items():
        files[name] = directory / f"{name}.txt"
        # without the no-break spaces that SimulEval would have deleted as plain ones
        write_text(files[name], "".join(" ".join(one[key].split()) + "\n" for one in instances))
    store = directory / "extra_metrics.json"
    known = saved(store)
    for name, value in metrics.items():
        metric = ExtraMetric.from_value(name, value)
        if known.get(name, {}).get("metric") != asdict(metric):
            known[name] = {"metric": asdict(metric), "score": _run(name, metric, files)}
            save(store, known)
    return {name: known[name]["score"] for name in metrics}


def _run(name: str, metric: ExtraMetric, files: Mapping[str, Path]) -> float:
    words = [word.format(**files) for word in shlex.split(metric.command)]
    try:
        code, printed, errors = run_and_read(words)
    except OSError as error:
        raise ProgramFailed(f"extra_metrics.{name}: {words[0]} cannot be started: {error}") from error
    score = _find_score(printed, metric.after)
    if code or score is None:
        missing = "printed no number" + (f" after {metric.after!r}" if metric.after else "")
        reason = f"stopped with code {code}" if code else missing
        raise ProgramFailed(f"extra_metrics.{name}: {shlex.join(words)} {reason}:\n{tail(printed + errors)}")
    return score


def _find_score(printed: str, after: str | None) -> float | None:
    if after is None:
        numbers = NUMBER.findall(printed)[-1:]
    else:
        _, found, behind = printed.rpartition(after)
        numbers = NUMBER.findall(behind)[:1] if found else []
    return float(numbers[0]) if numbers else None
