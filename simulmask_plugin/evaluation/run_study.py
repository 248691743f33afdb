"""``simulmask compare``: trains and streams what a study lacks, then writes one table, one figure and a report."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import torch
import yaml

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.comparison import Comparison, Run, Training
from simulmask_plugin.evaluation.config import resolve
from simulmask_plugin.evaluation.digests import Digests
from simulmask_plugin.evaluation.programs import run_program
from simulmask_plugin.evaluation.run import evaluate
from simulmask_plugin.evaluation.scores import metrics, read_jsonl, signatures, translations
from simulmask_plugin.evaluation.study import Stage, Study, load_study, model_folder, stage_content
from simulmask_plugin.evaluation.study_report import write_comparison
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.files.texts import numbered_lines, read_text
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.training.checkpoints import TRAINER_STATE, newest_whole
from simulmask_plugin.training.machine import check_device

SHARED = (
    *("source", "target", "limit", "source_lang", "target_lang", "latency_unit", "bleu_tokenize"),
    *("device", "dtype", "max_target_tokens"),
)
"""Of the evaluations, for the report."""
TRAINED = (
    *("model_name_or_path", "dataset", "finetuning_type", "lora_rank", "quantization_bit", "learning_rate"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "packing"),
)
"""Of the stages of a model, for the report."""


def run_compare(path: str, overrides: Iterable[str] = ()) -> int:
    """Run what is missing of a study, and write its comparison; return the exit code.

    Raises:
        ValueError: if the study is wrong, or its output was made with other settings.
        ProgramFailed: if a training, a merge or SimulEval fails; the message holds the end of its log.
    """
    study = load_study(path, overrides)
    for system in study.systems.values():
        check_device(system.evaluation.device)
    failed = Event()
    environments: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in _environments(study):
        environments.put(environment)

    def run(name: str) -> tuple[Training, list[Run]]:
        if failed.is_set():
            raise CancelledError
        environment = environments.get()
        try:
            return _run_model(study, name, environment)
        except KeyboardInterrupt:
            failed.set()
            raise
        except Exception as error:
            failed.set()
            reason = (str(error) or repr(error)).splitlines()[0]
            print(f"{name} failed: {reason}\nWhat is running goes on to its end; no other model is begun.", flush=True)
            raise
        finally:
            environments.put(environment)

    with ThreadPoolExecutor(study.jobs) as pool:
        futures = {name: pool.submit(run, name) for name in study.models}
    errors = [future.exception() for future in futures.values()]
    for error in errors:
        if error is not None and not isinstance(error, CancelledError):
            raise error
    results = {name: future.result() for name, future in futures.items()}
    trainings = {name: training for name, (training, _) in results.items()}
    runs = [run for _, of_model in results.values() for run in of_model]
    written = write_comparison(Path(study.output), _comparison(study, path, trainings, runs))
    print(f"Comparison: {', '.join(map(str, written))}")
    return 0


def _comparison(study: Study, path: str, trainings: Mapping[str, Training], runs: list[Run]) -> Comparison:
    order = list(study.systems)
    first = study.systems[order[0]].evaluation
    settings = {
        name: ModelSettings.load(model_folder(Path(study.output), name, len(stages)))
        for name, stages in study.models.items()
    }
    resolved = resolve(first, settings[study.systems[order[0]].model])
    return Comparison(
        title=study.title or Path(path).stem,
        date=date.today().isoformat(),
        runs=sorted(runs, key=lambda run: order.index(run.system)),
        trainings=trainings,
        plain=study.plain,
        reference=study.reference_run,
        bleu=metrics(resolved)[0],
        blocks={name: one.config.said() | asdict(one.trained_on) for name, one in settings.items()},
        stages={name: [stage.summary(TRAINED) for stage in stages] for name, stages in study.models.items()},
        evaluation={key: getattr(resolved, key) for key in SHARED},
        versions=signatures(resolved),
        sources=[line for line, _ in numbered_lines(Path(first.source))][: runs[0].score.sentences],
    )


def _environments(study: Study) -> list[dict[str, str]]:
    """Return the variables of every job: its threads, and its share of the GPUs.

    LLaMA-Factory spreads a training over every GPU that it sees, and finds torchrun in PATH.
    """
    variables = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))}
    if study.threads:
        variables["OMP_NUM_THREADS"] = str(study.threads)
    num_gpus = torch.cuda.device_count()
    if study.jobs == 1 or num_gpus < 2:
        return [variables] * study.jobs
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
    gpus = visible.split(",")[:num_gpus]
    shares = (gpus[job :: study.jobs] or [gpus[job % len(gpus)]] for job in range(study.jobs))
    return [{**variables, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _run_model(study: Study, name: str, environment: Mapping[str, str]) -> tuple[Training, list[Run]]:
    """Train one model, and stream it as every system does that has it."""
    training = Training()
    digests = Digests(model_folder(Path(study.output), name, 1).with_name("digests.json"))
    base: Path | None = None
    adapter: Path | None = None
    for number, stage in enumerate(study.models[name], 1):
        folder = model_folder(Path(study.output), name, number)
        values = dict(stage.values)
        if base is not None:
            values["model_name_or_path"] = str(base)
        if adapter is not None:
            values["adapter_name_or_path"] = str(adapter)
        title = f"{name}: stage {number} of {len(study.models[name])} ({stage.kind})"
        _run_stage(replace(stage, values=values), folder, title, environment, digests)
        if stage.kind == "train":
            training += _training(folder)
        adapter = folder if stage.makes_adapter else None
        if not stage.makes_adapter:
            base = folder
        elif base is None:
            base = Path(values["model_name_or_path"])
    runs = []
    for system, settings in study.systems.items():
        if settings.model != name:
            continue
        # of several jobs each would draw its bars over those of the others
        scores = evaluate(settings.evaluation, system, f"{system} ", environment, has_bars=study.jobs == 1)
        for policy, score in zip(settings.evaluation.policies, scores, strict=True):
            folder = Path(settings.evaluation.output, score.name)
            predictions, references = translations(read_jsonl(folder / "instances.log"))
            runs.append(Run(system, name, Decision.from_dict(policy), score, predictions, references))
    return training, runs


def _run_stage(stage: Stage, folder: Path, title: str, environment: Mapping[str, str], digests: Digests) -> None:
    """Run a stage unless it is finished; its log gets its name when it is.

    Raises:
        ValueError: if the folder was made with other settings, or from other files.
    """
    config, log = (folder.with_name(f"{folder.name}.{ending}") for ending in ("yaml", "log"))
    values = {**stage.values, ("output_dir" if stage.kind == "train" else "export_dir"): str(folder)}
    if stage.kind == "train":
        # packs have no padding to speak of, and their attention mask counts no tokens
        count = "all" if values.get("packing") or values.get("neat_packing") else "non_padding"
        values |= {"include_num_input_tokens_seen": count, "overwrite_output_dir": False}
    may_go_on = stage.kind == "train" and not values.get("save_only_model")
    checkpoint, faults = newest_whole(folder) if may_go_on else (None, [])
    is_needed = log.is_file() or checkpoint is not None
    _write_config(values, config, is_needed=is_needed)
    _check_content(stage_content(values, digests), folder, title, is_needed=is_needed)
    digests.save()
    if log.is_file():
        print(f"{title}: done before", flush=True)
        return
    for fault in faults:
        print(f"{title}: {fault}", flush=True)
    going_on = f" goes on from {checkpoint.name}" if checkpoint is not None else ""
    print(f"{title}{going_on} ...", flush=True)
    start = time.monotonic()
    unfinished = log.with_suffix(".unfinished")
    command = [sys.executable, "-m", "llamafactory.cli", stage.kind, str(config)]
    if checkpoint is not None:
        _resumed(folder).touch()
        command.append(f"resume_from_checkpoint={checkpoint}")
    elif stage.kind == "train" and folder.is_dir():
        command.append("overwrite_output_dir=true")  # begun and killed, with nothing that one could go on with
    run_program(title, command, unfinished, environment)
    unfinished.replace(log)
    print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)


def _resumed(folder: Path) -> Path:
    """A file that says that a training was interrupted; LLaMA-Factory's time is then that of its last part."""
    return folder.with_name(f"{folder.name}.resumed")


