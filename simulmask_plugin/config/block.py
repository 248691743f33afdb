"""The ``simulmask:`` block of a training YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.options import MOST_TOKENS, MOST_UNITS, check_integer, check_number
from simulmask_plugin.policies import POLICIES, FromColumn, ModelDriven, Policy, make_policy
from simulmask_plugin.text.prompts import (
    INTERLEAVED_INSTRUCTION,
    PLAIN_HEADER,
    PLAIN_INSTRUCTION,
    PLAIN_NEXT_HEADER,
    Prompt,
)
from simulmask_plugin.text.units import CHARACTER, TOKEN, UNITS, WORD

LAYOUTS = ("prefix", "interleaved", "turns", "slots")
CHUNKED = ("interleaved", "turns")
"""Layouts in which source and target alternate; plain causal, with the positions of plain fine-tuning."""

MODEL_DRIVEN = ModelDriven.name
"""Name of the policy of `interleaved`: chunks come from the data, and while streaming the model decides."""

LOSSES = ("all", "target")
POSITIONS = ("contiguous", "modified_alibi", "group", "slots")
ROWS = ("look_ahead", "query_unit", "own_unit", "next_unit")
PROMPTS = ("plain", "template")
POLICY_NAMES = tuple(POLICIES)
SCHEDULE = FromColumn.name


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulMaskConfig:
    """What the ``simulmask:`` block may hold; a key that is not listed here is an error."""

    policy: str
    """wait_k, read_n, offline, schedule (g is a column of the data), or model_driven (interleaved)."""
    k: int | tuple[int, ...] | None = None
    """wait_k: source units; a list, or a range such as "1-9", draws one per example and epoch (multi-path)."""
    n: int | None = None
    """read_n: source units."""
    layout: str = "prefix"
    """How an example becomes one sequence: prefix, interleaved (EAST), turns (chat turns), slots (ExPosST)."""
    positions: str = "group"
    """contiguous, modified_alibi (ALiBi families), group (source and target count separately), or slots (reserved
    for the source of the layout slots, and only there)."""
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
    """turns and slots, plain: text between a target chunk and the next source; a chat template brings its own."""
    loss_on: str = "all"
    """interleaved: all (tokens after the prompt, as published), or target (and both special tokens)."""
    special_token_weight: float = 1.0
    """interleaved: weight of the two special tokens in the loss."""
    read_threshold: float | None = None
    """interleaved: WRITE when P(end of read) reaches this; None: when no token is likelier (as published)."""
    prefix_pairs: bool = False
    """Prefix fine-tuning: every WRITE of a sentence pair becomes an example of its own, plain causal text (baseline);
    needs layout: prefix, positions: contiguous and a policy that draws nothing."""
    source_lang: str = "English"
    """Language of the source where the data has no column for it."""
    target_lang: str = "German"
    """Language of the target where the data has no column for it."""

    def __post_init__(self) -> None:
        """Check every value; the error names the key and lists the choices."""
        choices = {
            "policy": POLICY_NAMES,
            "layout": LAYOUTS,
            "positions": POSITIONS,
            "rows": ROWS,
            "source_units": UNITS,
            "target_units": UNITS,
            "prompt": PROMPTS,
            "loss_on": LOSSES,
        }
        for key, known in choices.items():
            value = getattr(self, key)
            if value not in known:
                raise ValueError(f"simulmask.{key}: unknown value {value!r}; expected one of {', '.join(known)}.")
        check_number(
            "simulmask.look_ahead_rate", self.look_ahead_rate, expected="lie in 0..1", holds=lambda rate: 0 <= rate <= 1
        )
        check_number(
            "simulmask.special_token_weight",
            self.special_token_weight,
            expected="be a number above 0",
            holds=lambda weight: weight > 0,
        )
        if self.read_threshold is not None:
            check_threshold("simulmask.read_threshold", self.read_threshold)
        check_integer("simulmask.group_offset", self.group_offset, least=0, most=MOST_TOKENS)
        check_integer("simulmask.slot_length", self.slot_length, least=1, most=MOST_TOKENS, unit="tokens")
        for key in ("instruction", "header", "next_header", "source_lang", "target_lang"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"simulmask.{key} must be a text, got {getattr(self, key)!r}.")
        self._check_parameters()
        self._check_layout()
        self._check_prefix_pairs()
        Prompt(self.instruction, self.header, self.next_header)
        for key, other in without_meaning(asdict(self)):
            if getattr(self, key) != DEFAULTS[key]:
                where = "in layout" if other == "layout" else f"with {other}"
                value = str(getattr(self, other)).lower()  # true and false, as YAML has them
                raise ValueError(f"simulmask.{key} has no meaning {where}: {value}; remove it.")

    def _check_layout(self) -> None:
        interleaved = self.layout == "interleaved"
        if interleaved != (self.policy == MODEL_DRIVEN):
            raise ValueError(
                f"simulmask.layout: {self.layout} does not go with policy: {self.policy}; layout: interleaved and "
                f"policy: {MODEL_DRIVEN} belong together."
            )
        if self.layout in CHUNKED and self.positions != "contiguous":
            raise ValueError(
                f"simulmask.positions: {self.positions} does not go with layout: {self.layout}, in which every token "
                "stays where it is; set positions: contiguous or remove the key."
            )
        if (self.layout == "slots") != (self.positions == "slots"):
            raise ValueError(
                f"simulmask.positions: {self.positions} does not go with layout: {self.layout}; layout: slots and "
                "positions: slots belong together."
            )
        if self.layout in CHUNKED and TOKEN in (self.source_units, self.target_units):
            raise ValueError(
                f"simulmask.layout: {self.layout} cuts between words or characters; units: token is neither."
            )
        if "{latency}" in self.instruction + self.header and not interleaved:
            raise ValueError(f"The placeholder {{latency}} needs layout: interleaved, got layout: {self.layout}.")

    def _check_prefix_pairs(self) -> None:
        if not isinstance(self.prefix_pairs, bool):
            raise ValueError(f"simulmask.prefix_pairs must be true or false, got {self.prefix_pairs!r}.")
        if not self.prefix_pairs:
            return
        for key, expected in (("layout", "prefix"), ("positions", "contiguous")):
            value = getattr(self, key)
            if value != expected:
                raise ValueError(
                    f"simulmask.{key}: {value} does not go with prefix_pairs: true, whose examples are plain causal "
                    f"text; set {key}: {expected} or remove prefix_pairs."
                )
        if isinstance(self.k, tuple):
            raise ValueError(
                f"simulmask.k: the list {', '.join(map(str, self.k))} does not go with prefix_pairs: true, whose pairs "
                "are made once, before the training; set one k."
            )

    def _check_parameters(self) -> None:
        expected = POLICIES[self.policy].parameters()
        for key in ("k", "n"):
            value = getattr(self, key)
            if key in expected and value is None:
                raise ValueError(f"simulmask.{key} is missing: policy {self.policy} needs it (source units).")
            if key not in expected and value is not None:
                raise ValueError(f"simulmask.{key} is set, but policy {self.policy} does not use it; remove it.")
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    check_integer(f"simulmask.{key}", one, least=1, most=MOST_UNITS, unit="source units")
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
        values = {**LAYOUT_DEFAULTS.get(block.get("layout", "prefix"), {}), **block}
        if "policy" not in values:
            raise ValueError(f"simulmask.policy is missing; expected one of {', '.join(POLICY_NAMES)}.")
        values["k"] = parse_k(values.get("k"))
        return cls(**values)

    def with_keys(self, keys: Mapping[str, Any]) -> SimulMaskConfig:
        """The block with these keys in place of its own; what of the others then means nothing gets its default.

        Raises:
            ValueError: on a key that does not exist, or a bad value.
        """
        block = asdict(self)
        if keys.get("policy", self.policy) != self.policy:
            block |= {"k": None, "n": None}
        block |= keys
        for key, _ in without_meaning(block):
            if key not in keys:
                block[key] = DEFAULTS[key]
        return SimulMaskConfig.from_dict(block)

    def policies(self) -> tuple[Policy, ...]:
        """The policies to draw from, one per example and epoch; empty where g comes from the data."""
        if self.has_schedule_column:
            return ()
        parameters = {key: getattr(self, key) for key in POLICIES[self.policy].parameters()}
        if isinstance(self.k, tuple):
            return tuple(make_policy(self.policy, **{**parameters, "k": k}) for k in self.k)
        return (make_policy(self.policy, **parameters),)

    @property
    def has_schedule_column(self) -> bool:
        """Whether g comes from the data."""
        return self.policy in (SCHEDULE, MODEL_DRIVEN)

    @property
    def threshold(self) -> float | None:
        """The read threshold. Where the source has no loss, other tokens mean nothing, and P is asked for 1/2."""
        return 0.5 if self.read_threshold is None and self.loss_on == "target" else self.read_threshold

    @property
    def has_look_ahead(self) -> bool:
        """Whether the layout contains look-ahead rows; a policy over tokens has no boundary to decide.

        In a prefix pair g is constant: the token behind a WRITE takes the place of its look-ahead row.
        """
        is_pair = self.rows == "look_ahead" and self.layout not in CHUNKED and not self.prefix_pairs
        return is_pair and self.target_units != TOKEN and self.look_ahead_rate > 0

    @property
    def laid_out_rows(self) -> str:
        """The row convention of the layout; without look-ahead rows only the kept rows remain."""
        return "next_unit" if self.rows == "look_ahead" and not self.has_look_ahead else self.rows


DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(SimulMaskConfig)}

MEANT_FOR: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "rows": {"layout": ("prefix", "slots"), "prefix_pairs": (False,)},
    "look_ahead_rate": {
        "layout": ("prefix", "slots"),
        "prefix_pairs": (False,),
        "rows": ("look_ahead",),
        "target_units": (WORD, CHARACTER),
    },
    "group_offset": {"positions": ("group",)},
    "slot_length": {"layout": ("slots",)},
    "header": {"prompt": ("plain",)},
    "next_header": {"prompt": ("plain",), "layout": ("turns", "slots")},
    "loss_on": {"layout": ("interleaved",)},
    "special_token_weight": {"layout": ("interleaved",)},
    "read_threshold": {"layout": ("interleaved",)},
}
"""Keys that mean something only beside certain values of others; elsewhere nothing reads them."""


def without_meaning(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every key that means nothing in a whole block, and the key that makes it so."""
    for key, others in MEANT_FOR.items():
        for other, values in others.items():
            if block[other] not in values:
                yield key, other


