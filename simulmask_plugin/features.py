"""A row of data becomes the tokens of an example; training and streaming share the encoder."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from simulmask_plugin.chunked import check_first_read, join_chunks
from simulmask_plugin.config import CHUNKED, MODEL_DRIVEN, ModelSettings, SimulMaskConfig
from simulmask_plugin.layout import Example
from simulmask_plugin.policies import SCHEDULE, roll_out
from simulmask_plugin.prefix_pairs import prefix_pairs
from simulmask_plugin.prompts import LATENCIES, OFFLINE_LATENCY, READ_END, WRITE_END
from simulmask_plugin.schedule import ReadSchedule
from simulmask_plugin.slots import longest
from simulmask_plugin.units import Tokenizer, UnitTokenizer, split_units


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data: a sentence pair, its languages, and g and the latency where the data gives them."""

    source: str
    target: str
    source_lang: str | None
    target_lang: str | None
    schedule: tuple[int, ...] | None = None
    latency: str | None = None


class ExampleEncoder:
    """Turns text into the token ids of an example, unit by unit.

    Args:
        tokenizer: the model's tokenizer.
        settings: layout, units and prompt.
    """

    def __init__(self, tokenizer: Tokenizer, settings: ModelSettings) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-sentence token; set tokenizer.eos_token before training.")
        if settings.config.layout == "interleaved":
            check_special_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.settings = settings
        self.source = UnitTokenizer(tokenizer, settings.config.source_units)
        self.target = UnitTokenizer(tokenizer, settings.config.target_units)

    def with_settings(self, settings: ModelSettings) -> ExampleEncoder:
        """The same tokenizer and units for settings that differ in what is laid out, and not in units or prompt."""
        encoder = copy.copy(self)
        encoder.settings = settings
        return encoder

    def frame(
        self, source_lang: str | None, target_lang: str | None, latency: str | None = None
    ) -> tuple[list[int], list[int], list[int]]:
        """Token ids of the prompt, of the header and of the next header (see Prompt).

        None takes the language that the block names; rows without a latency come whole.
        """
        config = self.settings.config
        texts = self.settings.prompt.render(
            source_lang or config.source_lang, target_lang or config.target_lang, latency or OFFLINE_LATENCY
        )
        before, header, after = (self.tokenizer.encode(text, add_special_tokens=False) for text in texts)
        return before, header, after

    def source_units(self, text: str, *, first: bool) -> list[list[int]]:
        """Token ids, a list per unit, of source text; ``first`` if nothing of the source stands before it."""
        return self.source.encode_all(text, spaced=not first or self.settings.prompt.source_is_spaced)

    def encode(self, row: Row) -> Example:
        """Encode one row.

        Raises:
            ValueError: if source or target is empty.
        """
        before, header, next_header = self.frame(row.source_lang, row.target_lang, row.latency)
        source = self.source_units(row.source, first=True)
        target = self.target.encode_all(row.target, spaced=self.settings.prompt.target_is_spaced)
        for side, units, text in (("source", source, row.source), ("target", target, row.target)):
            if not units:
                raise ValueError(f"The {side} is empty ({text!r}); remove the row or give it a text.")
        parts = [before, *source, header, *target, [self.tokenizer.eos_token_id]]
        return Example(
            input_ids=np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]),
            num_prompt=len(before),
            source_lengths=np.asarray([len(ids) for ids in source]),
            num_header=len(header),
            target_lengths=np.asarray([len(ids) for ids in target]),
            next_header=tuple(next_header),
        )


def row_of(values: Mapping[str, Any], config: SimulMaskConfig) -> Row:
    """Return the row of a data set's columns; chunks are joined and give g.

    Raises:
        ValueError: if the chunks do not come in pairs, a latency is missing or unknown, the policy lacks its g, or a
            first chunk has no source.
    """
    row = Row(**{field.name: values[field.name] for field in fields(Row)})
    if row.schedule is not None:
        row = replace(row, schedule=tuple(row.schedule))
    if values["source_chunks"]:
        source, target, schedule = join_chunks(
            values["source_chunks"],
            values["target_chunks"],
            source_units=config.source_units,
            target_units=config.target_units,
        )
        row = replace(row, source=source, target=target, schedule=tuple(schedule))
        if config.policy == MODEL_DRIVEN and row.latency not in LATENCIES:
            raise ValueError(f"The latency is {row.latency!r}; expected one of {', '.join(LATENCIES)}.")
    if config.policy == SCHEDULE and row.schedule is None:
        raise ValueError(
            "policy: schedule needs a column `schedule` in the data; name it in dataset_info.json (columns), or take "
            "another policy."
        )
    if config.policy == MODEL_DRIVEN and row.schedule is None:  # a row that comes whole
        row = replace(row, schedule=whole_schedule(row, config))
    if not config.has_schedule_column:
        return replace(row, schedule=None)
    if config.layout in CHUNKED and row.schedule:
        check_first_read(row.schedule[0])
    return row


def whole_schedule(row: Row, config: SimulMaskConfig) -> tuple[int, ...]:
    """g(1..T) of a row that comes whole: all of the source is read first."""
    num_source = len(split_units(row.source, config.source_units))
    return (num_source,) * len(split_units(row.target, config.target_units))


