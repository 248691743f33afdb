"""A study: models to train, and systems that stream them, to be compared on one test set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.corpora.dataset_info import listed_entries
from simulmask_plugin.evaluation.config import AtOnce, EvaluationConfig
from simulmask_plugin.evaluation.digests import Digests, model_files
from simulmask_plugin.evaluation.preparation import PREPARATIONS, Preparation, check_prepared, read_preparations
from simulmask_plugin.options import Must, check_choice, check_name, read, read_yaml, yaml_text
from simulmask_plugin.text.prompts import Prompt

STAGES = Must(
    "be a list of stages such as [{train: stage1.yaml, simulmask.k: 3}]",
    lambda value: isinstance(value, list) and all(isinstance(stage, Mapping) for stage in value),
)
SEEDS = Must(
    "be a list of different seeds such as [43, 44]",
    lambda value: bool(value) and len(set(map(repr, value))) == len(value),
)
SYSTEM = Must(
    "be a mapping such as {model: NAME, policies: [{policy: wait_k, k: 3}]}",
    lambda value: isinstance(value, Mapping) and "model" in value,
)
KINDS = ("train", "export")
TOKEN_KEYS = ("add_special_tokens", "resize_vocab")
"""By which a training gets tokens that its model lacks."""
SAME_FOR_ALL = ("source", "target", "limit", "target_lang", "latency_unit", "bleu_tokenize")
"""Of an evaluation: runs over other sentences cannot be compared."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of ``llamafactory-cli``: a training, or the export that merges an adapter."""

    kind: str
    """train or export."""
    values: Mapping[str, Any]
    """The keys of its YAML, without the folders, which the study sets."""

    def summary(self, keys: Iterable[str]) -> str:
        """Its kind, and what its YAML says of these keys, e.g. "train: finetuning_type: full, max_steps: 100"."""
        said = ", ".join(f"{key}: {yaml_text(self.values[key])}" for key in keys if key in self.values)
        return f"{self.kind}: {said}" if said else self.kind

    @property
    def makes_adapter(self) -> bool:
        """Whether what it makes is no model without its base."""
        return self.kind == "train" and self.values.get("finetuning_type", "lora") != "full"


