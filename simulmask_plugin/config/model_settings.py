"""simulmask.json, which travels with every model: what streaming has to know of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from simulmask_plugin.config.block import SimulMaskConfig, block_keys, known_keys, meaningful, training_policies
from simulmask_plugin.config.calibration import Calibrated
from simulmask_plugin.config.settings_file import read_settings, write_settings
from simulmask_plugin.config.trained_on import LanguagePair, TrainedOn
from simulmask_plugin.options import check_choice, check_known, read
from simulmask_plugin.policies import POLICIES, Policy
from simulmask_plugin.text.prompts import Prompt

FILE_NAME = "simulmask.json"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model was trained with and streaming therefore has to know: the content of simulmask.json.

    Attributes:
        config: the block.
        prompt: as text.
        template: LLaMA-Factory's key of that name; None: it was not set, or an earlier version trained the model.
        end_of_sentence: text of the token that ended the sentences in training, which may be that of LLaMA-Factory's
            template; None: the tokenizer's own (models of earlier versions).
        calibration: thresholds that `simulmask calibrate` has found for this model; no other one has them.
    """

    config: SimulMaskConfig
    prompt: Prompt
    trained_on: TrainedOn = TrainedOn()
    template: str | None = None
    end_of_sentence: str | None = None
    calibration: tuple[Calibrated, ...] = ()

    def calibrated(self, found: Iterable[Calibrated]) -> ModelSettings:
        """The settings with thresholds that were found; each takes the place of an earlier one of its latency."""
        new = tuple(found)
        kept = [old for old in self.calibration if not any(one.replaces(old) for one in new)]
        return replace(self, calibration=(*kept, *new))

    def uncalibrated(self, *policies: str) -> ModelSettings:
        """The settings without the thresholds of these policies; none are named: as the training left them."""
        kept = (entry for entry in self.calibration if policies and entry.policy not in policies)
        return replace(self, calibration=tuple(kept))

    def after_training_on(self, trained_on: TrainedOn) -> ModelSettings:
        """The settings with what the data named; a single language pair takes the place of the block's."""
        config = self.config
        if len(trained_on.language_pairs) == 1:
            ((source_lang, target_lang),) = trained_on.language_pairs
            config = replace(config, source_lang=source_lang, target_lang=target_lang)
        return replace(self, config=config, trained_on=trained_on)

    def pair(self, source_lang: str | None = None, target_lang: str | None = None) -> LanguagePair:
        """The language pair that is meant, see `TrainedOn.pair`.

        Raises:
            ValueError: if it was never trained, or is not clear.
        """
        return self.trained_on.pair(source_lang, target_lang, (self.config.source_lang, self.config.target_lang))

    def for_pair(self, source_lang: str | None, target_lang: str | None) -> ModelSettings:
        """The settings to stream one language pair with, which then need not be told again.

        Raises:
            ValueError: if it was never trained, or is not clear.
        """
        pair = self.pair(source_lang, target_lang)
        return self.after_training_on(replace(self.trained_on, language_pairs=(pair,)))

    def save(self, directory: str | Path) -> None:
        """Write simulmask.json into a checkpoint, adapter or model directory."""
        write_settings(Path(directory, FILE_NAME), self.content())

    def content(self) -> dict[str, Any]:
        """What simulmask.json holds."""
        calibration = {"calibration": [asdict(entry) for entry in self.calibration]} if self.calibration else {}
        return {
            "config": self.config.keys(),
            "prompt": asdict(self.prompt),
            "trained_on": asdict(self.trained_on),
            "template": self.template,
            "end_of_sentence": self.end_of_sentence,
            **calibration,
        }

    @classmethod
    def load(cls, directory: str | Path) -> ModelSettings:
        """Read simulmask.json.

        Raises:
            ValueError: if the directory has none or it is damaged.
        """
        path = Path(directory, FILE_NAME)
        if not path.is_file():
            raise ValueError(
                f"{directory} has no {FILE_NAME}: expected a checkpoint, adapter or merged model of a training with "
                "a simulmask: block (train with the plugin, or export with it installed); of a base, name the "
                "adapter, too."
            )
        content = read_settings(path, (*(field.name for field in fields(cls)),))
        try:
            config = content["config"]
            if "template" not in content:  # earlier versions wrote keys that nothing reads, with defaults of their day
                config = meaningful(config)
            settings = read(cls, content | {"config": SimulMaskConfig.from_dict(config)}, "")
            if settings.after_training_on(settings.trained_on) != settings:
                pairs = settings.trained_on.described()
                raise ValueError(f"source_lang and target_lang are not those trained on: {pairs}")
            return settings
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); copy it again from the training's output.") from error

    def inference_policy(self, policy: str | None = None, **parameters: Any) -> Policy:
        """The policy to stream with: the one asked for, else the one trained with.

        Args:
            policy: its name; None: that of the parameters, or the one trained with.
            parameters: of the policy; None is none.

        Raises:
            ValueError: if that does not decide on unseen text (several of a parameter, or a schedule from the data).
        """
        given = {key: value for key, value in parameters.items() if value is not None}
        asked, trained, layout = self._policy_class(policy, given), self.config.policies, self.config.layout
        if not layout.takes(asked):
            raise ValueError(
                f"The model was trained with policy {self.config.policy.name}; model_driven has no k, n or other "
                "policy, but a latency and a read threshold, and other models cannot decide for themselves."
            )
        is_trained = asked is self.config.policy
        if not asked.streams or (is_trained and len(trained) > 1 and not given):
            why = (
                "whose schedules are drawn at random"
                if asked.draws
                else "whose schedule is a column of the training data"
            )
            if asked.streams:
                drawn = {key: value for key, value in self.config.keys().items() if isinstance(value, tuple)}
                why = " and ".join(f"trained with {key} drawn from {', '.join(map(str, drawn[key]))}" for key in drawn)
            raise ValueError(
                f"Policy {asked.name}, {why}, does not say how to stream; choose a policy and its k or n: "
                "{policy: wait_k, k: 3} in an evaluation YAML, --policy wait_k --k 3 on a command line."
            )
        for key in given:
            if key not in asked.parameters():
                raise ValueError(f"{key} is set, but policy {asked.name} does not use it; remove it.")
        values = {**(trained[0].values() if is_trained and len(trained) == 1 else {}), **given}
        if layout.names_latency:
            values["latency"] = self.trained_on.latency(values.get("latency"))
        return layout.streamed_policy(read(asked, values, ""))

    def _policy_class(self, name: str | None, given: Mapping[str, Any]) -> type[Policy]:
        """The policy of that name, or that has these parameters."""
        if name is not None:
            check_choice("policy", name, POLICIES)
            return POLICIES[name]
        layout = self.config.layout
        known = filter(layout.takes, (self.config.policy, *POLICIES.values()))
        possible = [one for one in known if set(given) <= set(one.parameters())]
        if not possible:
            raise ValueError(f"{', '.join(given)} has no meaning for a model of layout: {layout.name}; remove it.")
        return possible[0]

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Refuse settings that contradict what the model was trained with.

        Args:
            overrides: keys of the block and their values.

        Raises:
            ValueError: naming the first key that differs, or that only training knows.
        """
        trained = self.config.keys()
        of_policies = (key for policy in training_policies().values() for key in block_keys(policy))
        free = tuple(dict.fromkeys(("policy", *of_policies)))
        several = len(self.trained_on.language_pairs) > 1
        for key, value in overrides.items():
            if several and key in ("source_lang", "target_lang"):
                raise ValueError(f"simulmask.{key}: the model was trained on several; say which one with {key} alone.")
            check_known([key], known_keys(), "simulmask.")
            if key not in free and value != trained.get(key):
                raise ValueError(
                    f"simulmask.{key} is {value!r}, but the model was trained with {trained.get(key)!r} ({FILE_NAME}); "
                    f"remove the key: only {', '.join(free)} may differ here."
                )
