"""``simulmask eval``: SimulEval for every policy of a YAML, then the table, the curve and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.config import (
    EvaluationConfig,
    check_encodable,
    check_evaluation,
    load_evaluation,
    num_sentences,
    resolve,
)
from simulmask_plugin.evaluation.curves import draw_curve
from simulmask_plugin.evaluation.digests import Digests, model_files, save
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program
from simulmask_plugin.evaluation.progress import Bar
from simulmask_plugin.evaluation.report import write_report
from simulmask_plugin.evaluation.runs import (
    AUDIT,
    INSTANCES,
    LATENCY_METRICS,
    SCORES,
    SESSIONS,
    finish,
    predictions,
    work_left,
)
from simulmask_plugin.evaluation.scores import Score, read_jsonl, score, signatures, write_scores
from simulmask_plugin.streaming.options import agent_flag
from simulmask_plugin.training.machine import check_device

PATHS = ("model", "source", "target")
"""Results are those of another place as long as the files are the same."""
FREE = ("output", "policies", "jobs", "threads", "lanes", "audit", "bleu_tokenize", "simulmask", "extra_metrics")
"""Keys that no translation depends on."""
NOTHING = (
    "{}: the model wrote nothing for any sentence, so that there is no latency to measure. Train it for longer, or "
    "with a policy nearer to this one."
)
OF_AGENT = (
    *("model", "source", "target", "source_lang", "target_lang", "threads", "device", "attn_implementation"),
    *("max_target_tokens", "document_units", "context_sentences"),
)
"""Keys that are options of SimulEval or our agent, under the same names."""


def run_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> int:
    """Run what is missing of an evaluation YAML, and say where the results are; return the exit code.

    Raises:
        ValueError: if the YAML, the model or the files are wrong, or the output was made with other settings.
        ProgramFailed: if SimulEval fails; the message says why, or holds the end of its log.
    """
    config = load_evaluation(path, overrides)
    evaluate(config, Path(path).stem, has_bar=True)
    print("Results: " + ", ".join(str(Path(config.output, name)) for name in ("report.md", "curve.png", "scores.tsv")))
    return 0


def evaluate(
    config: EvaluationConfig,
    name: str,
    title: str = "",
    environment: Mapping[str, str] | None = None,
    *,
    has_bar: bool = False,
) -> list[Score]:
    """Run what is missing, write scores.tsv, curve.png and report.md; return the scores, one per policy.

    Args:
        config: the evaluation.
        name: of what is evaluated, in the legend of the curve and over the report.
        title: begins every line of progress.
        environment: variables for SimulEval beside those of this process.
        has_bar: whether a bar shows how far it has come, or lines where there is no terminal.

    Raises:
        ValueError: if the model, the files or the device are wrong, or the output was made with other settings.
        ProgramFailed: if SimulEval fails; the message says why, or holds the end of its log.
    """
    settings = check_evaluation(config)
    check_device(config.device)
    resolved = resolve(config, settings)
    check_encodable(config, settings)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    folders = [output / decision.name for decision in config.decisions]
    made_with, total = _made_with(resolved, settings), num_sentences(config)

    places = (f"{title}[{number}/{len(folders)}] {folder.name}:" for number, folder in enumerate(folders, 1))
    says = [partial(print, place, flush=True) for place in places]
    left: dict[Path, Callable[[], None]] = {}
    for folder, policy, say in zip(folders, config.policies, says, strict=True):
        folder.mkdir(exist_ok=True)
        if prepare := work_left(folder, {**made_with, "policy": dict(policy)}, free=PATHS, say=say):
            left[folder] = prepare

    def run(folder: Path, policy: Mapping[str, Any], say: Callable[[str], None]) -> Score:
        if folder in left:
            if config.engine == "simuleval":
                _run_simuleval(resolved, policy, folder, environment or {}, left[folder])
            elif config.audit:
                say(_audit(resolved, policy, folder, environment or {}))
            finish(folder, total)
        of_run = score(resolved, folder)
        say(describe(of_run, config))
        return of_run

    logs = [folder / SESSIONS for folder in left] if has_bar else []
    with ThreadPoolExecutor(config.jobs) as pool, Bar(logs, total):
        if config.engine == "batched" and left:
            _run_batched(resolved, left, environment or {})
        scores = list(pool.map(run, folders, config.policies, says))
    write_scores(output / SCORES, scores)
    draw_curve(output / "curve.png", {name: scores}, f"{config.model}, {config.source}")
    write_report(output / "report.md", name, resolved, settings, scores, signatures(resolved))
    return scores


def _run_batched(
    config: EvaluationConfig, left: Mapping[Path, Callable[[], None]], environment: Mapping[str, str]
) -> None:
    """Stream what is left of all runs in this process, then have SimulEval score them."""
    from simulmask_plugin.evaluation.batched import stream_batched

    for prepare in left.values():
        prepare()
    decisions = {Path(config.output, decision.name): decision for decision in config.decisions}
    runs = {folder: decisions[folder] for folder in left}
    stream_batched(config, runs, {folder: len(predictions(folder)) for folder in runs}, num_sentences(config))
    written = [folder for folder in runs if any(map(str.strip, predictions(folder)))]
    for folder in runs:
        if folder not in written:
            raise ProgramFailed(NOTHING.format(folder))
    command = [sys.executable, "-m", "simulmask_plugin.agents", str(config.latency_unit), *map(str, runs)]
    log = Path(config.output, "scoring.log")
    run_program("SimulEval", command, log, {**environment, "PYTHONUTF8": "1"})


def _audit(config: EvaluationConfig, policy: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> str:
    """Stream the first sentences with SimulEval's agent as well; say how many come out the same."""
    several = min(config.audit, num_sentences(config))
    again = folder / "audit"
    again.mkdir(exist_ok=True)
    (again / INSTANCES).unlink(missing_ok=True)
    _run_simuleval(replace(config, limit=several), policy, again, environment, lambda: None)
    ours, theirs = (read_jsonl(place / INSTANCES)[:several] for place in (folder, again))
    equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
    save(folder / AUDIT, {"sentences": several, "equal": equal})
    return f"SimulEval's own agent writes the same, at the same time, for {equal} of {several} sentences"


