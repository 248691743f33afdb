"""The ``simulmask:`` block of a training YAML, and simulmask.json, which travels with every model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from simulmask_plugin import __version__
from simulmask_plugin.policies import PARAMETERS, POLICIES, SCHEDULE, Policy, check_positive, make_policy
from simulmask_plugin.prompts import PLAIN_HEADER, PLAIN_INSTRUCTION, PLAIN_NEXT_HEADER, Prompt
from simulmask_plugin.units import TOKEN, UNITS, WORD

FILE_NAME = "simulmask.json"

LAYOUTS = ("prefix", "slots")
POSITIONS = ("contiguous", "modified_alibi", "group", "slots")
ROWS = ("look_ahead", "query_unit", "own_unit", "next_unit")
PROMPTS = ("plain", "template")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulMaskConfig:
    """What the ``simulmask:`` block may hold; a key that is not listed here is an error."""

    policy: str
    """wait_k, read_n, offline, or schedule (g is a column of the data)."""
    k: int | tuple[int, ...] | None = None
    """wait_k: source units; a list, or a range such as "1-9", draws one per example and epoch (multi-path)."""
    n: int | None = None
    """read_n: source units."""
    layout: str = "prefix"
    """How an example becomes one sequence: prefix (prompt | source | header | target | end of sentence), or slots
    (source in slots of reserved positions, each followed by header and target)."""
    positions: str = "group"
    """contiguous, modified_alibi (ALiBi families), group (source and target count separately), or slots (the positions
    of the layout slots, and only of that)."""
    rows: str = "look_ahead"
    """What a target token sees as a query: look_ahead, query_unit, own_unit, next_unit (negative control)."""
    look_ahead_rate: float = 1.0
    """look_ahead: share of the target units, drawn per epoch, that get their look-ahead row."""
    group_offset: int = 0
    """group: position of the first header token, counted from the end of the prompt."""
    slot_length: int = 16
    """slots: positions reserved for the source of a slot, in tokens."""
    source_units: str = WORD
    """word, character or token."""
    target_units: str = WORD
    """word, character or token."""
    prompt: str = "plain"
    """plain, or template: the chat template that LLaMA-Factory's own key ``template`` names."""
    instruction: str = PLAIN_INSTRUCTION
    """Text before the source; may hold {source_lang} and {target_lang}."""
    header: str = PLAIN_HEADER
    """plain: text between source and target; a chat template brings its own."""
    next_header: str = PLAIN_NEXT_HEADER
    """plain, slots: text between target and further source; a chat template brings its own."""
    source_lang: str = "English"
    """Language of the source where the data has no column for it."""
    target_lang: str = "German"
    """Language of the target where the data has no column for it."""

    def __post_init__(self) -> None:
        """Check every value; the error names the key and lists the choices."""
        choices = {
            "policy": (*POLICIES, SCHEDULE),
            "layout": LAYOUTS,
            "positions": POSITIONS,
            "rows": ROWS,
            "source_units": UNITS,
            "target_units": UNITS,
            "prompt": PROMPTS,
        }
        for key, known in choices.items():
            value = getattr(self, key)
            if value not in known:
                raise ValueError(f"simulmask.{key}: unknown value {value!r}; expected one of {', '.join(known)}.")
        rate, offset = self.look_ahead_rate, self.group_offset
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1:
            raise ValueError(f"simulmask.look_ahead_rate must lie in 0..1, got {self.look_ahead_rate!r}.")
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise ValueError(f"simulmask.group_offset must be an integer of at least 0, got {self.group_offset!r}.")
        if not isinstance(self.slot_length, int) or isinstance(self.slot_length, bool) or self.slot_length < 1:
            raise ValueError(
                f"simulmask.slot_length must be an integer of at least 1 (tokens), got {self.slot_length!r}."
            )
        if (self.layout == "slots") != (self.positions == "slots"):
            raise ValueError(
                "simulmask: layout: slots and positions: slots need each other, got "
                f"layout: {self.layout} and positions: {self.positions}; set both to slots, or neither."
            )
        for key in ("instruction", "header", "next_header", "source_lang", "target_lang"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"simulmask.{key} must be a text, got {getattr(self, key)!r}.")
        self._check_parameters()
        Prompt(self.instruction, self.header, self.next_header)

    def _check_parameters(self) -> None:
        expected = PARAMETERS.get(self.policy, ())
        for key in ("k", "n"):
            value = getattr(self, key)
            if key in expected and value is None:
                raise ValueError(f"simulmask.{key} is missing: policy {self.policy} needs it (source units).")
            if key not in expected and value is not None:
                raise ValueError(f"simulmask.{key} is set, but policy {self.policy} does not use it; remove it.")
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    check_positive(f"simulmask.{key}", one)
        if self.k == ():
            raise ValueError("simulmask.k is an empty list; expected at least one k.")

    @classmethod
    def from_dict(cls, block: Mapping[str, Any]) -> SimulMaskConfig:
        """Parse the YAML block.

        Raises:
            ValueError: on a key that does not exist (the known ones are listed) or a bad value.
        """
        if not isinstance(block, Mapping):
            raise ValueError(f"The simulmask: block must be a mapping of keys to values, got {block!r}.")
        known = [f.name for f in fields(cls)]
        for key in block:
            if key not in known:
                raise ValueError(f"Unknown key simulmask.{key}; known keys: {', '.join(known)}.")
        if "policy" not in block:
            raise ValueError(f"simulmask.policy is missing; expected one of {', '.join((*POLICIES, SCHEDULE))}.")
        values = dict(block)
        values["k"] = parse_k(values.get("k"))
        return cls(**values)

    def policies(self) -> tuple[Policy, ...]:
        """The policies to draw from, one per example and epoch; empty for ``schedule``."""
        if self.policy == SCHEDULE:
            return ()
        if isinstance(self.k, tuple):
            return tuple(make_policy(self.policy, k=k) for k in self.k)
        return (make_policy(self.policy, **{key: getattr(self, key) for key in PARAMETERS[self.policy]}),)

    @property
    def has_look_ahead(self) -> bool:
        """Whether the layout contains look-ahead rows; a policy over tokens has no boundary to decide."""
        return self.rows == "look_ahead" and self.target_units != TOKEN and self.look_ahead_rate > 0

    @property
    def laid_out_rows(self) -> str:
        """The row convention of the layout; without look-ahead rows only the kept rows remain."""
        return "next_unit" if self.rows == "look_ahead" and not self.has_look_ahead else self.rows


