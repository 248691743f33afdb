"""A row of data becomes the tokens of an example; training and streaming share the encoder."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.files.texts import is_blank
from simulmask_plugin.layouts.base import Example, Layout
from simulmask_plugin.layouts.chunks import join_chunks
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.prompts import LATENCIES, OFFLINE_LATENCY, check_latency
from simulmask_plugin.text.units import Tokenizer, UnitTokenizer, encode_inside, split_units


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
    """Turns text into the token ids of an example, unit by unit."""

    def __init__(self, tokenizer: Tokenizer, settings: ModelSettings) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-sentence token; set tokenizer.eos_token before training.")
        check_special_tokens(tokenizer, settings.config.layout)
        self.tokenizer = tokenizer = with_end_of_sentence(tokenizer, settings)
        self.num_tokens = len(tokenizer)
        self.settings = settings
        self._frames: dict[tuple[str | None, ...], tuple[list[int], list[int], list[int]]] = {}
        self.source = UnitTokenizer(tokenizer, settings.config.source_units)
        self.target = UnitTokenizer(tokenizer, settings.config.target_units)

    def with_settings(self, settings: ModelSettings) -> ExampleEncoder:
        """The same tokenizer and units for settings that differ in what is laid out, and not in units or prompt."""
        encoder = copy.copy(self)
        encoder.settings, encoder._frames = settings, {}
        return encoder

    def frame(
        self, source_lang: str | None, target_lang: str | None, latency: str | None = None
    ) -> tuple[list[int], list[int], list[int]]:
        """Token ids of the prompt, of the header and of the next header (see Prompt).

        None takes the language that the block names, or that was trained (`ModelSettings.pair`); rows without a
        latency come whole.

        Raises:
            ValueError: if the model was never trained on this language pair, or it is not clear which one is meant.
        """
        named = (source_lang, target_lang, latency)
        if named not in self._frames:
            pair = self.settings.pair(source_lang, target_lang)
            texts = self.settings.prompt.render(*pair, latency or OFFLINE_LATENCY)
            before = self.tokenizer.encode(texts[0], add_special_tokens=False)
            header, after = (encode_inside(self.tokenizer, text) for text in texts[1:])
            self._frames[named] = before, header, after
        return self._frames[named]

    def source_units(self, text: str, *, before: str) -> list[list[int]]:
        """Token ids, a list per unit, of source text; ``before``: the word or character before it, if there is one."""
        return self.source.encode_all(text, spaced=bool(before) or self.settings.prompt.source_is_spaced, before=before)

    def encode(self, row: Row) -> Example:
        """Encode one row.

        Raises:
            ValueError: if source or target is empty, or the language pair is none that the model was trained on.
            NotEncodable: if the tokenizer cannot encode one of them unit by unit.
        """
        before, header, next_header = self.frame(row.source_lang, row.target_lang, row.latency)
        for side, text in (("source", row.source), ("target", row.target)):
            if is_blank(text):
                raise ValueError(f"The {side} is empty ({text!r}); remove the row or give it a text.")
        source = self.source_units(row.source, before="")
        target = self.target.encode_all(row.target, spaced=self.settings.prompt.target_is_spaced)
        layout = self.settings.config.layout
        if not layout.in_chunks:  # there, units of characters end where the next token says so
            target = self.target.cut([token for ids in target for token in ids])
        layout.check_target(target, next_header, self.tokenizer)
        parts = [before, *source, header, *target, [self.tokenizer.eos_token_id]]
        return Example(
            input_ids=np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]),
            num_prompt=len(before),
            source_lengths=np.asarray([len(ids) for ids in source]),
            num_header=len(header),
            target_lengths=np.asarray([len(ids) for ids in target]),
            next_header=tuple(next_header),
        )


def with_end_of_sentence(tokenizer: Any, settings: ModelSettings) -> Any:
    """Return the tokenizer, or a copy of it that ends sentences as the training did, if it has that token."""
    end = settings.end_of_sentence
    if end is None or tokenizer.eos_token == end:
        return tokenizer
    if end not in tokenizer.get_vocab():
        raise ValueError(
            f"The model was trained to end a sentence with {end!r} ({FILE_NAME}), which its tokenizer does not have; "
            f"take the tokenizer of the training, or export again with template: {settings.template}."
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = end
    return tokenizer


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
        if config.layout.names_latency and row.latency not in LATENCIES:
            raise ValueError(f"The latency is {row.latency!r}; expected one of {', '.join(LATENCIES)}.")
    if not config.has_schedule_column:
        return replace(row, schedule=None)
    if config.policy.needs_column and row.schedule is None:
        raise ValueError(
            "policy: schedule needs a column `schedule` in the data; name it in dataset_info.json (columns), or take "
            "another policy."
        )
    if row.schedule is None:  # a row that comes whole
        check_latency(row.latency or OFFLINE_LATENCY)
        row = replace(row, schedule=whole_schedule(row, config))
    assert row.schedule is not None
    config.layout.check_schedule(row.schedule)
    return row


def whole_schedule(row: Row, config: SimulMaskConfig) -> tuple[int, ...]:
    """g(1..T) of a row that comes whole: all of the source is read first."""
    num_source = len(split_units(row.source, config.source_units))
    return (num_source,) * len(split_units(row.target, config.target_units))


def longest_layout(config: SimulMaskConfig, feature: Mapping[str, Any]) -> int:
    """Tokens that the example can have at most, look-ahead rows and chunk ends among them; a slot counts as full.

    Of the schedules that may be drawn the one counts in which g increases most often: there a unit gets its look-ahead
    row, or a chunk begins.
    """
    example, column = from_feature(feature)
    schedules = {schedule_of(example, column, config, i) for i in range(len(config.policies))}
    return config.layout.longest(example, schedules, config.convention)


def check_special_tokens(tokenizer: Tokenizer, layout: Layout) -> None:
    """Raise a ValueError unless the tokenizer has the special tokens of the layout."""
    for token in layout.special_tokens:
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise ValueError(
                f"The tokenizer has no token {token}, which layout: {layout.name} needs; add to the YAML "
                f'add_special_tokens: "{",".join(layout.special_tokens)}" and resize_vocab: true.'
            )


def check_rows(tokenizer: Any, settings: ModelSettings, num_rows: int) -> None:
    """Raise a ValueError for a prompt, or an end of sentence, with a token that the model's embedding has no row for.

    A chat template brings tokens of its own, which are added to the tokenizer where it lacks them.
    """
    texts = settings.prompt.render("English", "German", OFFLINE_LATENCY)
    ids = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
    for token in (*ids, tokenizer.eos_token_id):
        if token >= num_rows:
            raise ValueError(
                f"The token {tokenizer.convert_ids_to_tokens([token])[0]} of the prompt or the end of sentence has id "
                f"{token}, but the model's embedding has only {num_rows} rows; set resize_vocab: true, which adds a "
                "row for it, or a template that goes with the model."
            )


EXAMPLE_FIELDS = tuple(field.name for field in fields(Example))
FEATURE_COLUMNS = (*EXAMPLE_FIELDS, "schedule")
"""What travels through ``datasets`` to the collator: an example and its g, which is empty where a policy gives it."""


def to_feature(example: Example, schedule: Sequence[int] | None) -> dict[str, Any]:
    """Return the columns of an example, whose schedule is checked as by `schedule_of`."""
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    full = ReadSchedule.from_column(schedule, num_source, num_target).num_read if schedule is not None else ()
    return {name: np.asarray(getattr(example, name)).tolist() for name in EXAMPLE_FIELDS} | {"schedule": list(full)}


def from_feature(feature: Mapping[str, Any]) -> tuple[Example, tuple[int, ...]]:
    """Inverse of :func:`to_feature`."""
    values = {name: feature[name] for name in EXAMPLE_FIELDS}
    for name in ("input_ids", "source_lengths", "target_lengths"):  # a prefix pair with g(t) = 0 has no source
        values[name] = np.asarray(values[name], dtype=np.int64)
    values["next_header"] = tuple(values["next_header"])
    return Example(**values), tuple(feature["schedule"])


def features_of(example: Example, column: Sequence[int] | None, config: SimulMaskConfig) -> list[dict[str, Any]]:
    """Return the features that one row of the data becomes: one, or its prefix pairs, of which the last is longest."""
    if not config.layout.splits:
        return [to_feature(example, column)]
    pairs = config.layout.split(example, schedule_of(example, column, config))
    return [to_feature(pair, schedule.num_read) for pair, schedule in pairs]


def schedule_of(
    example: Example,
    column: Sequence[int] | None,
    config: SimulMaskConfig,
    policy_index: int = 0,
    random: np.random.Generator | None = None,
) -> ReadSchedule:
    """Return g(1..T+1) of an example: that of the data or of a prefix pair where there is one, else of one policy.

    Without ``random`` a policy that draws gives the one that READs most often.

    Raises:
        ValueError: if the column decreases, leaves 0..S, has the wrong length, or is missing where g comes from it.
    """
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    if column:
        return ReadSchedule.from_column(column, num_source, num_target)
    if config.has_schedule_column:
        raise ValueError(f"policy: {config.policy.name} needs the column `schedule` in every row of the data.")
    return config.policies[policy_index].make_schedule(num_source, num_target, random)


def _share(schedule: ReadSchedule, rate: float, random: np.random.Generator) -> np.ndarray:
    """Draw a share of the units after which source is read, the only ones that can have a look-ahead row: a flag each.

    Their number varies as little as it can, since the longest sequence of a batch is what the batch costs.
    """
    flags = np.zeros(schedule.num_target, dtype=bool)
    increases = np.flatnonzero(np.diff(schedule.num_read))
    flags[random.permutation(increases)[: int(rate * len(increases) + random.random())]] = True
    return flags


class ScheduleSampler:
    """Draws the schedule of an example, and which units get a look-ahead row, once per example and epoch.

    The draw depends on nothing but seed, epoch and the example's tokens, so that it is the same in every process, in
    every data-loader worker and after a resume.
    """

    def __init__(self, settings: ModelSettings, seed: int) -> None:
        self.config = settings.config
        self.num_policies = len(settings.config.policies)
        self.draws = self.num_policies > 1 or settings.config.policy.draws
        self.seed = seed

    def draw(self, example: Example, schedule: tuple[int, ...], epoch: int) -> tuple[ReadSchedule, np.ndarray | None]:
        """Return g(1..T+1) and, where only a share gets a look-ahead row, a flag per target unit; see `schedule_of`."""
        rate = self.config.layout.look_ahead_share
        draws_units = self.config.convention.look_ahead and rate < 1
        random, which = None, 0
        if draws_units or self.draws:
            random = np.random.default_rng((self.seed, epoch, zlib.crc32(example.input_ids.astype("<i8").tobytes())))
            if not self.config.has_schedule_column:
                which = int(random.integers(self.num_policies))
        read = schedule_of(example, schedule, self.config, which, random)
        return read, _share(read, rate, random) if random is not None and draws_units else None
