"""The ``simulmask:`` block of a training YAML: a policy, a layout, units and a prompt, all of them flat keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import product
from typing import Any, Literal

from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.base import Layout
from simulmask_plugin.layouts.conventions import Convention
from simulmask_plugin.options import MOST_UNITS, check_choice, check_fields, check_integer, check_known, read, type_of
from simulmask_plugin.policies import POLICIES, Policy
from simulmask_plugin.text.prompts import PLAIN_HEADER, PLAIN_INSTRUCTION, PLAIN_NEXT_HEADER, Prompt

WHERE = "simulmask."

RUN_KEYS = ("stream_eval",)
"""Keys that say how a training is watched and nothing about its model; others read them (`training/stream_eval.py`)."""

Unit = Literal["word", "character", "token"]


@dataclass(frozen=True, kw_only=True)
class SimulMaskConfig:
    """What the ``simulmask:`` block holds; the keys of policy and layout are those of their fields."""

    policies: tuple[Policy, ...]
    """The policy; several, of which one is drawn per example and epoch, where a parameter is a list (multi-path)."""
    layout: Layout
    """How an example becomes one sequence."""
    source_units: Unit = "word"
    """word, character or token."""
    target_units: Unit = "word"
    """word, character or token."""
    prompt: Literal["plain", "template"] = "plain"
    """plain, or template: the chat template that LLaMA-Factory's own key ``template`` names."""
    instruction: str = PLAIN_INSTRUCTION
    """Text before the source; may hold {source_lang} and {target_lang}."""
    header: str = PLAIN_HEADER
    """plain: text between source and target; a chat template brings its own."""
    next_header: str = PLAIN_NEXT_HEADER
    """turns and slots, plain: text between a target chunk and the next source; a chat template brings its own."""
    source_lang: str = "English"
    """Language of the source where the data has no column for it."""
    target_lang: str = "German"
    """Language of the target where the data has no column for it."""

    def __post_init__(self) -> None:
        """Check every value, and that layout and policy go with the rest; the error names the key."""
        check_fields(self, WHERE)
        self.layout.check(self)
        Prompt(self.instruction, self.header, self.next_header)
        values = self.keys()
        for key, beside in _without_meaning(values, type(self.layout)):
            if values[key] != defaults(type(self.layout))[key]:
                raise ValueError(f"{WHERE}{key} has no meaning {beside}; remove it.")

    @classmethod
    def from_dict(cls, block: Mapping[str, Any]) -> SimulMaskConfig:
        """Parse the YAML block.

        Raises:
            ValueError: on a key that does not exist (the known ones are listed) or a bad value.
        """
        layout, policy = _parts(block)
        block = {key: value for key, value in block.items() if key not in RUN_KEYS}
        for key, value in block.items():
            _check_place(key, value, layout, policy)
        try:
            parts = {"layout": read(layout, _only(block, keys_of(layout)), WHERE), "policies": _policies(policy, block)}
        except ValueError as error:
            raise ValueError(
                f"{str(error).removesuffix('.')} (layout: {layout.name}, policy: {policy.name})."
            ) from error
        return cls(**{"instruction": layout.instruction, **_only(block, COMMON), **parts})

    def with_keys(self, keys: Mapping[str, Any]) -> SimulMaskConfig:
        """The block with these keys in place of its own; what of the others then means nothing gets its default.

        Raises:
            ValueError: on a key that does not exist, or a bad value.
        """
        return SimulMaskConfig.from_dict({**meaningful({**self.keys(), **keys}), **keys})

    def keys(self) -> dict[str, Any]:
        """The block, flat: every key that policy, layout or all blocks have."""
        drawn = {
            key: dict.fromkeys(getattr(policy, key) for policy in self.policies) for key in block_keys(self.policy)
        }
        return {
            "policy": self.policy.name,
            **{key: tuple(values) if len(values) > 1 else next(iter(values)) for key, values in drawn.items()},
            "layout": self.layout.name,
            **{key: getattr(self.layout, key) for key in keys_of(type(self.layout))},
            **{key: getattr(self, key) for key in COMMON},
        }

    def said(self) -> dict[str, Any]:
        """The block without the keys that have their defaults."""
        known = defaults(type(self.layout))
        return {key: value for key, value in self.keys().items() if key not in known or value != known[key]}

    @property
    def policy(self) -> type[Policy]:
        """The class of the policies."""
        return type(self.policies[0])

    @property
    def has_schedule_column(self) -> bool:
        """Whether g comes from the data."""
        return self.policy.from_data

    @property
    def convention(self) -> Convention:
        """What the tokens of a target unit see."""
        return self.layout.convention(self.target_units)


COMMON = tuple(field.name for field in fields(SimulMaskConfig) if field.name not in ("policies", "layout"))
"""Keys that every block has."""


def keys_of(part: type[Layout]) -> tuple[str, ...]:
    """The keys that a layout brings into the block."""
    return tuple(field.name for field in fields(part))


def block_keys(policy: type[Policy]) -> tuple[str, ...]:
    """The keys that a policy brings into the block."""
    return tuple(key for key in policy.parameters() if key not in policy.run_keys)