def _write_config(values: Mapping[str, Any], config: Path, *, is_needed: bool) -> None:
    """Write the YAML of a stage; one that a model or a checkpoint was made with stays as it is.

    Raises:
        ValueError: if that one says otherwise.
    """
    if not is_needed:
        config.parent.mkdir(parents=True, exist_ok=True)
        write_text(config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        return
    try:
        before = yaml.safe_load(read_text(config)) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{config} is damaged, so that nobody knows what {config.stem} was trained with; delete {config.parent} to "
            "train it again."
        ) from error
    changed = sorted(key for key in before.keys() | values.keys() if before.get(key) != values.get(key))
    if changed:
        raise ValueError(
            f"{config.parent} was trained with other settings ({', '.join(changed)} changed since {config.name}); "
            "take another output, or delete this folder."
        )


def _check_content(now: Mapping[str, str], folder: Path, title: str, *, is_needed: bool) -> None:
    """Note what a stage is made from, by content; a model or a checkpoint must have been made from the same.

    Raises:
        ValueError: naming the files that have changed.
    """
    store = folder.with_name(f"{folder.name}.files.json")
    if is_needed and not store.is_file():
        print(f"{title}: no {store.name}; what it was made from is taken for what is there now", flush=True)
    if not is_needed or not store.is_file():
        write_text(store, json.dumps(now, indent=2) + "\n")
        return
    before = read_json(store)
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"{folder} was trained on other files ({', '.join(changed)} changed since); take another output, or "
            f"delete {folder.parent}."
        )


def _training(folder: Path) -> Training:
    results, state = (read_json(folder / name) for name in ("train_results.json", TRAINER_STATE))
    seconds = math.nan if _resumed(folder).is_file() else results["train_runtime"]
    return Training(results["epoch"], seconds, state["num_input_tokens_seen"])