def parse_k(value: Any) -> Any:
    """A k from YAML or a command line: an integer, a list, or a range such as "1-9"."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        if first.isdecimal() and not dash:
            return int(first)
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError(f'k must be an integer, a list, or a range such as "1-9", got {value!r}.')
        return tuple(range(int(first), int(last) + 1))
    return tuple(value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model was trained with and streaming therefore has to know: the content of simulmask.json."""

    config: SimulMaskConfig
    prompt: Prompt

    def save(self, directory: str | Path) -> None:
        """Write simulmask.json into a checkpoint, adapter or model directory."""
        content = {
            "simulmask_plugin": __version__,
            "config": asdict(self.config),
            "prompt": asdict(self.prompt),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        Path(directory, FILE_NAME).write_text(text, encoding="utf-8")

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
                "a simulmask: block (train with the plugin, or export with it installed)."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(SimulMaskConfig.from_dict(content["config"]), Prompt(**content["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); copy it again from the training's output.") from error

    def inference_policy(self, policy: str | None = None, k: int | None = None, n: int | None = None) -> Policy:
        """The policy to stream with: the one asked for, else the one trained with.

        Raises:
            ValueError: if that does not decide on unseen text (several k, or a schedule from the data).
        """
        config = self.config
        name = policy or ("wait_k" if k is not None else "read_n" if n is not None else config.policy)
        if name != config.policy or k is not None or n is not None:
            config = replace(config, policy=name, k=k, n=n)
        policies = config.policies()
        if len(policies) != 1:
            raise ValueError(
                f"The model was trained with policy {config.policy}, k {config.k}, which does not say how to stream; "
                "choose a policy and its k or n (--policy, --k, --read-n)."
            )
        return policies[0]

    def check_overrides(self, overrides: Mapping[str, Any], *, any_slot_length: bool = False) -> None:
        """Refuse settings that contradict what the model was trained with.

        Args:
            overrides: keys of the block and their values.
            any_slot_length: let slot_length differ from that of training, on purpose (ExPosST wants the same in both).

        Raises:
            ValueError: naming the first key that differs, or that only training knows.
        """
        trained = asdict(self.config)
        free = ("policy", "k", "n", "slot_length") if any_slot_length else ("policy", "k", "n")
        for key, value in overrides.items():
            if key not in trained:
                raise ValueError(f"Unknown key simulmask.{key}; known keys: {', '.join(trained)}.")
            if key not in free and value != trained[key]:
                raise ValueError(
                    f"simulmask.{key} is {value!r}, but the model was trained with {trained[key]!r} ({FILE_NAME}); "
                    f"remove the key: only {', '.join(free)} may change at inference."
                )
