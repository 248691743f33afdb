"""``simulmask smoke``: a few steps of a recipe on the hardware at hand, from its data to a translation."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import yaml
from transformers.utils.logging import disable_progress_bar

from simulmask_plugin.batches.features import Row
from simulmask_plugin.commands import stand_ins
from simulmask_plugin.commands.arguments import SmokeOptions
from simulmask_plugin.commands.smoke_plan import Machine, Replacement, apply, plan
from simulmask_plugin.commands.training_yaml import is_training, load_training, read_rows
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.options import read_yaml, yaml_text
from simulmask_plugin.pictures.terminal import console
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.translator import load
from simulmask_plugin.training.arguments import check_model

NUM_STREAMED, LONGEST = 2, 24
"""How many sentences are streamed, and how many target tokens of each are written at most."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What all stages of a recipe share.

    Attributes:
        options: of the command.
        machine: the hardware to train on.
        folder: for everything that is made.
        verbosity: of LLaMA-Factory's logs.
    """

    options: SmokeOptions
    machine: Machine
    folder: Path
    verbosity: str = "INFO"


def run_smoke(options: SmokeOptions) -> int:
    """Train and merge each YAML of a recipe, every stage from the one before, and stream; return the exit code.

    Raises:
        ValueError: if a YAML is wrong, or asks for what is not here.
        ProgramFailed: if a training or a merge fails; the message holds the end of its log.
    """
    paths = [word for word in options.overrides if "=" not in word]
    if not paths:
        raise ValueError("Name at least one training YAML; several are the stages of one recipe, in their order.")
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}.")
    recipe = [_read_recipe(path, [word for word in options.overrides if "=" in word]) for path in paths]
    folder = _new_folder(options.output)
    disable_progress_bar()
    trial = Trial(options, Machine.here(), folder, os.environ.get("LLAMAFACTORY_VERBOSITY", "INFO"))
    if os.environ.get("FORCE_TORCHRUN") and not trial.machine.gpu:
        print("FORCE_TORCHRUN: left out (it starts a process for every GPU, of which there is none here)")
    finished = False
    try:
        _run_stages(paths, recipe, trial)
        finished = True
    finally:
        if not finished:
            hint = "" if options.tiny else " With --tiny a tiny random model is trained instead of the recipe's own."
            print(f"simulmask smoke: what was made is in {folder}.{hint}", file=sys.stderr)
    if options.output is None:
        shutil.rmtree(folder)
    print(f"{' and '.join(paths)}: from data to translation, it runs." + (f" See {folder}." if options.output else ""))
    return 0


def _run_stages(paths: Sequence[str], recipe: Sequence[Mapping[str, Any]], trial: Trial) -> None:
    """Train and merge stage by stage; stream with the model of the last one."""
    model, rows = None, []
    for number, (path, values) in enumerate(zip(paths, recipe, strict=True), 1):
        name = f"stage{number}"
        changed = adapt(path, values, name, model, trial)
        rows = _check(trial.folder / f"{name}.yaml", changed)
        model = train_and_merge(changed, name, trial)
    assert model is not None
    _stream(model, rows, "cuda" if torch.cuda.is_available() else "cpu")


def _read_recipe(path: str, overrides: list[str]) -> dict[str, Any]:
    """The keys of a training YAML.

    Raises:
        ValueError: if it is none, or has no valid block.
    """
    values = read_yaml(path, overrides)
    if not is_training(values) or "simulmask" not in values:
        raise ValueError(
            f"{path} is no training YAML; expected stage: sft and a simulmask: block. Its merge is done here."
        )
    SimulMaskConfig.from_dict(values["simulmask"])
    return values


def _new_folder(output: str | None) -> Path:
    if output is None:
        return Path(mkdtemp(prefix="simulmask_smoke_"))
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output: {folder} exists and is not empty; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def adapt(path: str, values: Mapping[str, Any], name: str, start: Path | None, trial: Trial) -> dict[str, Any]:
    """Print what is replaced in a training YAML, line by line, and return its keys with the replacements.

    Args:
        path: of the YAML.
        values: its keys.
        name: of the stage.
        start: the model of the stage before.
        trial: what all stages share.
    """
    folder = trial.folder / name
    folder.mkdir()
    replaced = [*plan(values, trial.machine, steps=trial.options.steps), *stand_ins.data(values, folder / "data")]
    if start is not None:
        replaced.append(Replacement("model_name_or_path", str(start), "what the stage before has made"))
        replaced.append(Replacement("adapter_name_or_path", None, "it is merged into that"))
    elif trial.options.tiny:
        replaced += stand_ins.model(apply(values, replaced), folder / "tiny")
    replaced.append(Replacement("output_dir", str(folder / "trained"), "yours stays as it is"))
    print(f"{path}: what is replaced")
    for one in replaced:
        before, now = values.get(one.key), one.value
        if before != now:
            shown = ("-" if before is None else yaml_text(before), "left out" if now is None else yaml_text(now))
            print(f"  {one.key}: {' -> '.join(shown)} ({one.why})")
    return apply(values, replaced)


def _check(config: Path, values: Mapping[str, Any]) -> list[Row]:
    """Write a YAML, check it as `simulmask validate` does, and return rows of its data."""
    config.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
    setup = load_training(str(config), [])
    check_model(setup.settings.config, setup.model_config, setup.model_args, setup.data_args)
    return read_rows(setup, NUM_STREAMED)


def train_and_merge(values: Mapping[str, Any], name: str, trial: Trial) -> Path:
    """Run LLaMA-Factory's training, and its export if that makes an adapter; return the folder of the model.

    Raises:
        ProgramFailed: if one of them fails.
    """
    _run("train", values, name, trial)
    trained = values["output_dir"]
    print(f"{name}: loss {', '.join(f'{loss:.3g}' for loss in _losses(Path(trained)))}", flush=True)
    if values.get("finetuning_type", "lora") in ("full", "freeze"):
        return Path(trained)
    before = values.get("adapter_name_or_path") if values.get("create_new_adapter") else None
    merge = {
        "model_name_or_path": values["model_name_or_path"],
        "adapter_name_or_path": ",".join([before, trained] if before else [trained]),
        "finetuning_type": values.get("finetuning_type", "lora"),
        "template": values.get("template"),
        "export_dir": str(trial.folder / name / "merged"),
        "infer_dtype": "float32",
    }
    config = trial.folder / f"{name}_merge.yaml"
    config.write_text(yaml.safe_dump(apply(merge, ()), sort_keys=False, allow_unicode=True), encoding="utf-8")
    _run("export", merge, f"{name}_merge", trial)
    return Path(merge["export_dir"])


def _losses(trained: Path) -> list[float]:
    """The loss of every step of a training.

    Raises:
        ProgramFailed: if one is no number.
    """
    history = read_json(trained / "trainer_state.json")["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if not losses or not all(map(math.isfinite, losses)):
        raise ProgramFailed(f"{trained}: the losses of the training are {losses}; expected numbers.")
    return losses


def _run(kind: str, values: Mapping[str, Any], name: str, trial: Trial) -> None:
    title = f"{name}: llamafactory-cli {kind}"
    print(f"{title} ...", flush=True)
    start = time.monotonic()
    environment = {
        # LLaMA-Factory looks for torchrun in PATH; DeepSpeed needs it, and without a GPU it would start no process
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "FORCE_TORCHRUN": "1" if values.get("deepspeed") else "0",
        "LLAMAFACTORY_VERBOSITY": trial.verbosity,
    }
    command = [sys.executable, "-m", "llamafactory.cli", kind, str(trial.folder / f"{name}.yaml")]
    run_program(title, command, trial.folder / f"{name}.log", environment)
    print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)


def _stream(folder: Path, rows: Sequence[Row], device: str) -> None:
    """Stream the sources of the rows, and print what is written."""
    translator = load(str(folder), dtype="auto", device=device)
    settings = translator.encoder.settings
    decision = _decision(settings)
    out = console()
    out.print(
        f"Streamed with {decision.name} (after so few steps the words mean nothing; what counts is that it streams):"
    )
    for row in rows:
        steps = translator.stream(
            row.source,
            decision.policy,
            source_lang=row.source_lang or settings.config.source_lang,
            target_lang=row.target_lang or settings.config.target_lang,
            max_target_tokens=LONGEST,
            **dict(decision.values),
        )
        words = (f"READ {text}" if action is Action.READ else f"WRITE {text!r}" for action, text in steps)
        out.print("  " + " | ".join(words), soft_wrap=True)


def _decision(settings: ModelSettings) -> Decision:
    """The policy of the block, or the first of several; and the first latency that was trained."""
    config = settings.config
    if config.layout.names_latency:
        return Decision.from_dict({"latency": next(iter(settings.trained_on.latencies), None)})
    if config.has_schedule_column:
        return Decision.from_dict({"policy": "wait_k", "k": 1})
    return Decision.from_dict({"policy": config.policy.name, **config.policies[0].values()})
