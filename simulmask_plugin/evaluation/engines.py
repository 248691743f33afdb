"""The engines of an evaluation: SimulEval's own process for a policy, or all policies side by side on one model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulmask_plugin.evaluation.config import EvaluationConfig, num_sentences
from simulmask_plugin.evaluation.digests import save
from simulmask_plugin.evaluation.processes import Streaming, stream
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program
from simulmask_plugin.evaluation.runs import (
    AUDIT,
    INSTANCES,
    LATENCY_METRICS,
    SESSIONS,
    TRACE,
    close,
    predictions,
    undone,
)
from simulmask_plugin.evaluation.scores import read_jsonl
from simulmask_plugin.evaluation.streaming_program import stream_in_program
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.streaming.options import Decision, agent_flag

Left = Mapping[Path, Callable[[], None]]
"""Folder of a run that is not finished -> what to do with it before anything is streamed."""
Ended = Callable[[Path, ProgramFailed | None], None]
"""Called for every run once nothing more is done for it, with what went wrong."""
Environment = Mapping[str, str] | None
"""Variables of the programs beside those of this process. With them, other evaluations run beside this one, and the
engine batched streams in a program, too; None: in this process."""

NOTHING = (
    "{}: the model wrote nothing for any sentence, so that there is no latency to measure. Train it for longer, or "
    "with a policy nearer to this one."
)
OF_AGENT = (
    *("source", "target", "source_lang", "target_lang", "threads", "device", "attn_implementation"),
    *("max_target_tokens", "document_units", "context_sentences"),
)
"""Keys that are options of SimulEval or our agent, under the same names."""
METRICS = ("--quality-metrics", "BLEU", "--latency-metrics", *LATENCY_METRICS)
UTF_8 = {"PYTHONUTF8": "1"}
"""SimulEval opens texts as the locale says."""


def run_simuleval(config: EvaluationConfig, left: Left, environment: Environment, ended: Ended) -> None:
    """Have SimulEval and our agent stream and score every policy in a process of its own, a sentence after another."""
    threads = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    environment = {**(environment or {}), **UTF_8, **threads}

    def run(folder: Path, policy: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "simuleval.cli", *agent_options(config, policy, folder)]
        command.append("--continue-unfinished")
        try:
            run_program("SimulEval", command, folder / "simuleval.log", environment, prepare=left[folder])
        except ProgramFailed as error:
            written = predictions(folder)
            says_nothing = len(written) == num_sentences(config) and not any(map(str.strip, written))
            ended(folder, ProgramFailed(NOTHING.format(folder)) if says_nothing else error)
        else:
            ended(folder, None)

    with ThreadPoolExecutor(config.jobs) as pool:
        for future in [pool.submit(run, *one) for one in _policies(config, left).items()]:
            future.result()


def run_batched(config: EvaluationConfig, left: Left, environment: Environment, ended: Ended) -> None:
    """Stream what is left of all runs on one model, then have SimulEval score them and stream a few sentences again."""
    policies = _policies(config, left)
    runs = {folder: decision for decision in config.decisions if (folder := Path(config.output, decision.name)) in left}
    try:
        faults = _stream(config, runs, left, environment)
    except ProgramFailed as error:
        for folder in runs:
            ended(folder, error)
        return
    for folder in runs.keys() - faults:
        close(folder)
        if not any(map(str.strip, predictions(folder))):
            faults[folder] = NOTHING.format(folder)
    good = [folder for folder in runs if folder not in faults]
    several = min(config.audit, num_sentences(config))
    audited = replace(config, limit=several, trace=False)
    calls = [["--score-only", f"--output={folder}", f"--eval-latency-unit={config.latency_unit}"] for folder in good]
    for folder in good if several else ():
        (folder / AUDIT).unlink(missing_ok=True)
        (folder / "audit").mkdir(exist_ok=True)
        calls.append(agent_options(audited, policies[folder], folder / "audit"))
    fault = _call_simuleval(config, calls, environment or {}) if calls else None
    for folder in runs:
        if folder in faults:
            ended(folder, ProgramFailed(faults[folder]))
            continue
        if not fault and several:
            _compare_audit(folder, several)
        ended(folder, fault)


ENGINES = {"simuleval": run_simuleval, "batched": run_batched}
"""Key ``engine`` -> what streams and scores the runs that are left."""


def agent_options(config: EvaluationConfig, policy: Mapping[str, Any], folder: Path) -> list[str]:
    """What SimulEval is called with, to stream one policy with our agent into a folder."""
    model, *adapters = config.trained_model.folders()
    options = {
        "model": model,
        "adapter": ",".join(map(str, adapters)) or None,
        **{agent_flag(key): getattr(config, key) for key in OF_AGENT},
        "output": folder,
        "eval-latency-unit": config.latency_unit,
        "end-index": config.limit,
        "model-dtype": config.dtype,
        "session-log": folder / SESSIONS,
        "trace-log": folder / TRACE if config.trace else None,
        **{agent_flag(key): value for key, value in policy.items()},
    }
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    words = [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    return ["--agent-class=simulmask_plugin.agents.SimulMaskAgent", *words, *METRICS]


def _policies(config: EvaluationConfig, left: Iterable[Path]) -> dict[Path, Mapping[str, Any]]:
    """Folder of a run that is left -> its entry of the policies."""
    folders = (Path(config.output, decision.name) for decision in config.decisions)
    of_folder = dict(zip(folders, config.policies, strict=True))
    return {folder: of_folder[folder] for folder in left}


def _stream(
    config: EvaluationConfig, runs: Mapping[Path, Decision], left: Left, environment: Environment
) -> dict[Path, str]:
    """Stream what is left; return what could not be: folder of a run -> why."""

    def prepare() -> None:
        for begin in left.values():
            begin()

    if environment is not None and runs:
        return stream_in_program(config, runs, environment, prepare)
    prepare()
    sentences = undone(runs, num_sentences(config))
    return stream(Streaming(config, runs, sentences) if sentences else None)


def _call_simuleval(
    config: EvaluationConfig, calls: list[list[str]], environment: Mapping[str, str]
) -> ProgramFailed | None:
    """Make several calls of SimulEval in one process; return what ended it."""
    plan = Path(config.output, "simuleval.json")
    write_text(plan, json.dumps(calls, indent=2))
    command = [sys.executable, "-m", "simulmask_plugin.agents", str(plan)]
    try:
        run_program("SimulEval", command, plan.with_suffix(".log"), {**environment, **UTF_8})
    except ProgramFailed as error:
        return error
    return None


def _compare_audit(folder: Path, several: int) -> None:
    """Note how many sentences SimulEval's agent has written like the engine, at the same time."""
    ours, theirs = (read_jsonl(place / INSTANCES)[:several] for place in (folder, folder / "audit"))
    equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
    save(folder / AUDIT, {"sentences": several, "equal": equal})
