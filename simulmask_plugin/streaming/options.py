"""The streaming session of a model, by the layout that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import PreTrainedModel

from simulmask_plugin.attention.families import check_attention, check_rope, family_of
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.config.calibration import Calibrated, find, threshold_of
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.base import RunOptions
from simulmask_plugin.options import check_known, choices_of, read, type_of
from simulmask_plugin.policies import POLICIES, ModelDriven, Policy
from simulmask_plugin.streaming.aids import Aids
from simulmask_plugin.streaming.document import Document
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import Lane
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.self_test import check_takes_mask
from simulmask_plugin.streaming.session import Session


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides on READ and WRITE in a run; all that is not named is as the model was trained.

    Attributes:
        policy: its name; None: that of the values, or the one trained with.
        values: parameters of the policy, then of the layout's `RunOptions`, in the order of their tables.
    """

    policy: str | None = None
    values: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """Read an entry of an evaluation's ``policies``; what is empty or false is left out.

        Raises:
            ValueError: on a key that does not exist (the known ones are listed).
        """
        keys = (*parameters(), *run_keys())
        check_known(values, ("policy", *keys), "")
        given = {key: value for key in keys if (value := values.get(key)) is not None and value is not False}
        owners = parameters() | run_keys()
        for key in given:
            if type_of(owners[key], key) is float and type(given[key]) is int:
                given[key] = float(given[key])  # by which a run can be found again under its name
        return cls(values.get("policy"), tuple(given.items()))

    def __getitem__(self, key: str) -> Any:
        """The value of a key; None: it is not named."""
        return dict(self.values).get(key)

    def without(self, key: str) -> Decision:
        """The same without one value."""
        return replace(self, values=tuple(pair for pair in self.values if pair[0] != key))

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the policy."""
        return {key: value for key, value in self.values if key in parameters()}

    @property
    def name(self) -> str:
        """Name in tables and folders, e.g. wait_k-3, low-0.3 or wait_k-3-slot8."""
        known = POLICIES.get(self.policy or "")
        possible = [policy for policy in POLICIES.values() if set(self.parameters) <= set(policy.parameters())]
        is_named = self.policy is not None or self.parameters
        policy = known or (possible or [ModelDriven])[0] if is_named else ModelDriven
        runs = [_part(key, value) for key, value in self.values if key in run_keys()]
        label = [policy.label(self.parameters)] if is_named or not runs else []
        return "-".join([*label, *runs])

    @classmethod
    def from_name(cls, name: str) -> Decision:
        """Return the decision that has this name.

        Raises:
            ValueError: if none has.
        """
        for policy in POLICIES.values():
            owners = dict.fromkeys(policy.parameters(), policy) | run_keys()
            head = f"(?P<policy>-{policy.name})" + ("" if policy.in_label else "?")
            match = re.fullmatch(head + "".join(map(_pattern, owners.values(), owners)), f"-{name}")
            if match:
                found = match.groupdict()
                given = {key: _value(type_of(owners[key], key), found[key]) for key in owners if found[key]}
                return cls.from_dict({"policy": found["policy"] and policy.name, **given})
        raise ValueError(f"{name!r} is no name of a run such as wait_k-3, low-0.3 or wait_k-3-slot8.")

    def resolve(self, settings: ModelSettings) -> tuple[Policy, RunOptions]:
        """Return the policy to stream with, and what the run chooses beside it.

        Args:
            settings: of the model; where the run names a laal, for one language pair.

        Raises:
            ValueError: if the model cannot be streamed like this.
        """
        policy, options = self._before_calibration(settings)
        if (entry := self.calibrated(settings)) is not None:
            policy = replace(policy, **{threshold_of(policy).key: entry.threshold})
        return policy, options

    def calibrated(self, settings: ModelSettings) -> Calibrated | None:
        """Return where the threshold of a run that names a laal comes from; None: it names none.

        Raises:
            ValueError: if that latency was not calibrated, or the run names a threshold, too.
        """
        policy, options = self._before_calibration(settings)
        if options.laal is None:
            return None
        key = threshold_of(policy).key
        if self[key] is not None:
            raise ValueError(f"laal stands for a value of {key}, which is set, too; remove one of them.")
        return find(settings.calibration, policy, options, settings.pair())

    def _before_calibration(self, settings: ModelSettings) -> tuple[Policy, RunOptions]:
        """The policy with the threshold that is named, or its default, and what the run chooses beside it."""
        layout = settings.config.layout
        run = {key: value for key, value in self.values if key in run_keys()}
        for key in run:
            if key not in (field.name for field in fields(layout.run_options)):
                raise ValueError(f"{key} has no meaning for a model of layout: {layout.name}; remove it.")
        options = read(layout.run_options, run, "")
        layout.streamed_with(options)
        calibrated = {entry.policy for entry in settings.calibration} if options.laal and not self.parameters else ()
        name = self.policy or (next(iter(calibrated)) if len(calibrated) == 1 else None)
        policy = settings.inference_policy(name, **self.parameters)
        if (policy.fewer or policy.needs_heads) and not layout.shows_fewer(options):
            how = " and ".join([f"layout: {layout.name}", *(f"{key}: {value}" for key, value in run.items())])
            raise ValueError(
                f"policy: {policy.name} looks at how a row sees the source, which {how} does not show; take confidence "
                "or entropy."
            )
        return policy, options

    def streamed_with(self, settings: ModelSettings) -> ModelSettings:
        """The settings to stream with: those of training, unless the run chooses another layout.

        Raises:
            ValueError: if the model cannot be streamed like this.
        """
        _, run = self.resolve(settings)
        return replace(settings, config=replace(settings.config, layout=settings.config.layout.streamed_with(run)))


NAMING = ("policy", *(key for policy in POLICIES.values() for key in policy.run_keys), "laal")
"""Keys of an entry of ``policies``; it needs one of them, since the others are numbers that name no policy."""


def check_policies(policies: Iterable[Mapping[str, Any]], settings: ModelSettings, where: str) -> None:
    """Check the entries of a list of ``policies``, the key ``where``.

    Raises:
        ValueError: naming the entry that names no policy or cannot stream the model, or two that are the same.
    """
    names = []
    for number, policy in enumerate(policies, 1):
        if all(policy.get(key) is None for key in NAMING):
            raise ValueError(f"{where}: each entry needs a {' or a '.join(NAMING)}, got {dict(policy)!r}.")
        try:
            decision = Decision.from_dict(policy)
            decision.resolve(settings)
        except ValueError as error:
            raise ValueError(f"{where}, entry {number}: {error}") from error
        names.append(decision.name)
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two entries are the same ({', '.join(names)}); remove one.")


def parameters() -> dict[str, type[Policy]]:
    """The parameters of all policies that decide on unseen text, each with the first policy that has it."""
    owners: dict[str, type[Policy]] = {}
    for policy in filter(lambda policy: policy.streams, POLICIES.values()):
        for key in policy.parameters():
            owners.setdefault(key, policy)
    return owners


def run_keys() -> dict[str, type[RunOptions]]:
    """What runs of all layouts may choose, each key with its dataclass."""
    every = (layout.run_options for layout in LAYOUTS.values())
    return {field.name: options for options in every for field in fields(options)}


def agent_flag(key: str) -> str:
    """The option of the agent for a key, without dashes in front; --n would be SimulEval's own --no-scoring."""
    return "read-n" if key == "n" else key.replace("_", "-")


