"""``simulmask compare``: trains and streams what a study lacks, then writes one table, one figure and a report."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, NamedTuple

import torch
import yaml

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.comparison import Comparison, Run, Training, write_comparison
from simulmask_plugin.evaluation.config import resolve
from simulmask_plugin.evaluation.digests import Digests, check_same, save
from simulmask_plugin.evaluation.preparation import possible, prepare
from simulmask_plugin.evaluation.processes import num_processes
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program
from simulmask_plugin.evaluation.progress import say
from simulmask_plugin.evaluation.run import evaluate
from simulmask_plugin.evaluation.runs import INSTANCES
from simulmask_plugin.evaluation.scores import metrics, read_jsonl, signatures, translations
from simulmask_plugin.evaluation.study import Stage, Study, load_study, model_folder, stage_content
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.files.texts import numbered_lines, read_text
from simulmask_plugin.training.checkpoints import TRAINER_STATE, newest_whole
from simulmask_plugin.training.machine import check_device, device_of

SHARED = (
    *("source", "target", "limit", "source_lang", "target_lang", "latency_unit", "bleu_tokenize"),
    *("device", "dtype", "max_target_tokens"),
)
"""Of the evaluations, for the report."""
TRAINED = (
    *("model_name_or_path", "dataset", "finetuning_type", "lora_rank", "quantization_bit", "learning_rate"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "packing", "seed"),
)
"""Of the stages of a model, for the report."""


def run_compare(path: str, overrides: Iterable[str] = ()) -> int:
    """Run what is missing of a study, and write the comparison of all that succeeded; return the exit code.

    Raises:
        ValueError: if the study is wrong, or its output was made with other settings.
        ProgramFailed: if nothing succeeded; the message holds the end of a log.
    """
    study = load_study(path, overrides)
    if num_processes() > 1:
        raise ValueError("simulmask compare starts all its processes itself; run it without torchrun or accelerate.")
    _check_devices(study)
    found = _run_models(study)
    if not found.runs:
        raise next(iter(found.failed.values()))
    written = write_comparison(Path(study.results or study.output), _comparison(study, path, found))
    print(f"Comparison: {', '.join(map(str, written))}")
    for name, error in found.failed.items():
        print(f"Failed: {name}: {error}", file=sys.stderr)
    return 1 if found.failed else 0


def _check_devices(study: Study) -> None:
    divided = study.jobs > 1 and torch.cuda.device_count() > 1
    for name, system in study.systems.items():
        device = system.evaluation.device
        check_device(device)
        if divided and device_of(device).index is not None:
            raise ValueError(
                f"systems.{name}: device: {device} names one GPU, and jobs: {study.jobs} has a share of them for every "
                "model; set device: cuda."
            )


class _Found(NamedTuple):
    """What the models of a study gave."""

    trainings: dict[str, Training]
    """By model."""
    runs: list[Run]
    failed: dict[str, ProgramFailed]
    """Model, system or SYSTEM/RUN -> why it has no result."""


def _run_models(study: Study) -> _Found:
    """Train and stream every model, as many at once as the study says, each as soon as its base is trained."""
    found = _Found({}, [], {})
    environments: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in _environments(study):
        environments.put(environment)
    trained = {name: Event() for name in study.models}
    stopped = Event()

    def run(name: str) -> None:
        base = study.bases.get(name)
        if base is not None:
            trained[base].wait()  # no deadlock: it stands earlier, so a thread has taken it
        if stopped.is_set():
            trained[name].set()
            return
        environment = environments.get()
        try:
            if base is not None and base not in found.trainings:
                raise ProgramFailed(f"its base {base} failed")
            found.trainings[name] = _train(study, name, environment)
            trained[name].set()
            found.failed.update(_prepare(study, name, environment))
            found.runs.extend(_stream(study, name, environment, found.failed))
        except ProgramFailed as error:
            found.failed[name] = error
            say(f"{name} failed: {str(error).splitlines()[0]}")
        except BaseException as error:
            stopped.set()
            if isinstance(error, Exception):
                reason = (str(error) or repr(error)).splitlines()[0]
                say(f"{name} failed: {reason}\nModels that are running will finish; no other one is started.")
            raise
        finally:
            trained[name].set()  # or failed
            environments.put(environment)

    with ThreadPoolExecutor(study.jobs) as pool:
        futures = [pool.submit(run, name) for name in study.models]
    for future in futures:
        future.result()
    return found


def _comparison(study: Study, path: str, found: _Found) -> Comparison:
    order, models = list(study.systems), list(study.models)
    runs = sorted(found.runs, key=lambda run: (order.index(run.system), models.index(run.model)))
    first = next(system.evaluation for system in study.systems.values() if system.model == runs[0].model)
    settings = {
        name: ModelSettings.load(model_folder(Path(study.output), name, len(stages)))
        for name, stages in study.models.items()
        if name in found.trainings
    }
    resolved = resolve(first, settings[runs[0].model])
    return Comparison(
        title=study.title or Path(path).stem,
        date=date.today().isoformat(),
        runs=runs,
        trainings=found.trainings,
        plain=study.plain,
        reference=study.reference_run,
        bleu=metrics(resolved)[0],
        models={
            name: ({"from": study.bases[name]} if name in study.bases else {})
            | {f"stage {number}": stage.summary(TRAINED) for number, stage in enumerate(stages, 1)}
            | {one.name: one.summary() for one in study.preparations[name]}
            | settings[name].config.said()
            | asdict(settings[name].trained_on)
            for name, stages in study.models.items()
            if name in found.trainings
        },
        failed={name: str(error).splitlines()[0] for name, error in found.failed.items()},
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


def _train(study: Study, name: str, environment: Mapping[str, str]) -> Training:
    """Run the stages of one model, each from what the one before it made; return what these trainings took."""
    stages, output = study.models[name], Path(study.output)
    training = Training()
    digests = _digests(study, name)
    start: dict[str, str] = {}
    if name in study.bases:
        base = study.bases[name]
        start = {"model_name_or_path": str(model_folder(output, base, len(study.models[base])))}
    for number, stage in enumerate(stages, 1):
        folder = model_folder(output, name, number)
        values = {**stage.values, **start}
        title = f"{name}: stage {number} of {len(stages)} ({stage.kind})"
        _run_stage(Stage(stage.kind, values), folder, title, environment, digests)
        if stage.kind == "train":
            training += _training(folder)
        start = {"model_name_or_path": str(folder)}
        if stage.makes_adapter:
            start = {"model_name_or_path": str(values["model_name_or_path"]), "adapter_name_or_path": str(folder)}
    return training


def _prepare(study: Study, name: str, environment: Mapping[str, str]) -> dict[str, ProgramFailed]:
    folder = model_folder(Path(study.output), name, len(study.models[name]))
    return prepare(study.preparations[name], name, folder, environment, _digests(study, name))


def _digests(study: Study, name: str) -> Digests:
    return Digests(model_folder(Path(study.output), name, 1).with_name("digests.json"))


def _stream(study: Study, name: str, environment: Mapping[str, str], failed: dict[str, ProgramFailed]) -> Iterator[Run]:
    """Stream one model as every system does that has it; ``failed`` gets SYSTEM/RUN of what could not be."""
    for system, settings in study.systems.items():
        if settings.model != name:
            continue
        beside_others = environment if study.jobs > 1 else None
        evaluation = settings.evaluation
        if study.preparations[name]:  # of which some may have failed
            evaluation, missing = possible(evaluation, system)
            failed |= missing
        if not evaluation.policies:
            continue
        try:
            scores, faults = evaluate(evaluation, system, f"{system} ", beside_others)
        except ProgramFailed as error:
            failed[system] = error
            continue
        failed |= {f"{system}/{run}": error for run, error in faults.items()}
        decisions = {decision.name: decision for decision in settings.evaluation.decisions}
        for score in scores:
            log = Path(settings.evaluation.output, score.name, INSTANCES)
            texts = translations(read_jsonl(log))
            yield Run(study.repeats.get(system, system), name, decisions[score.name], score, *texts)


def _run_stage(stage: Stage, folder: Path, title: str, environment: Mapping[str, str], digests: Digests) -> None:
    """Run a stage unless it is finished; its log gets its name when it is.

    Raises:
        ValueError: if the folder was made with other settings, or from other files.
    """
    config, log, unfinished = (folder.with_name(f"{folder.name}.{end}") for end in ("yaml", "log", "unfinished"))
    is_training = stage.kind == "train"
    values = {**stage.values, ("output_dir" if is_training else "export_dir"): str(folder)}
    if is_training:
        # packs have no padding to speak of, and their attention mask counts no tokens
        count = "all" if values.get("packing") or values.get("neat_packing") else "non_padding"
        values |= {"include_num_input_tokens_seen": count, "overwrite_output_dir": False}
    may_resume = is_training and not values.get("save_only_model")
    checkpoint, faults = newest_whole(folder) if may_resume else (None, [])
    _note(values, config, title, digests, is_needed=log.is_file() or checkpoint is not None)
    if log.is_file():
        say(f"{title}: done before")
        return
    for fault in faults:
        say(f"{title}: {fault}")
    resuming = f" resumes from {checkpoint.name}" if checkpoint is not None else ""
    say(f"{title}{resuming} ...")
    start = time.monotonic()
    command = [sys.executable, "-m", "llamafactory.cli", stage.kind, str(config)]
    if checkpoint is not None:
        _resumed(folder).touch()
        command.append(f"resume_from_checkpoint={checkpoint}")
    elif is_training and folder.is_dir():
        command.append("overwrite_output_dir=true")  # started and killed before it left anything to resume from
    run_program(title, command, unfinished, environment)
    unfinished.replace(log)
    say(f"{title}: {time.monotonic() - start:.0f} s")


def _resumed(folder: Path) -> Path:
    """A file that says that a training was interrupted; LLaMA-Factory's time is then that of its last part."""
    return folder.with_name(f"{folder.name}.resumed")


