"""The engine ``batched`` in a program of its own, beside others: with its own lock of Python, and its own GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from simulmask_plugin.evaluation.batched import stream_batched
from simulmask_plugin.evaluation.config import EvaluationConfig, load_evaluation, num_sentences
from simulmask_plugin.evaluation.digests import save
from simulmask_plugin.evaluation.programs import run_program
from simulmask_plugin.evaluation.runs import undone
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.training.machine import check_device

PLAN, FAULTS = "streaming.json", "faults.json"
"""In the folder of the evaluation: the evaluation, resolved, with the policies that are left; what could not be."""


def stream_in_program(
    config: EvaluationConfig,
    runs: Mapping[Path, Decision],
    environment: Mapping[str, str],
    prepare: Callable[[], None],
) -> dict[Path, str]:
    """Stream what is left of some runs, like `stream_batched`, in a program; its log is streaming.log.

    Args:
        config: the evaluation, resolved.
        runs: folder of a run -> what it streams with.
        environment: variables beside those of this process.
        prepare: called before it starts, once no other program streams into these folders.

    Returns:
        folder of a run that cannot be streamed to its end -> why.

    Raises:
        ProgramFailed: if the program does not end well; the message holds the end of its log.
    """
    output = Path(config.output)
    policies = [policy for policy in config.policies if output / Decision.from_dict(policy).name in runs]

    def begin() -> None:
        prepare()
        save(output / PLAN, asdict(replace(config, policies=tuple(policies))))

    command = [sys.executable, "-m", "simulmask_plugin.evaluation.streaming_program", str(output / PLAN)]
    run_program("The streaming", command, (output / PLAN).with_suffix(".log"), environment, prepare=begin)
    return {output / name: fault for name, fault in read_json(output / FAULTS).items()}


def main(plan: str) -> None:
    """Stream as a plan says, and note what could not be streamed."""
    config = load_evaluation(plan)
    check_device(config.device)
    output = Path(config.output)
    runs = {output / decision.name: decision for decision in config.decisions}
    faults = stream_batched(config, runs, undone(runs, num_sentences(config)))
    save(output / FAULTS, {run.name: fault for run, fault in faults.items()})


if __name__ == "__main__":
    main(sys.argv[1])
