"""What a study makes of a trained model before it streams: its probe, the heads that align, and thresholds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from simulmask_plugin.config.calibration import Calibrated, beside_threshold, threshold_of
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.evaluation.config import EvaluationConfig, check_for_model, num_sentences
from simulmask_plugin.evaluation.digests import Digests, model_files, save, saved
from simulmask_plugin.evaluation.programs import ProgramFailed, run_program
from simulmask_plugin.evaluation.progress import say
from simulmask_plugin.files.texts import check_sentences
from simulmask_plugin.options import Must, between, read, yaml_text
from simulmask_plugin.streaming.aids import AID_FILES, needed

Count = Annotated[int, between(1)]
SHARED = ("source_lang", "target_lang", "device")
"""Keys of the study's evaluation that are options of all three commands."""
OF_TRIALS = (*SHARED, "latency_unit", "lanes", "dtype", "max_target_tokens")
"""The same of ``simulmask calibrate``, which streams."""
FREE = ("lanes",)
"""Options on which nothing depends but memory."""
TEXTS = ("source", "target", "alignments")
"""Options that are files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeKeys:
    """Keys of a stage ``probe``: options of ``simulmask probe``, without those that the evaluation of a study has."""

    source: str
    target: str
    sentences: Count | None = None
    most: Count | None = None
    batch_size: Count | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsKeys:
    """Keys of a stage ``heads``: options of ``simulmask heads``, without those that the evaluation of a study has."""

    source: str
    target: str
    alignments: str
    sentences: Count | None = None
    top: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateKeys:
    """Keys of a stage ``calibrate``: of ``simulmask calibrate``, which is run for one policy after another."""

    source: str
    """Of a dev set; not the test set."""
    target: str
    laal: Annotated[
        tuple[float, ...],
        Must("be a list of latencies above 0, such as [2, 3.5]", lambda wanted: min(wanted, default=0) > 0),
    ]
    policies: Annotated[tuple[Mapping[str, Any], ...], Must("be a list such as [{policy: stability, most: 4}]", bool)]
    """Without their thresholds."""
    limit: Count | None = None


PREPARATIONS: Mapping[str, type[ProbeKeys | HeadsKeys | CalibrateKeys]] = {
    "probe": ProbeKeys,
    "heads": HeadsKeys,
    "calibrate": CalibrateKeys,
}
"""Kind of a stage, and name of its command -> its keys."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """One command that is run on a trained model, and adds to its folder."""

    kind: str
    """Name of the command."""
    name: str
    """Of its files; a model has one of each."""
    options: Mapping[str, Any]
    """Of the command; a list has several values."""
    needs: tuple[str, ...] = ()
    """The commands whose results it needs."""
    finds: tuple[Calibrated, ...] = ()
    """The thresholds that it is to find, with any number in their place."""

    def command(self, folder: Path) -> list[str]:
        """The program and its arguments."""
        given = [(f"--{key.replace('_', '-')}", value) for key, value in self.options.items() if value is not False]
        words = [[flag] if value is True else [flag, *map(str, _listed(value))] for flag, value in given]
        return [sys.executable, "-m", "simulmask_plugin", self.kind, str(folder), *sum(words, [])]

    def summary(self) -> str:
        """Its options in one line."""
        return ", ".join(f"{key}: {yaml_text(value)}" for key, value in self.options.items())

    def has_left(self, folder: Path) -> bool:
        """Whether what it makes is there; another probe has taken the thresholds of the one before away."""
        if self.kind != "calibrate":
            return (folder / AID_FILES[self.kind]).is_file()
        settings = ModelSettings.load(folder)
        pair = settings.pair(self.options.get("source_lang"), self.options.get("target_lang"))  # the data may name it
        wanted = [replace(one, language_pair=pair) for one in self.finds]
        return all(any(entry.replaces(one) for entry in settings.calibration) for one in wanted)

    def made_of(self, folder: Path, digests: Digests) -> dict[str, Any]:
        """All that it depends on: its options, and by name the SHA-256 of model and texts."""
        texts = {key: Path(self.options[key]) for key in TEXTS if key in self.options}
        # but for simulmask.json, which these commands change
        model = {path.name: path for path in model_files(folder) if path.name != FILE_NAME}
        files = {name: digests.of(path) for name, path in (model | texts).items()}
        options = {key: value for key, value in self.options.items() if key not in (*TEXTS, *FREE)}
        return {"options": options, "files": files}


def read_preparations(
    stages: Iterable[Mapping[str, Any]], evaluation: Mapping[str, Any], settings: ModelSettings, where: str
) -> tuple[Preparation, ...]:
    """Read the stages that stand behind all trainings of a model.

    Args:
        stages: each a mapping of its kind to its keys.
        evaluation: what a study says of all its evaluations.
        settings: of the model, which need not exist yet.
        where: what precedes a stage in messages.

    Raises:
        ValueError: saying what is wrong, and where.
    """
    found: list[Preparation] = []
    for stage in stages:
        if len(stage) != 1 or not stage.keys() <= PREPARATIONS.keys():
            kinds = ", ".join(f"{{{kind}: {{...}}}}" for kind in PREPARATIONS)
            raise ValueError(f"{where}: expected one of {kinds} behind the trainings, got {dict(stage)!r}.")
        ((kind, values),) = stage.items()
        place = f"{where}, {kind}: "
        keys = read(PREPARATIONS[kind], values, place, empty_is_default=True)
        shared = {key: value for key, value in evaluation.items() if key in OF_TRIALS and value is not None}
        try:
            new = list(_read(kind, keys, shared, settings))
        except ValueError as error:
            raise ValueError(f"{place}{error}") from error
        for one in new:
            known = {other.name for other in found}
            if one.name in known:
                raise ValueError(f"{place}{one.name} stands there twice; remove one.")
            if missing := [kind for kind in one.needs if kind not in known]:
                raise ValueError(f"{place}{one.name} needs a {missing[0]}; put {{{missing[0]}: {{...}}}} before it.")
            found.append(one)
    return tuple(found)


def _read(
    kind: str, keys: ProbeKeys | HeadsKeys | CalibrateKeys, shared: Mapping[str, Any], settings: ModelSettings
) -> Iterator[Preparation]:
    """Yield the commands of a stage."""
    texts: dict[str, Any] = {"source": keys.source, "target": keys.target}
    if not isinstance(keys, CalibrateKeys):
        _evaluation({**texts, "limit": keys.sentences}, shared, {"policy": "offline"})
        if isinstance(keys, HeadsKeys):
            check_sentences(Path(keys.alignments), what="alignments")
        of_command = {key: value for key, value in shared.items() if key in SHARED}
        given = {key: value for key, value in asdict(keys).items() if value is not None}
        yield Preparation(kind, kind, given | of_command)
        return
    texts |= {"limit": keys.limit} if keys.limit else {}
    for own in keys.policies:
        config = _evaluation(texts, shared, own)
        pair = settings.pair(config.source_lang, config.target_lang)
        (decision,) = config.decisions
        policy, run = decision.resolve(settings.for_pair(*pair))
        threshold = threshold_of(policy)
        for key in (threshold.key, "laal"):
            if decision[key] is not None:
                raise ValueError(f"policies: {dict(own)!r} has {key}, which it is to find; remove it.")
        options = {"policy": policy.name, **own, "laal": [*keys.laal], **texts, **shared}
        finds = (
            Calibrated(
                policy=policy.name,
                parameters=beside_threshold(policy, run),
                language_pair=pair,
                laal=wanted,
                threshold=threshold.loosest,
                reached=wanted,
                latency_unit="",
                sentences=0,
                files={},
            )
            for wanted in keys.laal
        )
        yield Preparation(kind, f"calibrate-{decision.name}", options, needed(policy), tuple(finds))


def _evaluation(texts: Mapping[str, Any], shared: Mapping[str, Any], policy: Mapping[str, Any]) -> EvaluationConfig:
    """The evaluation that has the same keys, whose texts have been checked."""
    values = {**shared, **texts, "policies": [policy], "model": "", "output": ""}
    config = read(EvaluationConfig, {key: value for key, value in values.items() if value is not None}, "")
    num_sentences(config)
    return config


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def prepare(
    preparations: Iterable[Preparation], name: str, folder: Path, environment: Mapping[str, str], digests: Digests
) -> dict[str, ProgramFailed]:
    """Run on a trained model what has not been run, or with other options, texts or weights.

    Args:
        preparations: in their order.
        name: of the model.
        folder: of the model; logs and records go beside it.
        environment: variables of the programs beside those of this process.
        digests: of the model.

    Returns:
        "NAME: PREPARATION" -> why it failed; what does not depend on it goes on.
    """
    failed: dict[str, ProgramFailed] = {}
    for one in preparations:
        title = f"{name}: {one.name}"
        record = folder.with_name(f"{one.name}.json")
        made_of = one.made_of(folder, digests)
        digests.save()
        if saved(record) == made_of and one.has_left(folder):
            say(f"{title}: done before")
            continue
        say(f"{title} ...")
        try:
            run_program(title, one.command(folder), record.with_suffix(".log"), environment)
        except ProgramFailed as error:
            failed[title] = error
            say(f"{title} failed: {str(error).splitlines()[0]}")
            continue
        save(record, made_of)
    return failed


def check_prepared(config: EvaluationConfig, settings: ModelSettings, preparations: Iterable[Preparation]) -> None:
    """Raise a ValueError if an evaluation needs what neither these preparations nor earlier ones make.

    Args:
        config: the evaluation.
        settings: of its model, with the thresholds that the preparations are to find.
        preparations: of its model.
    """
    check_for_model(config, settings)
    made = {one.kind for one in preparations}
    for decision in config.decisions:
        policy, _ = decision.resolve(settings.for_pair(config.source_lang, config.target_lang))
        for kind in needed(policy):
            if kind not in made and not Path(config.model, AID_FILES[kind]).is_file():
                raise ValueError(
                    f"policy: {policy.name} needs a stage {{{kind}: {{...}}}} behind the trainings of its model."
                )


def possible(config: EvaluationConfig, system: str) -> tuple[EvaluationConfig, dict[str, ProgramFailed]]:
    """The evaluation with the policies for which its model has all; SYSTEM/RUN of the others -> what is missing."""
    model = config.trained_model
    settings, aids = model.settings().for_pair(config.source_lang, config.target_lang), model.aids()
    kept: list[Mapping[str, Any]] = []
    failed: dict[str, ProgramFailed] = {}
    for policy, decision in zip(config.policies, config.decisions, strict=True):
        try:
            aids.check(decision.resolve(settings)[0])
            kept.append(policy)
        except ValueError as error:
            failed[f"{system}/{decision.name}"] = ProgramFailed(str(error))
    return replace(config, policies=tuple(kept)), failed