def longest_layout(config: SimulMaskConfig, feature: Mapping[str, Any]) -> int:
    """Tokens that the example can have at most, look-ahead rows and chunk ends among them; a slot counts as full."""
    length, num_target = len(feature["input_ids"]), len(feature["target_lengths"])
    if config.layout in CHUNKED:
        num_chunks = len(set(feature["schedule"])) or num_target + 1
        return length + num_chunks * (feature["num_header"] + len(feature["next_header"]))
    if config.layout == "slots":
        length = longest(from_feature(feature)[0], config.slot_length)
    return length + config.has_look_ahead * num_target


def check_special_tokens(tokenizer: Tokenizer) -> None:
    """Raise a ValueError unless the tokenizer has both special tokens of the layout ``interleaved``."""
    for token in (READ_END, WRITE_END):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise ValueError(
                f"The tokenizer has no token {token}, which layout: interleaved needs; add to the YAML "
                f'add_special_tokens: "{READ_END},{WRITE_END}" and resize_vocab: true.'
            )


def to_feature(example: Example, schedule: Sequence[int] | None) -> dict[str, Any]:
    """Return the columns that travel through ``datasets`` to the collator.

    Raises:
        ValueError: if the schedule decreases, leaves 0..S or has the wrong length.
    """
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    full = ReadSchedule.from_column(schedule, num_source, num_target).num_read if schedule is not None else ()
    return {
        "input_ids": example.input_ids.tolist(),
        "num_prompt": example.num_prompt,
        "source_lengths": example.source_lengths.tolist(),
        "num_header": example.num_header,
        "target_lengths": example.target_lengths.tolist(),
        "next_header": list(example.next_header),
        "num_written": example.num_written,
        "schedule": list(full),
    }


FEATURE_COLUMNS = (
    "input_ids",
    "num_prompt",
    "source_lengths",
    "num_header",
    "target_lengths",
    "next_header",
    "num_written",
    "schedule",
)


def from_feature(feature: Mapping[str, Any]) -> tuple[Example, tuple[int, ...]]:
    """Inverse of :func:`to_feature`."""
    example = Example(
        input_ids=np.asarray(feature["input_ids"]),
        num_prompt=feature["num_prompt"],
        source_lengths=np.asarray(feature["source_lengths"], dtype=np.int64),  # empty in a prefix pair with g(t) = 0
        num_header=feature["num_header"],
        target_lengths=np.asarray(feature["target_lengths"]),
        next_header=tuple(feature["next_header"]),
        num_written=feature["num_written"],
    )
    return example, tuple(feature["schedule"])


def features_of(example: Example, column: Sequence[int] | None, config: SimulMaskConfig) -> list[dict[str, Any]]:
    """Return the features that one row of the data becomes: one, or its prefix pairs, of which the last is longest.

    Raises:
        ValueError: if the schedule decreases, leaves 0..S or has the wrong length.
    """
    if not config.prefix_pairs:
        return [to_feature(example, column)]
    pairs = prefix_pairs(example, schedule_of(example, column, config))
    return [to_feature(pair, schedule.num_read) for pair, schedule in pairs]


def schedule_of(
    example: Example, column: Sequence[int] | None, config: SimulMaskConfig, policy_index: int = 0
) -> ReadSchedule:
    """Return g(1..T+1) of an example: that of the data, or that of one of the policies.

    Raises:
        ValueError: if the data's schedule decreases, leaves 0..S or has the wrong length.
    """
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    if config.has_schedule_column:
        assert column is not None, "row_of refuses a row without it"
        return ReadSchedule.from_column(column, num_source, num_target)
    return roll_out(config.policies()[policy_index], num_source, num_target)


class ScheduleSampler:
    """Draws the schedule of an example, and which units get a look-ahead row, once per example and epoch.

    The draw depends on nothing but seed, epoch and the example's tokens, so that it is the same in every process, in
    every data-loader worker and after a resume.
    """

    def __init__(self, settings: ModelSettings, seed: int) -> None:
        self.config = settings.config
        self.policies = settings.config.policies()
        self.seed = seed

    def draw(self, example: Example, schedule: tuple[int, ...], epoch: int) -> tuple[ReadSchedule, np.ndarray | None]:
        """Return g(1..T+1) and, where only a share gets a look-ahead row, a flag per target unit.

        Raises:
            ValueError: if the policy is ``schedule`` and the row has none.
        """
        num_source, num_target = len(example.source_lengths), len(example.target_lengths)
        rate = self.config.look_ahead_rate
        draws_units = self.config.has_look_ahead and rate < 1
        random = None
        if draws_units or len(self.policies) > 1:
            random = np.random.default_rng((self.seed, epoch, zlib.crc32(example.input_ids.astype("<i8").tobytes())))
        if schedule:  # of the data, or of a prefix pair
            read = ReadSchedule(schedule, num_source)
        elif self.config.has_schedule_column:
            raise ValueError(f"policy: {self.config.policy} needs the column `schedule` in every row of the data.")
        else:
            which = int(random.integers(len(self.policies))) if random is not None else 0
            read = roll_out(self.policies[which], num_source, num_target)
        return read, random.random(num_target) < rate if random is not None and draws_units else None