def training_policies() -> dict[str, type[Policy]]:
    """The policies that a block may name."""
    return {name: policy for name, policy in POLICIES.items() if policy.trains}


def known_keys() -> tuple[str, ...]:
    """Every key that a block may have."""
    of_policies = (key for policy in training_policies().values() for key in block_keys(policy))
    of_layouts = (key for layout in LAYOUTS.values() for key in keys_of(layout))
    return tuple(dict.fromkeys(("policy", *of_policies, "layout", *of_layouts, *COMMON)))


def defaults(*parts: type[Layout] | type[Policy]) -> dict[str, Any]:
    """The defaults of the common keys, and of those of these layouts and policies."""
    every = (field for part in (SimulMaskConfig, *parts) for field in fields(part))
    known = {field.name: field.default for field in every if field.default is not MISSING}
    for part in parts:
        if issubclass(part, Layout):
            known["instruction"] = part.instruction
    return known


def meaningful(block: Mapping[str, Any]) -> dict[str, Any]:
    """The block without the keys that mean nothing beside its policy and layout.

    Raises:
        ValueError: if it names a policy or a layout that does not exist.
    """
    layout, policy = _parts(block)
    values = _only(block, ("policy", "layout", *block_keys(policy), *keys_of(layout), *COMMON))
    unread = {key for key, _ in _without_meaning({**defaults(layout), **values}, layout)}
    return {key: value for key, value in values.items() if key not in unread}


def _without_meaning(values: Mapping[str, Any], layout: type[Layout]) -> Iterator[tuple[str, str]]:
    """Yield every key that nothing reads, and beside what."""
    plain = {"prompt": ("plain",)}
    for key, others in {"header": plain, "next_header": plain, **layout.meant_for}.items():
        for other, meant in others.items():
            if values[other] not in meant:
                yield key, f"with {other}: {values[other]}"
    if not layout.has_next_header:
        yield "next_header", layout.described()


def _parts(block: Mapping[str, Any]) -> tuple[type[Layout], type[Policy]]:
    """The classes of layout and policy that a block names."""
    if not isinstance(block, Mapping):
        raise ValueError(f"The simulmask: block must be a mapping of keys to values, got {block!r}.")
    asked = POLICIES.get(str(block.get("policy")))
    if asked is not None and not asked.trains:
        raise ValueError(
            f"{WHERE}policy: {asked.name} decides while streaming, when it can ask the model. Train with policy: "
            "random, or wait_k with a list of k, and name it in the policies of an evaluation."
        )
    check_known(block, (*known_keys(), *RUN_KEYS), WHERE)
    name = block.get("layout", "prefix")
    check_choice(f"{WHERE}layout", name, LAYOUTS)
    layout = LAYOUTS[name].variant(block)
    policy = block.get("policy", layout.policy.name if layout.policy else None)
    if policy is None and "policy" not in block:
        raise ValueError(f"{WHERE}policy is missing; expected one of {', '.join(training_policies())}.")
    check_choice(f"{WHERE}policy", policy, training_policies())
    return layout, POLICIES[policy]


def _check_place(key: str, value: Any, layout: type[Layout], policy: type[Policy]) -> None:
    """Refuse a key of another policy or layout, unless it says nothing."""
    if key in ("policy", "layout", *block_keys(policy), *keys_of(layout), *COMMON):
        return
    parts: list[type[Layout] | type[Policy]] = [*LAYOUTS.values(), *POLICIES.values()]
    if value is None or value in (defaults(part).get(key) for part in parts):
        return
    if any(key in keys_of(other) for other in LAYOUTS.values()):
        raise ValueError(f"{WHERE}{key} has no meaning {layout.described()}; remove it.")
    raise ValueError(f"{WHERE}{key} is set, but policy {policy.name} does not use it; remove it.")


def _policies(policy: type[Policy], block: Mapping[str, Any]) -> tuple[Policy, ...]:
    """The policy of a block; all combinations where parameters are lists."""
    drawn = {key: _drawn(policy, key, block[key]) for key in block_keys(policy) if block.get(key) is not None}
    return tuple(read(policy, dict(zip(drawn, values, strict=True)), WHERE) for values in product(*drawn.values()))


def _drawn(policy: type[Policy], key: str, value: Any) -> tuple[Any, ...]:
    """The values of a parameter, from one, a list, or of integers a range such as "1-9"."""
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{WHERE}{key} is an empty list; expected at least one {key}.")
        return tuple(value)
    if not isinstance(value, str) or type_of(policy, key) is not int:
        return (value,)
    first, dash, last = value.partition("-")
    if first.isdecimal() and not dash:
        return (int(first),)
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f'{WHERE}{key} must be an integer, a list, or a range such as "1-9", got {value!r}.')
    check_integer(f"The end of the range {key}", int(last), least=1, most=MOST_UNITS, unit="source units")
    return tuple(range(int(first), int(last) + 1))


def _only(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those of the keys that are there."""
    return {key: values[key] for key in keys if key in values}


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