def parse_block(text: str) -> Any:
    """The block from a command line, where it is JSON.

    Raises:
        ValueError: saying how it is written.
    """
    try:
        return parse_json(text, "--simulmask")
    except ValueError as error:
        raise ValueError(
            f"simulmask: {text!r} is neither a mapping nor JSON ({error}); write its keys below it in a YAML, and "
            """--simulmask '{"policy": "wait_k", "k": 3}' on a command line."""
        ) from error


LAYOUT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "interleaved": {"policy": MODEL_DRIVEN, "positions": "contiguous", "instruction": INTERLEAVED_INSTRUCTION},
    "turns": {"positions": "contiguous"},
    "slots": {"positions": "slots"},
}
"""Defaults that a layout has of its own."""


def check_threshold(what: str, value: object) -> None:
    """Raise a ValueError unless value is a probability between 0 and 1."""
    check_number(what, value, expected="lie between 0 and 1 (a probability)", holds=lambda p: 0 < p < 1)


def parse_k(value: Any) -> Any:
    """A k from YAML or a command line: an integer, a list, or a range such as "1-9"."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        if first.isdecimal() and not dash:
            return int(first)
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError(f'k must be an integer, a list, or a range such as "1-9", got {value!r}.')
        check_integer("The end of the range k", int(last), least=1, most=MOST_UNITS, unit="source units")
        return tuple(range(int(first), int(last) + 1))
    return tuple(value) if isinstance(value, list | tuple) else value
