"""``simulmask calibrate``: latencies become thresholds of a policy, which go into the model's simulmask.json."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import inf

from simulmask_plugin.commands.arguments import CalibrateOptions
from simulmask_plugin.config.calibration import Calibrated, threshold_of
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.evaluation.calibrate import Trial, Trials, calibrate
from simulmask_plugin.evaluation.config import EvaluationConfig, check_encodable, check_evaluation, resolve
from simulmask_plugin.options import read
from simulmask_plugin.pictures.terminal import console, table
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.training.machine import check_device

KEYS = (
    *("model", "adapter", "source", "target", "source_lang", "target_lang", "latency_unit", "limit", "lanes", "device"),
    *("dtype", "max_target_tokens"),
)
"""Options that are keys of an evaluation."""


def run_calibrate(options: CalibrateOptions) -> int:
    """Find the thresholds, print all that was streamed, and write what was found; 1 if a latency cannot be reached.

    Raises:
        ValueError: if a latency, the model, the policy or a file is wrong, or the model's folder is not the user's own.
    """
    for wanted in options.laal:
        if not 0 < wanted < inf:
            raise ValueError(f"--laal must be a number of source units above 0, got {wanted:g}.")
    folder = TrainedModel.of(options.model, options.adapter).own_folder()
    policy = options.policy or ModelSettings.load(folder).config.policy.name
    threshold_of(POLICIES[policy])
    of_run = {"policies": [{"policy": policy, **options.keys}], "output": ""}
    config = read(EvaluationConfig, {key: getattr(options, key) for key in KEYS} | of_run, "")
    settings = check_evaluation(config)
    check_device(config.device)
    config = resolve(config, settings)
    check_encodable(config, settings)
    trials, found = calibrate(config, settings, options.laal, lambda what: print(f"Streaming with {what}", flush=True))
    console().print(table((trials.threshold.key, "LAAL", "BLEU", "calls / token", "for"), _rows(trials, found)))
    print(_monotone(trials.by_strictness()))
    if found:
        ModelSettings.load(folder).calibrated(found.values()).save(folder)
        print(f"Written into {folder / FILE_NAME}: {policy} with laal {', '.join(f'{wanted:g}' for wanted in found)}")
    missing = [wanted for wanted in options.laal if wanted not in found]
    for wanted in missing:
        lags = [trial.laal for trial in trials.found.values()]
        print(
            f"laal {wanted:g} cannot be reached: {policy} goes from {min(lags):.2f} to {max(lags):.2f} here; "
            "choose another latency, or another least or most.",
            file=sys.stderr,
        )
    return 1 if missing else 0


def _rows(trials: Trials, found: Mapping[float, Calibrated]) -> Iterator[tuple[str, ...]]:
    """One of every threshold, with the latencies that it was taken for."""
    for trial in trials.by_strictness():
        taken = [f"laal {wanted:g}" for wanted, entry in found.items() if entry.threshold == trial.threshold]
        numbers = (f"{trial.laal:.2f}", f"{trial.bleu:.2f}", f"{trial.calls_per_token:.2f}")
        yield f"{trial.threshold:g}", *numbers, ", ".join(taken)


def _monotone(trials: list[Trial]) -> str:
    """How far LAAL ever falls below what a looser threshold has had; the search takes it for growing."""
    lags = [trial.laal for trial in trials]
    fall = max(highest - lag for highest, lag in zip(accumulate(lags, max), lags, strict=True))
    return f"From loose to strict, LAAL never falls by more than {fall:.2f}."
