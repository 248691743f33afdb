"""``simulmask eval``: SimulEval for every policy of a YAML, then the table, the curve and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.config import (
    EvaluationConfig,
    calibrated,
    check_encodable,
    check_evaluation,
    errors_name,
    load_evaluation,
    num_sentences,
    resolve,
)
from simulmask_plugin.evaluation.curves import draw_curve
from simulmask_plugin.evaluation.digests import Digests, model_files, saved
from simulmask_plugin.evaluation.engines import ENGINES, Environment
from simulmask_plugin.evaluation.processes import check_processes, is_first, stream
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.progress import Bar, say
from simulmask_plugin.evaluation.report import write_report
from simulmask_plugin.evaluation.runs import (
    AUDIT,
    SCORES,
    finish,
    has_scores,
    work_left,
)
from simulmask_plugin.evaluation.scores import Score, score, signatures, write_scores
from simulmask_plugin.streaming.aids import AID_FILES, needed
from simulmask_plugin.training.machine import check_device

PATHS = ("model", "adapter", "source", "target")
"""Results are those of another place as long as the files are the same."""
FREE = ("output", "policies", "jobs", "threads", "lanes", "audit", "bleu_tokenize", "simulmask", "extra_metrics")
"""Keys that no translation depends on."""

_alone = Lock()
"""Held where the state of the whole process is changed: the random one of torch, by the test of a model's attention,
and the style of matplotlib."""


def run_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> int:
    """Run what is missing of an evaluation YAML, and say where the results are; return the exit code.

    Of the processes of a launcher all take part, and the first one speaks.

    Raises:
        ValueError: if the YAML, the model or the files are wrong, or the output was made with other settings.
        ProgramFailed: if no policy has a score; the message says why, or holds the end of a log.
    """
    config = load_evaluation(path, overrides)
    with errors_name(path):
        check_processes(config)
        if not is_first():
            stream(None)
            return 0
        _, failed = evaluate(config, Path(path).stem)
    print("Results: " + ", ".join(str(Path(config.output, name)) for name in ("report.md", "curve.png", "scores.tsv")))
    for name, error in failed.items():
        print(f"Failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def evaluate(
    config: EvaluationConfig,
    name: str,
    title: str = "",
    environment: Environment = None,
) -> tuple[list[Score], dict[str, ProgramFailed]]:
    """Run what is missing, write scores.tsv, curve.png and report.md of all policies that have a score.

    Args:
        config: the evaluation.
        name: of what is evaluated, in the legend of the curve and over the report.
        title: begins every line of progress.
        environment: given if others are evaluated at the same time: it then streams in programs, with these variables
            beside those of this process. Else a bar shows how far it has come, or lines where there is no terminal.

    Returns:
        the scores, and what failed: name of a policy -> why.

    Raises:
        ValueError: if the model, the files or the device are wrong, or the output was made with other settings.
        ProgramFailed: if no policy has a score; the message says why, or holds the end of a log.
    """
    settings = check_evaluation(config)
    check_device(config.device)
    with _alone:
        resolved = resolve(config, settings)
    check_encodable(config, settings)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    folders = [output / decision.name for decision in config.decisions]
    made_with = _made_with(resolved, settings)

    ending = _Ending(resolved, num_sentences(config))
    for number, (folder, policy) in enumerate(zip(folders, config.policies, strict=True), 1):
        folder.mkdir(exist_ok=True)
        tell = ending.tell[folder] = partial(say, f"{title}[{number}/{len(folders)}] {folder.name}:")
        if prepare := work_left(folder, {**made_with[folder.name], "policy": dict(policy)}, free=PATHS, say=tell):
            ending.left[folder] = prepare
    for folder in folders:
        if folder not in ending.left:
            ending(folder)
    with Bar(ending.left if environment is None else (), ending.total):  # several would be drawn over each other
        ENGINES[config.engine](resolved, ending.left, environment, ending)
    if not ending.scores:
        raise next(iter(ending.failed.values()))
    scores = [ending.scores[folder] for folder in folders if folder in ending.scores]
    write_scores(output / SCORES, scores)
    of_what = ", ".join(filter(None, (config.model, config.adapter, config.source)))
    with _alone:
        draw_curve(output / "curve.png", {name: scores}, of_what)
    write_report(output / "report.md", name, resolved, settings, scores, signatures(resolved), ending.failed)
    return scores, ending.failed


@dataclass(slots=True)
class _Ending:
    """What becomes of policies as they end: a score, or why there is none.

    Attributes:
        config: the evaluation, with everything that it left open.
        total: number of sentences.
        left: policies that are to be streamed, by folder, and how to begin.
        tell: how to say something of a policy.
    """

    config: EvaluationConfig
    total: int
    left: dict[Path, Callable[[], None]] = field(default_factory=dict, init=False)
    tell: dict[Path, Callable[[str], None]] = field(default_factory=dict, init=False)
    scores: dict[Path, Score] = field(default_factory=dict, init=False)
    failed: dict[str, ProgramFailed] = field(default_factory=dict, init=False)

    def __call__(self, folder: Path, fault: ProgramFailed | None = None) -> None:
        """Score what a policy has written, even what was there before it failed."""
        try:
            if fault and not has_scores(folder):
                raise fault
            if folder in self.left and not fault:
                finish(folder, self.total)
            self.scores[folder] = score(self.config, folder)
            self.tell[folder](describe(self.scores[folder], self.config, saved(folder / AUDIT)))
        except ProgramFailed as error:
            fault = error
        if fault:
            self.failed[folder.name] = fault
            self.tell[folder](f"failed: {str(fault).splitlines()[0]}")


def describe(of_run: Score, config: EvaluationConfig, audit: Mapping[str, Any]) -> str:
    """The scores of a run in one line; its audit; and of how many sentences the translation is not whole."""
    line = (
        f"BLEU {of_run.bleu:.2f} at LAAL {of_run.laal:.2f} "
        f"({of_run.sentences} sentences, {of_run.calls_per_token:.2f} calls a token)"
    )
    if audit:
        line += f"\n  SimulEval's own agent writes the same for {audit['equal']} of {audit['sentences']} sentences"
    if of_run.truncated:
        line += (
            f"\n  {of_run.truncated} of them were cut off at max_target_tokens: {config.max_target_tokens}; raise it, "
            "or train for longer: a model that does not end its sentences has not learned to."
        )
    return line


def _made_with(config: EvaluationConfig, settings: ModelSettings) -> dict[str, dict[str, Any]]:
    """All that results depend on beside the policy, by run: settings, thresholds, the content of texts and model."""
    files = {"source": Path(config.source), "target": Path(config.target)}
    model, *adapters = config.trained_model.folders(weights=True)
    files |= {path.name: path for path in model_files(model)}
    for number, adapter in enumerate(adapters, 1):
        files |= {f"adapter {number}: {path.name}": path for path in model_files(adapter)}
    digests = Digests(Path(config.output, "digests.json"))
    made_with: dict[str, Any] = {key: value for key, value in asdict(config).items() if key not in FREE} | {
        "trace": config.trace or None,  # a run that was made before there was the key has none
        "trained": json.loads(json.dumps(settings.uncalibrated().content())),
        "files": {name: digests.of(path) for name, path in files.items()},
    }
    for_pair, folder = settings.for_pair(config.source_lang, config.target_lang), (model, *adapters)[-1]
    result = {}
    for decision in config.decisions:
        policy, _ = decision.resolve(for_pair)
        aids = {AID_FILES[kind]: digests.of(folder / AID_FILES[kind]) for kind in needed(policy)}
        result[decision.name] = made_with | {"files": made_with["files"] | aids}
    digests.save()
    for name, entry in calibrated(config, settings).items():
        result[name]["threshold"] = entry.threshold
    return result
