"""The processes of a launcher (torchrun, accelerate) share out the sentences of an evaluation.

The first one prepares, scores and writes the report; all of them stream. Without a launcher there is only that one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from torch import distributed

from simulmask_plugin.evaluation.batched import stream_batched
from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.training.machine import check_device, device_of, leave_together

PATIENCE = timedelta(days=7)
"""How long the processes wait for the slowest of them."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """What is to be streamed.

    Attributes:
        config: the evaluation, resolved.
        runs: folder of a run -> what it streams with.
        sentences: folder of a run, index of a sentence.
    """

    config: EvaluationConfig
    runs: Mapping[Path, Decision]
    sentences: Sequence[tuple[Path, int]]


def num_processes() -> int:
    """How many a launcher has started; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def is_first() -> bool:
    """Whether this is the process that prepares, scores and writes the report."""
    return num_processes() == 1 or os.environ["RANK"] == "0"


def check_processes(config: EvaluationConfig) -> None:
    """Raise a ValueError if several processes cannot share an evaluation."""
    several = num_processes()
    if several == 1:
        return
    if config.engine != "batched":
        raise ValueError(
            f"engine: {config.engine} streams in programs of its own, so that the {several} processes of the launcher "
            "would all do the same. Set engine: batched, or start one process, and set jobs."
        )
    device = device_of(config.device)
    if device.index is not None:
        raise ValueError(
            f"device: {config.device} names one GPU, and {several} processes were started; set device: {device.type}, "
            "of which each takes its own."
        )


def stream(streaming: Streaming | None) -> dict[Path, str]:
    """Stream the sentences, each in one of the processes, all of which call this.

    Args:
        streaming: in the first process; None there: there is nothing to do.

    Returns:
        folder of a run that could not be streamed -> why; in every process the same.
    """
    several = num_processes()
    if several == 1:
        return stream_batched(streaming.config, streaming.runs, streaming.sentences) if streaming else {}
    distributed.init_process_group("gloo", timeout=PATIENCE)  # nothing is sent but paths, settings and faults
    told = [streaming]
    distributed.broadcast_object_list(told, src=0)
    found: list[dict[Path, str]] = [{}] * several
    if told[0]:
        distributed.all_gather_object(found, _stream_share(told[0], distributed.get_rank(), several))
    leave_together()
    return {run: fault for faults in found for run, fault in faults.items()}


def _stream_share(streaming: Streaming, process: int, several: int) -> dict[Path, str]:
    for run in streaming.runs:
        if not run.is_dir():
            raise ValueError(
                f"output: {run} is there for the first process, but not for process {process}; it must lie on a file "
                "system that all machines share."
            )
    config, share = streaming.config, streaming.sentences[process::several]
    if device_of(config.device).type == "cuda":
        config = replace(config, device=f"cuda:{os.environ['LOCAL_RANK']}")
        check_device(config.device)
    return stream_batched(config, streaming.runs, share, process)
