"""A layout: how an example becomes one sequence of rows, and all else that is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from simulmask_plugin.layouts.conventions import CONVENTIONS, Convention
from simulmask_plugin.options import Must
from simulmask_plugin.policies import Policy, ReadSchedule
from simulmask_plugin.text.prompts import PLAIN_INSTRUCTION, Prompt
from simulmask_plugin.text.units import Tokenizer

if TYPE_CHECKING:
    from simulmask_plugin.config.block import SimulMaskConfig as Block

IGNORE_INDEX = -100
"""Label of a token that is the target of no row."""

Ints = Int[np.ndarray, " tokens"]
Flags = Bool[np.ndarray, " target_units"]


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized example: prompt | source | header | target | end of sentence.

    Attributes:
        input_ids: token ids of all five parts, in this order.
        num_prompt: tokens of the prompt.
        source_lengths: tokens of each source unit.
        num_header: tokens of the header.
        target_lengths: tokens of each target unit.
        next_header: token ids that stand between target and further source, in layouts that have such a place.
        num_written: leading target units that carry no labels: in ``prefix``, what a prefix pair repeats of the others.
    """

    input_ids: Int[np.ndarray, " tokens"]
    num_prompt: int
    source_lengths: Int[np.ndarray, " source_units"]
    num_header: int
    target_lengths: Int[np.ndarray, " target_units"]
    next_header: tuple[int, ...] = ()
    num_written: int = 0

    def __post_init__(self) -> None:
        """Check that the parts add up."""
        parts = self.num_prompt + self.source_lengths.sum() + self.num_header + self.target_lengths.sum() + 1
        assert len(self.input_ids) == parts, f"{len(self.input_ids)} tokens, but the parts hold {parts}"

    def units(self) -> tuple[list[list[int]], list[int], list[list[int]], int]:
        """Token ids of the source (a list per unit), of the header, of the target, and the end of sentence."""
        cuts = np.cumsum([self.num_prompt, *self.source_lengths, self.num_header, *self.target_lengths])
        _, *parts, end = (part.tolist() for part in np.split(self.input_ids, cuts))
        num_source = len(self.source_lengths)
        return parts[:num_source], parts[num_source], parts[num_source + 1 :], end[0]

    @property
    def source_end(self) -> int:
        """Index of the first header token."""
        return self.num_prompt + int(self.source_lengths.sum())

    @property
    def all_ids(self) -> Ints:
        """The token ids, and after them those of the next header."""
        return np.concatenate((self.input_ids, np.asarray(self.next_header, dtype=np.int64)))

    @property
    def source_unit(self) -> Ints:
        """The index of the source unit of each of `all_ids`; -1 outside the source."""
        unit = np.full(len(self.input_ids) + len(self.next_header), -1)
        unit[self.num_prompt : self.source_end] = np.repeat(np.arange(len(self.source_lengths)), self.source_lengths)
        return unit


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """One row of a batch before padding; all arrays have the length of the sequence.

    Attributes:
        example: what was laid out.
        input_ids: token ids.
        source_unit: index of the source unit of the token; -1 for every other token, S for a look-ahead row.
        num_read: source units that the token may see as a query; S ("all") for prompt and source.
        labels: target of the row *before* (the shift is the model's); IGNORE_INDEX elsewhere.
        token: index of the token in the example; a look-ahead pair shares one, and a next header has -1.
        position: position of the token, which a look-ahead pair shares, too.
        num_hidden: source *tokens* that the row may not see, where the positions ask for it (``modified_alibi``).
    """

    example: Example
    input_ids: Ints
    source_unit: Ints
    num_read: Ints
    labels: Ints
    token: Ints
    position: Ints
    num_hidden: Ints | None = None

    @property
    def after_source(self) -> Bool[np.ndarray, " tokens"]:
        """True for the header and everything after it."""
        return self.token >= self.example.source_end

    @property
    def is_kept(self) -> Bool[np.ndarray, " tokens"]:
        """False for look-ahead rows."""
        return self.source_unit != len(self.example.source_lengths)

    @property
    def parts(self) -> tuple[str, ...]:
        """Prompt, source, header or target for every token."""
        example = self.example
        starts = [example.num_prompt, example.source_end, example.source_end + example.num_header]
        names = ("prompt", "source", "header", "target")
        places = np.where(self.token < 0, names.index("header"), np.searchsorted(starts, self.token, side="right"))
        return tuple(names[place] for place in places)