def _part(key: str, value: object) -> str:
    """The part of a run's name for what the run chooses, e.g. laal4, beam4, slot8, recompute."""
    return key.partition("_")[0] + ("" if value is True else str(value).removesuffix(".0"))


def _pattern(owner: type[Policy | RunOptions], key: str) -> str:
    """The part of a name that a key may have, as a regular expression."""
    kind, choices = type_of(owner, key), choices_of(owner, key)
    values = "|".join(sorted(choices, key=len, reverse=True)) or VALUES.get(kind, "[^-]+")
    if issubclass(owner, Policy):
        word = key if key in owner.spelled else ""
    else:
        word, values = _part(key, ""), f"{values}|{VALUES[int]}"  # after its word, a number needs no point
    return f"(?:-(?P<{key}>{word}))?" if kind is bool else f"(?:-{word}(?P<{key}>{values}))?"


VALUES = {int: r"\d+", float: r"\d+\.\d+|\d+(?:\.\d+)?e-\d+"}


def _value(kind: Any, text: str) -> Any:
    return kind(text) if kind in (int, float, bool) else text


def streaming_attention(config: Any, given: str | None) -> str:
    """Return the attention to stream a model of this configuration with: the given one, else that of training.

    transformers would take sdpa for Gemma 2, too, and leave its soft-capping out.

    Raises:
        ValueError: if the model's family is not supported, does not take our mask with the given one, or rotates
            positions by the length of the text.
    """
    check_rope(config)
    attention = given or family_of(config).attention
    check_attention(config, attention)
    check_takes_mask(config, attention)
    return attention


NO_AIDS = Aids()

Opener = Callable[[Lane | None, Recorder | None], Session]
"""Opens the session of a sentence on a lane (None: one of its own), with a recorder."""


def open_session(
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    decision: Decision,
    *,
    lane: Lane | None = None,
    recorder: Recorder | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
    document: Document | None = None,
    max_target_tokens: int = 512,
    aids: Aids = NO_AIDS,
) -> Session:
    """Return the session of one sentence (or document) for a model in evaluation mode, see `session_opener`."""
    opener = session_opener(
        model,
        encoder,
        decision,
        source_lang=source_lang,
        target_lang=target_lang,
        document=document,
        max_target_tokens=max_target_tokens,
        aids=aids,
    )
    return opener(lane, recorder)


def session_opener(
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    decision: Decision,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    document: Document | None = None,
    max_target_tokens: int = 512,
    aids: Aids = NO_AIDS,
) -> Opener:
    """Return what opens a session for every sentence of a run; all that they share is done once.

    Raises:
        ValueError: if the model cannot be streamed like this, was never trained on the language pair, or on several
            and it is not said which.
    """
    Feeder(model)  # refuses a model that cannot take our masks
    settings = encoder.settings.for_pair(source_lang, target_lang)
    policy, run = decision.resolve(settings)
    aids.check(policy)
    if policy.needs_heads:
        attention = model.config._attn_implementation
        if attention != "eager":
            raise ValueError(
                f"policy: {policy.name} looks at the attention, which {attention} does not tell; set "
                "attn_implementation: eager."
            )
    layout = settings.config.layout
    options = {key: value for key, value in policy.values().items() if key in policy.run_keys}
    if layout.in_chunks:
        options["document"] = document
    elif document is not None:
        raise ValueError(f"A document needs a model of layout: interleaved or turns, not {layout.name}.")
    kind = layout.session(run)
    encoder = encoder.with_settings(decision.streamed_with(settings))

    def opened(lane: Lane | None, recorder: Recorder | None) -> Session:
        return kind(
            lane=lane or Lane(),
            recorder=recorder,
            model=model,
            encoder=encoder,
            policy=policy,
            source_lang=source_lang,
            target_lang=target_lang,
            max_target_tokens=max_target_tokens,
            aids=aids,
            **options,
        )

    return opened
