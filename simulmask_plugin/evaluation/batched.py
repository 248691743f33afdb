"""The engine ``batched``: every sentence under every policy on one model, in the order and the format of SimulEval.

SimulEval sends one word of source, asks the agent, and counts the words that have been sent as the delay of what it
gets. Nothing in that needs a process per policy, or one sentence at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.files.texts import read_text
from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.lane import Lane, Steps
from simulmask_plugin.streaming.options import Decision, document_of, open_session
from simulmask_plugin.streaming.pool import Pool
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.simulation import Record, simulate
from simulmask_plugin.streaming.translator import Translator, load


@dataclass(slots=True)
class _Log:
    """A log of one JSON object a sentence, in the order of the sentences, whatever the order in which they end."""

    path: Path
    next: int
    waiting: dict[int, Record] = field(default_factory=dict)

    def add(self, index: int, record: Record) -> None:
        self.waiting[index] = record
        with self.path.open("a", encoding="utf-8") as file:
            while self.next in self.waiting:
                file.write(json.dumps(self.waiting.pop(self.next)) + "\n")
                self.next += 1


def stream_batched(
    config: EvaluationConfig, runs: Mapping[Path, Decision], done: Mapping[Path, int], num_sentences: int
) -> None:
    """Stream what is left of some runs; what they write is what SimulEval and the agent would.

    Args:
        config: the evaluation, resolved.
        runs: folder of a run -> what it streams with.
        done: folder -> sentences that are in its logs already.
        num_sentences: of every run.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    translator = load(
        config.model, device=config.device, dtype=config.dtype, attn_implementation=config.attn_implementation
    )
    sources, references = (read_text(path).splitlines(keepends=True) for path in (config.source, config.target))
    jobs = [(run, index) for index in range(num_sentences) for run in runs if index >= done[run]]
    logs = {run: [_Log(run / name, done[run]) for name in ("instances.log", "sessions.jsonl")] for run in runs}
    pool = Pool(translator.model, config.lanes)

    def opened() -> Iterator[Any]:
        for run, index in jobs:
            yield _job(config, translator, runs[run], sources[index].split(), references[index])

    for number, (session, instance) in pool.run(opened()):
        run, index = jobs[number]
        cost = asdict(session.counters) | {
            "seconds": session.lane.seconds,
            "flops": session_flops(translator.model, session.counters),
            "truncated": session.truncated,
        }
        for log, record in zip(logs[run], ({"index": index, **instance}, cost), strict=True):
            log.add(index, record)


def _job(
    config: EvaluationConfig, translator: Translator, decision: Decision, source: Sequence[str], reference: str
) -> Any:
    """What opens the session of a sentence on a lane."""
    settings = translator.encoder.settings.for_pair(config.source_lang, config.target_lang)

    def open_on(lane: Lane) -> Steps[tuple[Session, Record]]:
        session = open_session(
            translator.model,
            translator.encoder.with_settings(settings),
            decision,
            document=document_of(settings, config.document_units, config.context_sentences),
            max_target_tokens=config.max_target_tokens,
            lane=lane,
        )
        return simulate(session, source, reference, str(config.latency_unit))

    return open_on