def describe(of_run: Score, config: EvaluationConfig) -> str:
    """The scores of a run in one line, and of how many sentences the translation is not whole."""
    line = (
        f"BLEU {of_run.bleu:.2f} at LAAL {of_run.laal:.2f} "
        f"({of_run.sentences} sentences, {of_run.calls_per_token:.2f} calls a token)"
    )
    if not of_run.truncated:
        return line
    return (
        f"{line}\n  {of_run.truncated} of them were cut off at max_target_tokens: {config.max_target_tokens}; raise "
        "it, or train for longer: a model that does not end its sentences has not learned to."
    )


def _made_with(config: EvaluationConfig, settings: ModelSettings) -> dict[str, Any]:
    """All that results depend on beside the policy: settings, and the content of texts and model."""
    files = {"source": Path(config.source), "target": Path(config.target)}
    files |= {path.name: path for path in model_files(config.model)}
    digests = Digests(Path(config.output, "digests.json"))
    made_with = {key: value for key, value in asdict(config).items() if key not in FREE} | {
        "trained": json.loads(json.dumps(settings.content())),
        "files": {name: digests.of(path) for name, path in files.items()},
    }
    digests.save()
    return made_with


def _run_simuleval(
    config: EvaluationConfig,
    policy: Mapping[str, Any],
    directory: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None],
) -> None:
    command = [sys.executable, "-m", "simuleval.cli", "--agent-class", "simulmask_plugin.agents.SimulMaskAgent"]
    options = {
        **{agent_flag(key): getattr(config, key) for key in OF_AGENT},
        "output": directory,
        "eval-latency-unit": config.latency_unit,
        "end-index": config.limit,
        "model-dtype": config.dtype,
        "session-log": directory / SESSIONS,
        **{agent_flag(key): value for key, value in policy.items()},
    }
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    command += [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    command += ["--continue-unfinished", "--quality-metrics", "BLEU", "--latency-metrics", *LATENCY_METRICS]
    threads = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    environment = {**environment, **threads, "PYTHONUTF8": "1"}  # SimulEval opens texts as the locale says
    try:
        run_program("SimulEval", command, directory / "simuleval.log", environment, prepare=prepare)
    except ProgramFailed as error:
        written = predictions(directory)
        if len(written) < num_sentences(config) or any(map(str.strip, written)):
            raise
        raise ProgramFailed(NOTHING.format(directory)) from error