class Slot(NamedTuple):
    """Reserved positions in a laid-out sequence.

    Attributes:
        first: index of the first token in it.
        end: index after the last.
        reserved: its positions, filled or not.
    """

    first: int
    end: int
    reserved: int


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run may choose beside its policy; each key is a part of its name."""

    name: ClassVar[str] = "a run"

    laal: Annotated[float, Must("be above 0 (source units)", lambda laal: laal > 0)] | None = None
    """The latency that the policy's threshold was calibrated for, see `simulmask calibrate`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How an example becomes one sequence of rows; a subclass is listed in ``LAYOUTS``.

    Its fields are the keys of the block that only it reads.

    Attributes:
        name: as the key ``layout`` has it.
        in_chunks: whether source and target alternate in chunks of plain causal text: a WRITE is a chunk, stock masks
            and packing are right, and a unit of characters ends where the token after it says so.
        has_next_header: whether there is a text between target and further source.
        special_tokens: that the model predicts.
        policy: the one that is meant where a block names none.
        names_latency: whether the prompt names a latency.
        instruction: default of the block's key.
        splits: whether an example becomes several, see `split`.
        meant_for: key -> other keys, and the values of these beside which it means something.
        run_options: what a run may choose.
        title_keys: keys that stand over a picture whatever their values are.
    """

    name: ClassVar[str]
    in_chunks: ClassVar[bool] = False
    has_next_header: ClassVar[bool] = False
    special_tokens: ClassVar[tuple[str, ...]] = ()
    policy: ClassVar[type[Policy] | None] = None
    names_latency: ClassVar[bool] = False
    instruction: ClassVar[str] = PLAIN_INSTRUCTION
    splits: ClassVar[bool] = False
    meant_for: ClassVar[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {}
    run_options: ClassVar[type[RunOptions]] = RunOptions
    title_keys: ClassVar[tuple[str, ...]] = ("positions",)

    positions: str
    """Name of the position scheme."""

    @classmethod
    def variant(cls, block: Mapping[str, Any]) -> type[Layout]:
        """The class of a block that names this layout: its keys may ask for another one."""
        return cls

    @classmethod
    def described(cls) -> str:
        """The layout in messages, e.g. "in layout: slots"."""
        return f"in layout: {cls.name}"

    @classmethod
    def takes(cls, policy: type[Policy]) -> bool:
        """Whether a policy goes with the layout: one that looks at the end of read needs a model that predicts it."""
        return policy.needs_read_end == (cls.policy is not None and cls.policy.needs_read_end)

    # The block

    def check(self, block: Block) -> None:
        """Raise a ValueError if the layout does not go with the rest of the block."""
        if not self.takes(block.policy):
            raise ValueError(
                f"simulmask.layout: {self.name} does not go with policy: {block.policy.name}; layout: interleaved and "
                "policy: model_driven belong together."
            )
        if "{latency}" in block.instruction + block.header and not self.names_latency:
            raise ValueError(f"The placeholder {{latency}} needs layout: interleaved, got layout: {self.name}.")

    def prompt(self, prompt: Prompt, *, of_template: bool = False) -> Prompt:
        """The prompt as the layout needs it; ``of_template``: a chat template, not the user, has written it."""
        return prompt

    def check_target(self, target: Sequence[Sequence[int]], next_header: Sequence[int], tokenizer: Tokenizer) -> None:
        """Raise NotEncodable if a session could not write this target, token ids per unit."""

    def check_schedule(self, num_read: Sequence[int]) -> None:
        """Raise a ValueError if g(1), g(2), ... cannot be laid out."""

    def streamed_policy(self, policy: Policy) -> Policy:
        """The policy to stream with, where the layout decides what it leaves open."""
        return policy

    def streamed_with(self, run: RunOptions) -> Layout:
        """The layout to stream with: that of training, if the run does not choose another.

        Raises:
            ValueError: if what the run chooses does not go with the layout.
        """
        return self

    # Rows

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is another than the cross entropy of the labels."""
        return False

    @property
    def look_ahead_share(self) -> float:
        """Share of the target units, drawn per epoch, that get their look-ahead row where the convention has it."""
        return 1.0

    def convention(self, target_units: str) -> Convention:
        """What the tokens of a target unit see."""
        return CONVENTIONS["next_unit"]

    def lay_out(
        self, example: Example, schedule: ReadSchedule, convention: Convention, look_ahead: Flags | None = None
    ) -> SequenceLayout:
        """Lay an example out.

        Args:
            example: the tokens.
            schedule: g(1..T+1) over its units.
            convention: of the block.
            look_ahead: the units that get their look-ahead row where the convention has it; None for all of them.
        """
        raise NotImplementedError

    def split(self, example: Example, schedule: ReadSchedule) -> Iterator[tuple[Example, ReadSchedule]]:
        """Yield the examples that one becomes, each with its schedule; the longest comes last."""
        yield example, schedule

    def longest(self, example: Example, schedules: Iterable[ReadSchedule], convention: Convention) -> int:
        """Rows that the example can have at most.

        Of the schedules that may be drawn the one counts in which g increases most often: there a unit gets its
        look-ahead row, or a chunk begins.
        """
        return len(example.input_ids) + self.most_look_ahead(schedules, convention)

    def most_look_ahead(self, schedules: Iterable[ReadSchedule], convention: Convention) -> int:
        """Look-ahead rows that an example gets at most: a share of g's increases, rounded up."""
        return convention.look_ahead * ceil(self.look_ahead_share * max(map(num_increases, schedules)))

    # Streaming, parity, pictures

    def session(self, run: RunOptions) -> Callable[..., Any]:
        """What opens a session of the layout; imported late, since it needs torch."""
        raise NotImplementedError

    def shows_fewer(self, run: RunOptions) -> bool:
        """Whether a policy may compare with what a row predicts that sees fewer units (`Policy.fewer`)."""
        return False

    def parity_run(self) -> RunOptions:
        """The run of which the layout promises parity."""
        return self.run_options()

    def promises_parity(self, block: Block, *, whole_source: bool) -> bool:
        """Whether what streaming sees equals training; ``whole_source``: all of it is read before the first WRITE."""
        return True

    def orders(self, layout: SequenceLayout) -> list[int]:
        """The order under which a session feeds each row of the training sequence, see `may_attend`."""
        return layout.position.tolist()

    def regions(self, layout: SequenceLayout) -> list[str]:
        """The region of every token in a picture, a key of its `REGIONS`."""
        return list(layout.parts)

    def slots(self, layout: SequenceLayout) -> list[Slot]:
        """Reserved positions, for a picture."""
        return []

    def title(self) -> list[str]:
        """The keys that decide what a picture looks like, each with its value."""
        others = (field.name for field in fields(self) if getattr(self, field.name) != field.default)
        return [f"{key} {getattr(self, key)}" for key in dict.fromkeys((*self.title_keys, *others))]

    def describe(self, convention: Convention) -> dict[str, str]:
        """Layout, rows and positions in words, by topic."""
        return {"layout": self.name, "rows": "every token once, plain causal", "positions": self.positions}

    def variants(self, *, alibi: bool) -> Iterator[dict[str, Any]]:
        """Yield the keys of all rows and positions that a parity matrix tries; ``alibi``: of a family that has it."""
        yield {}


def num_increases(schedule: ReadSchedule) -> int:
    """How often g increases."""
    return len(set(schedule.num_read)) - 1
