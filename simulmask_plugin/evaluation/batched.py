"""The engine ``batched``: every sentence under every policy on one model, in the order and the format of SimulEval.

SimulEval sends one word of source, asks the agent, and counts the words that have been sent as the delay of what it
gets. Nothing in that needs a process per policy, or one sentence at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.evaluation.digests import save
from simulmask_plugin.evaluation.runs import INSTANCES, MEMORY, SESSIONS, TRACE, enter
from simulmask_plugin.files.texts import read_text
from simulmask_plugin.streaming.document import document_of
from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.lane import Lane, Steps
from simulmask_plugin.streaming.options import Decision, Opener, session_opener
from simulmask_plugin.streaming.pool import Job, Pool
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.simulation import Record, simulate
from simulmask_plugin.streaming.translator import Translator, load


def stream_batched(
    config: EvaluationConfig,
    runs: Mapping[Path, Decision],
    sentences: Sequence[tuple[Path, int]],
    process: int = 0,
) -> dict[Path, str]:
    """Stream sentences of some runs into journals, which hold what SimulEval and the agent would write.

    Args:
        config: the evaluation, resolved.
        runs: folder of a run -> what it streams with.
        sentences: folder of a run, index; see `runs.undone`.
        process: number of this one, for the name of its journals.

    Returns:
        folder of a run that cannot be streamed to its end -> why.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    translator = load_for(config)
    sources, references = (read_text(path).splitlines(keepends=True) for path in (config.source, config.target))
    openers = {run: opener_of(config, translator, decision) for run, decision in runs.items()}
    faults: dict[Path, str] = {}
    started: list[tuple[Path, int]] = []

    def opened() -> Iterator[Any]:
        for run, index in sentences:
            if run not in faults:
                started.append((run, index))
                yield job(config, openers[run], sources[index].split(), references[index])

    pool = Pool(translator.model, config.lanes)
    for number, result in pool.run(opened()):
        run, index = started[number]
        if isinstance(result, ValueError):
            faults[run] = f"sentence {index + 1}: {result}"
            continue
        session, instance = result
        records = {INSTANCES: {"index": index, **instance}, SESSIONS: _cost(translator, session)}
        if session.recorder is not None:
            records[TRACE] = {"steps": session.recorder.steps}
        enter(run, process, index, records)
    save(Path(config.output, MEMORY.format(process)), {"lanes": config.lanes, "cache_bytes": pool.cache_bytes})
    return faults


def load_for(config: EvaluationConfig) -> Translator:
    """The model of a resolved evaluation."""
    return load(
        config.model,
        config.adapter,
        device=config.device,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
    )


def _cost(translator: Translator, session: Session) -> Record:
    """A line of our own log."""
    return asdict(session.counters) | {
        "seconds": session.lane.seconds,
        "flops": session_flops(translator.model, session.counters),
        "truncated": session.truncated,
    }


def opener_of(config: EvaluationConfig, translator: Translator, decision: Decision) -> Opener:
    """What opens the sessions of a run of a resolved evaluation."""
    settings = translator.encoder.settings.for_pair(config.source_lang, config.target_lang)
    return session_opener(
        translator.model,
        translator.encoder.with_settings(settings),
        decision,
        document=document_of(settings, config.document_units, config.context_sentences),
        max_target_tokens=config.max_target_tokens,
        aids=translator.aids,
    )


def job(
    config: EvaluationConfig, opener: Opener, source: Sequence[str], reference: str
) -> Job[tuple[Session, Record] | ValueError]:
    """What streams a sentence on a lane, see `simulate`; an error is its result."""

    def open_on(lane: Lane) -> Steps[tuple[Session, Record] | ValueError]:
        try:
            session = opener(lane, Recorder(lambda: lane.seconds) if config.trace else None)
            return (yield from simulate(session, source, reference, str(config.latency_unit)))
        except ValueError as error:  # the other policies may be able to stream it
            return error

    return open_on