def _note(values: Mapping[str, Any], config: Path, title: str, digests: Digests, *, is_needed: bool) -> None:
    """Write the YAML of a stage, and what it is made from, by content.

    Where a model or a checkpoint was made with them, they must be the same, and stay as they are.

    Raises:
        ValueError: naming the keys or the files that have changed.
    """
    config.parent.mkdir(parents=True, exist_ok=True)
    files = config.with_suffix(".files.json")
    if is_needed:
        try:
            before = yaml.safe_load(read_text(config)) or {}
        except yaml.YAMLError as error:
            raise ValueError(
                f"{config} is damaged, so it is unknown what {config.stem} was trained with; delete "
                f"{config.parent} to train it again."
            ) from error
        check_same(config.parent, before, values, f"was trained with other settings than in {config.name}")
    else:
        write_text(config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    content = stage_content(values, digests)
    if is_needed and files.is_file():
        check_same(config.parent, read_json(files), content, f"was trained on other files than in {files.name}")
    else:
        if is_needed:
            say(f"{title}: no {files.name}; what it was made from is taken for what is there now")
        save(files, content)
    digests.save()


def _training(folder: Path) -> Training:
    results, state = (read_json(folder / name) for name in ("train_results.json", TRAINER_STATE))
    seconds = math.nan if _resumed(folder).is_file() else results["train_runtime"]
    return Training(results["epoch"], seconds, state["num_input_tokens_seen"])