@dataclass(frozen=True, slots=True)
class System:
    """A way of streaming the model of this name."""

    model: str
    evaluation: EvaluationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyKeys:
    """The keys of a study YAML; a key that is not listed here is an error, an empty one is its default."""

    output: str
    """Directory of everything that the study makes."""
    models: Mapping[str, Annotated[Any, STAGES]]
    """Name -> its stages in order, each a mapping: {train: YAML} or {export: YAML}, and overrides of that YAML, e.g.
    {train: stage1.yaml, simulmask.k: 3}. A stage starts from the model of the one before it; behind {from: NAME}, the
    first one starts from what the last stage of that model made. Last come the preparations, if any: {probe: ...},
    {heads: ...}, {calibrate: ...}."""
    systems: Mapping[str, Annotated[Any, SYSTEM]]
    """Name -> {model: NAME, policies: [...]}, the policies as in an evaluation YAML."""
    plain: str
    """Name of the plain fine-tuning model: training time and tokens are given as multiples of this model's."""
    reference: str
    """SYSTEM: BLEU is tested against its run with the same policy; or SYSTEM/RUN: all against this one."""
    title: str = ""
    """Of the figure and the report; default: the name of the YAML."""
    results: str | None = None
    """Directory of systems/ and the comparison, e.g. for another test set; default: output."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Overrides for the first stage of every model, e.g. dataset_dir and, for those that start from no other model of
    the study, model_name_or_path."""
    seeds: Mapping[str, Annotated[tuple[int, ...], SEEDS]] = field(default_factory=dict)
    """Model -> further seeds to train it with. Its systems are then means over all its trainings, and the bootstrap
    draws these, too."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Keys of an evaluation YAML that all systems share, e.g. source and target."""
    jobs: AtOnce = 1
    """Models that are trained, and then streamed, side by side."""
    threads: AtOnce | None = None
    """CPU threads of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(StudyKeys):
    """A study whose models and systems have been read."""

    models: Mapping[str, tuple[Stage, ...]]
    bases: Mapping[str, str]
    """Name of a model -> of the earlier one that it starts from."""
    preparations: Mapping[str, tuple[Preparation, ...]]
    """Model -> what is run on it once it is trained."""
    systems: Mapping[str, System]
    repeats: Mapping[str, str]
    """System with a model of another seed -> the system that it belongs to."""

    @property
    def reference_run(self) -> tuple[str, str | None]:
        """System and run of the reference; None: the run with the same policy."""
        system, _, run = self.reference.partition("/")
        return system, run or None


def load_study(path: str, overrides: Iterable[str] = ()) -> Study:
    """Read a study, with ``key=value`` overrides, and check all that can be checked before anything runs.

    Raises:
        ValueError: saying what is wrong, and where.
    """
    keys = read(StudyKeys, read_yaml(path, list(overrides)), f"{path}: ", empty_is_default=True)
    for key, named in (("models", keys.models), ("systems", keys.systems)):
        for name in named:
            check_name(f"{path}: {key}.{name}", str(name))
    keys, repeats = _with_seeds(keys, path)
    folders: dict[Path, str] = {}
    for name in keys.models:
        first = folders.setdefault(model_folder(Path(keys.output), name, 1), name)
        if first != name:
            raise ValueError(f"{path}: models {first!r} and {name!r} would share a folder; rename one.")
    models: dict[str, tuple[Stage, ...]] = {}
    bases: dict[str, str] = {}
    preparations: dict[str, tuple[Preparation, ...]] = {}
    for name, stages in keys.models.items():
        where = f"{path}: models.{name}"
        own = [stage for stage in stages if "from" not in stage]
        if len(own) < len(stages):
            bases[name] = _read_base(stages, models, where)
        behind = next((number for number, stage in enumerate(own) if stage.keys() & PREPARATIONS), len(own))
        models[name] = _read_stages(own[:behind], keys.training, where, has_base=name in bases)
        preparations[name] = read_preparations(own[behind:], keys.evaluation, _settings(models[name]), where)
    for name, seeds in keys.seeds.items():
        for seed in seeds:
            if models[_seeded(name, seed)] == models[name]:
                raise ValueError(f"{path}: seeds.{name}: {seed} is the seed that it has; name others.")
    systems = {name: _read_system(keys, models, name, f"{path}: systems.{name}.") for name in keys.systems}
    values = {field.name: getattr(keys, field.name) for field in fields(keys)}
    values |= {"models": models, "bases": bases, "preparations": preparations}
    study = Study(**values | {"systems": systems, "repeats": repeats})
    _check(study, path)
    return study


def _with_seeds(keys: StudyKeys, path: str) -> tuple[StudyKeys, dict[str, str]]:
    """The keys with a model, and its systems, for every seed; and which systems these repeat."""
    for name in keys.seeds:
        check_choice(f"{path}: seeds", name, keys.models)
    models: dict[str, Any] = {}
    systems: dict[str, Any] = {}
    repeats: dict[str, str] = {}

    def add(named: dict[str, Any], name: str, value: Any) -> None:
        if name in named:
            raise ValueError(f"{path}: {name!r} is what seeds calls another training of it; rename the other one.")
        named[name] = value

    for name, stages in keys.models.items():
        add(models, name, stages)
        for seed in keys.seeds.get(name, ()):
            add(models, _seeded(name, seed), [{**one, "seed": seed} if "train" in one else one for one in stages])
    for name, system in keys.systems.items():
        add(systems, name, system)
        for seed in keys.seeds.get(str(system["model"]), ()):
            add(systems, _seeded(name, seed), {**system, "model": _seeded(system["model"], seed)})
            repeats[_seeded(name, seed)] = name
    return replace(keys, models=models, systems=systems), repeats


def _seeded(name: str, seed: int) -> str:
    return f"{name} seed {seed}"


def _read_base(stages: Sequence[Mapping[str, Any]], earlier: Iterable[str], where: str) -> str:
    """Name of the model that ``from`` names."""
    first, *rest = stages
    if list(first) != ["from"] or any("from" in stage for stage in rest):
        raise ValueError(f"{where}: {{from: NAME}} must stand alone, before all stages, got {list(stages)!r}.")
    known = list(earlier)
    if first["from"] not in known:
        names = ", ".join(known) or "none, for it is the first"
        raise ValueError(f"{where}: from: expected a model that stands before it ({names}), got {first['from']!r}.")
    return str(first["from"])


def _read_stages(
    stages: Iterable[Mapping[str, Any]], training: Mapping[str, Any], where: str, *, has_base: bool
) -> tuple[Stage, ...]:
    result: list[Stage] = []
    for number, stage in enumerate(stages, 1):
        kinds = [kind for kind in KINDS if isinstance(stage.get(kind), str)]
        if len(kinds) != 1:
            raise ValueError(f"{where}, stage {number}: expected one of {' and '.join(KINDS)}, got {dict(stage)!r}.")
        own = {key: value for key, value in stage.items() if key != kinds[0]}
        given = {**({} if result else training), **own}
        try:
            values = read_yaml(stage[kinds[0]], [f"{key}={json.dumps(value)}" for key, value in given.items()])
            if result or has_base:
                if values.pop("model_name_or_path", None) == own.get("model_name_or_path", ""):
                    raise ValueError("it starts from the model before it; leave out model_name_or_path.")
            if kinds[0] == "train":
                SimulMaskConfig.from_dict(values.get("simulmask", {}))
        except ValueError as error:
            raise ValueError(f"{where}, stage {number}: {error}") from error
        made = Stage(kinds[0], values)
        follows_adapter = bool(result) and result[-1].makes_adapter
        if (made.kind == "export") != follows_adapter:
            expected = "an export behind the training of an adapter" if follows_adapter else "a training"
            raise ValueError(f"{where}, stage {number}: expected {expected}, got {kinds[0]}: {stage[kinds[0]]}.")
        for key in TOKEN_KEYS if made.kind == "export" else ():
            of_adapter = result[-1].values.get(key)
            if made.values.get(key) != of_adapter:
                raise ValueError(f"{where}, stage {number}: a merge needs {key} as its training has it: {of_adapter}.")
        result.append(made)
    if not result or result[-1].makes_adapter:
        raise ValueError(f"{where} ends without a whole model; add a stage export: YAML, which merges the adapter.")
    return tuple(result)


def _read_system(study: StudyKeys, models: Mapping[str, Sequence[Stage]], name: str, where: str) -> System:
    own = dict(study.systems[name])
    model = own.pop("model")
    check_choice(f"{where}model", model, models)
    for key in SAME_FOR_ALL:
        if key in own:
            raise ValueError(f"{where}{key} must be the same for all systems; set it in evaluation:.")
    own["model"] = str(model_folder(Path(study.output), model, len(models[model])))
    own["output"] = str(Path(study.results or study.output, "systems", name))
    values = {"threads": study.threads, **study.evaluation, **own}
    return System(model, read(EvaluationConfig, values, where, empty_is_default=True))


def model_folder(output: Path, name: str, stage: int) -> Path:
    """Folder of what a stage of a model makes; stages count from 1. It has no spaces, which torchrun cannot take."""
    return output / "models" / str(name).replace(" ", "_") / f"stage{stage}"


def stage_content(values: Mapping[str, Any], digests: Digests) -> dict[str, str]:
    """Return what the YAML of a stage makes it from: by name the SHA-256 of a file, or the columns of a data set.

    Files are those of data sets, models and adapters, and DeepSpeed's; what is on a hub is left out.

    Raises:
        ValueError: if dataset_info.json is no JSON object.
    """
    files: dict[str, Path] = {}
    for key in ("model_name_or_path", "adapter_name_or_path"):
        for folder in _listed(values.get(key)):
            files |= {f"{key}: {path.name}": path for path in model_files(folder)}
    names = [name for key in ("dataset", "eval_dataset") for name in _listed(values.get(key))]
    entries = listed_entries(Path(str(values.get("dataset_dir") or "data")), names)
    for name, (_, paths) in entries.items():
        files |= {f"dataset {name}: {path.name}": path for path in paths}
    if isinstance(values.get("deepspeed"), str):
        files["deepspeed"] = Path(values["deepspeed"])
    columns = {f"dataset_info.json: {name}": json.dumps(entry) for name, (entry, _) in entries.items()}
    return columns | {name: digests.of(path) for name, path in files.items() if path.is_file()}


def _listed(value: Any) -> list[str]:
    """What LLaMA-Factory takes as a list, or as a text with commas."""
    listed = value if isinstance(value, list) else str(value or "").split(",")
    return [str(one).strip() for one in listed if str(one).strip()]


def _settings(stages: Iterable[Stage]) -> ModelSettings:
    """What simulmask.json of a model will say of its last training."""
    trained = [stage for stage in stages if stage.kind == "train"][-1]
    # of the prompt, which only the tokenizer can tell, no policy needs anything
    return ModelSettings(SimulMaskConfig.from_dict(trained.values["simulmask"]), Prompt("", " "))


def _check(study: Study, path: str) -> None:
    check_choice(f"{path}: plain", study.plain, study.models)
    for name, system in study.systems.items():
        preparations = study.preparations[system.model]
        found = [entry for one in preparations for entry in one.finds]
        try:
            check_prepared(system.evaluation, _settings(study.models[system.model]).calibrated(found), preparations)
        except ValueError as error:
            raise ValueError(f"{path}: systems.{name}: {error}") from error
    reference, run = study.reference_run
    runs = {name: [one.name for one in system.evaluation.decisions] for name, system in study.systems.items()}
    if reference not in runs or run not in (None, *runs[reference]):
        known = ", ".join(f"{name}, {', '.join(f'{name}/{run}' for run in runs[name])}" for name in runs)
        raise ValueError(f"{path}: reference: no system or run {study.reference!r}; expected one of {known}.")
