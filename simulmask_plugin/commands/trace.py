"""``simulmask trace``: one streamed sentence as the staircase of source against target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulmask_plugin.commands.arguments import TraceOptions
from simulmask_plugin.evaluation.examples import sentence_chrf
from simulmask_plugin.evaluation.runs import INSTANCES, TRACE
from simulmask_plugin.evaluation.scores import read_jsonl
from simulmask_plugin.pictures.staircase import Staircase, staircase_text
from simulmask_plugin.pictures.terminal import console


def run_trace(options: TraceOptions) -> int:
    """Draw one sentence; return the exit code.

    Raises:
        ValueError: if there is no such run or sentence.
    """
    run = _run(Path(options.results), options.policy)
    instance = _line(run / INSTANCES, options.sentence)
    steps = _line(run / TRACE, options.sentence)["steps"] if (run / TRACE).is_file() else None
    staircase = Staircase.from_logs(instance, steps)
    (chrf,) = sentence_chrf([instance["prediction"]], [staircase.reference])
    heading = f"{run.name}, sentence {options.sentence}, chrF {chrf:.1f}"
    out = console()
    out.print(heading)
    for name, text in (
        ("source", instance["source"]),
        ("output", instance["prediction"]),
        ("reference", staircase.reference),
    ):
        out.print(f"{name:9}  {text}", soft_wrap=True)
    out.print()
    out.print(staircase_text(staircase, out.width), soft_wrap=True)
    if options.png is not None:
        from simulmask_plugin.pictures.drawing import save_staircase_png

        save_staircase_png(staircase, options.png, heading)
        out.print(f"Drawn into {options.png}")
    return 0


def _run(results: Path, policy: str | None) -> Path:
    """The folder of the run that is meant."""
    if policy is None and (results / INSTANCES).is_file():
        return results
    runs = {path.parent.name: path.parent for path in sorted(results.glob(f"*/{INSTANCES}"))}
    if not runs:
        raise ValueError(f"{results}: no {INSTANCES} in it or in its folders; expected the output of `simulmask eval`.")
    if policy is None and len(runs) > 1:
        raise ValueError(f"{results} has several runs; choose one with --policy: {', '.join(runs)}.")
    if policy is not None and policy not in runs:
        raise ValueError(f"--policy {policy}: {results} has no such run; expected one of {', '.join(runs)}.")
    return runs[policy or next(iter(runs))]


def _line(log: Path, index: int) -> Mapping[str, Any]:
    """What a log has of a sentence."""
    records = read_jsonl(log)
    if not 0 <= index < len(records):
        raise ValueError(f"{log} has the sentences 0 to {len(records) - 1}, got {index}.")
    return records[index]
