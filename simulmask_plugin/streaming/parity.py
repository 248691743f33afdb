"""Parity: the logits of training (teacher forcing) against those of streaming, row by row."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.batches.features import ExampleEncoder, Row, schedule_of
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, SequenceLayout
from simulmask_plugin.layouts.chunks import chunks_of
from simulmask_plugin.policies import Action, Evidence, Following, Offline, ReadSchedule
from simulmask_plugin.streaming.chunk_session import chunk_limit
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.text.prompts import OFFLINE_LATENCY
from simulmask_plugin.text.units import split_units

TOLERANCE = 1e-4
"""Largest difference of two logits that counts as equal (fp32) where nothing is known of the model."""

STOCK_SHARE = 3
"""How many times the difference that stock transformers makes to itself counts as equal, in a model of large logits."""

EXACT = 1e-9
"""The same in float64, see `float64`."""


@dataclass(slots=True)
class ParityResult:
    """Outcome over examples: the largest differences, and whether all fed tokens were those of training.

    Attributes:
        dtype: that the model computes in.
        max_abs_diff: between training and streaming, of logits.
        max_logit: the largest in training.
        rows: how many were compared.
        same_ids: whether all fed tokens were those of training.
        stock_diff: see `stock_difference`, over the same examples; None where it was not measured.
    """

    dtype: torch.dtype = torch.float32
    max_abs_diff: float = 0.0
    max_logit: float = 0.0
    rows: int = 0
    same_ids: bool = True
    stock_diff: float | None = None

    def add(self, training: Tensor, streaming: Tensor) -> None:
        """Take in the logits of one row."""
        self.max_abs_diff = max(self.max_abs_diff, (training - streaming).abs().max().item())
        self.max_logit = max(self.max_logit, training.abs().max().item())
        self.rows += 1

    @property
    def holds(self) -> bool:
        """Whether every compared row agrees within what counts as equal, and the ids are equal."""
        equal = EXACT if self.dtype == torch.float64 else max(TOLERANCE, STOCK_SHARE * (self.stock_diff or 0))
        return self.same_ids and self.rows > 0 and self.max_abs_diff <= equal


@torch.no_grad()
def stock_difference(model: PreTrainedModel, input_ids: np.ndarray) -> float:
    """Largest difference of logits between two ways of stock transformers: a text in one call, and token by token.

    Both are plain causal, with transformers' own masks, positions and cache: the rounding that it allows itself.
    """
    ids = torch.from_numpy(input_ids).to(model.device)[None]
    whole = model(ids, use_cache=False).logits[0]
    cache, largest = None, 0.0
    for place in range(ids.shape[1]):
        out = model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        largest = max(largest, (out.logits[0, -1] - whole[place]).abs().max().item())
    return largest


def promises_parity(settings: ModelSettings, *, whole_source: bool | None = None) -> bool:
    """Whether the method promises parity; the others have a known mismatch (docs/architecture.md).

    ``whole_source``: all of it is read before anything is written; None: as the policy of training does.
    """
    config = settings.config
    if whole_source is None:
        whole_source = config.policy is Offline
    return config.layout.promises_parity(config, whole_source=whole_source)


@torch.no_grad()
def training_logits(model: PreTrainedModel, settings: ModelSettings, layout: SequenceLayout) -> Tensor:
    """Return the logits (tokens, vocabulary) of the training forward pass of one example."""
    prepare(model)
    batch = SimulMaskCollator(settings, pad_token_id=0).pad([layout])
    inputs = training_inputs({k: v.to(model.device) for k, v in batch.items()}, model.config, model.dtype)
    del inputs["labels"]
    return model(**inputs, use_cache=False).logits[0].to(torch.promote_types(model.dtype, torch.float32))


def scored_rows(layout: SequenceLayout) -> Iterator[tuple[int, int, str]]:
    """Yield (row, target token index, kind) of every row that predicts.

    The header's last token has the index of the target token before it, -1 for the first header, and the kind "header"
    where another row with that index predicts the same.
    """
    start = layout.example.source_end + layout.example.num_header
    for row, token in enumerate(layout.token[:-1].tolist()):
        if token == start - 1:
            before = int(layout.token[row + 1]) - start - 1
            yield row, before, "header" if before >= 0 else "kept"
        elif token >= start:
            is_look_ahead = layout.source_unit[row] == len(layout.example.source_lengths)
            yield row, token - start, "look_ahead" if is_look_ahead else "kept"


def opening_rows(layout: SequenceLayout) -> dict[int, int]:
    """Index of the target token before a unit (-1: the header) -> the row that predicts the unit's first token."""
    ends = {-1, *(np.cumsum(layout.example.target_lengths) - 1).tolist()}
    return {token: row for row, token, kind in scored_rows(layout) if kind != "look_ahead" and token in ends}


@dataclass(frozen=True, kw_only=True)
class _Asked(Following):
    """Follows the schedule, and has the model asked after every unit."""

    num_read: Any = field(default_factory=lambda: count(1))

    def wanted(self, t: int) -> float:
        return 0

    def accepts(self, evidence: Evidence) -> bool:
        return next(self.num_read) in self.schedule.num_read


class _Forced(ChunkChooser):
    """Writes the tokens of the reference, and keeps the logits that each row gave."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.left = tokens, iter(tokens)
        self.rows: dict[tuple[Any, ...], Tensor] = {}

    def choose(self, logits: Tensor, index: int, opening: bool) -> int:
        return self.tokens[index]

    def next_token(self, logits: Tensor, *, opens_word: bool) -> int:
        return next(self.left)

    def trace(self, *row: Any) -> None:
        self.rows[row[:-1]] = row[-1]


def force(
    model: PreTrainedModel, encoder: ExampleEncoder, row: Row, schedule: ReadSchedule, layout: SequenceLayout
) -> tuple[Session, dict[tuple[Any, ...], Tensor], tuple[Any, ...]]:
    """Return the layout's session, forced through an example; what will hold the logits per row; the last row's key."""
    kind, policy = encoder.settings.config.layout, Following(schedule=schedule)
    options: dict[str, Any]
    last: tuple[Any, ...]
    if kind.in_chunks:
        _check_chunks(layout.example, schedule)
        places = _chosen_places(layout, is_turns=not kind.special_tokens)
        forced, last = _Forced(layout.input_ids[places].tolist()), (places[-1] - 1,)
        policy = _Asked(schedule=schedule) if kind.special_tokens else policy
        options = {"max_target_tokens": len(layout.input_ids), "chooser": forced}
        options["latency"] = row.latency or OFFLINE_LATENCY
    else:
        forced = _Forced(layout.example.input_ids[layout.example.source_end + layout.example.num_header :].tolist())
        last = list(scored_rows(layout))[-1][1:]
        options = dict.fromkeys(("max_target_tokens", "max_unit_tokens"), len(forced.tokens))
        options["choose"] = forced.choose
    session = kind.session(kind.parity_run())(
        model=model,
        encoder=encoder,
        policy=policy,
        source_lang=row.source_lang,
        target_lang=row.target_lang,
        trace=forced.trace,
        **options,
    )
    return session, forced.rows, last


def _chosen_places(layout: SequenceLayout, *, is_turns: bool) -> list[int]:
    """Places of the tokens that a session of chunks chooses; what is predicted of a read is the policy's."""
    read_end = layout.example.units()[1]
    places = [
        place
        for place, (token, part) in enumerate(zip(layout.input_ids.tolist(), layout.parts, strict=True))
        if part in ("header", "target") and layout.labels[place] >= 0 and (is_turns or [token] != read_end)
    ]
    return places if is_turns else places[:-1]  # in interleaved no row is asked for the end of sentence


def _check_chunks(example: Example, schedule: ReadSchedule) -> None:
    """Raise a ValueError if a chunk's target is so long that a session ends it before."""
    written = 0
    for number, (num_read, num_written) in enumerate(chunks_of(schedule), start=1):
        num_tokens = int(example.target_lengths[written : written + num_written].sum())
        if num_tokens >= chunk_limit(num_read):
            raise ValueError(
                f"The target of chunk {number} has {num_tokens} tokens, but a session ends it after "
                f"{chunk_limit(num_read)} since its source has {num_read} units; take a shorter text or more chunks."
            )
        written += num_written


def stream_forced(session: Session, source: str, rows: Container[object], last: object) -> None:
    """Drive a forced session over its source, until ``rows`` holds the key of the last row that is to predict."""
    pieces = split_units(source, session.encoder.source.unit)
    while last not in rows:
        if session.action() is Action.READ:
            session.read(pieces.pop(0))
            if not pieces:
                session.finish_source()
        else:
            session.write()


def compare_pairs(
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    row: Row,
    example: Example,
    schedule: ReadSchedule,
    result: ParityResult,
) -> None:
    """Add one example's prefix pairs: every row with a target against that of a session that recomputes.

    Two such rows may follow the same target token, the first with less source: a row is identified by all of its text.
    """
    layouts = [
        lay_out(encoder.settings.config, *pair) for pair in encoder.settings.config.layout.split(example, schedule)
    ]
    streamed: dict[tuple[int, ...], Tensor] = {}
    session, *_ = force(model, encoder, row, schedule, layouts[-1])
    session.trace = lambda index, kind, logits: streamed.update({tuple(session.lane.kept_ids()): logits})
    stream_forced(session, row.source, streamed, tuple(layouts[-1].input_ids[:-1].tolist()))
    for layout in layouts:
        logits = training_logits(model, encoder.settings, layout)
        for index in np.flatnonzero(layout.labels != IGNORE_INDEX) - 1:
            result.add(logits[index], streamed[tuple(layout.input_ids[: index + 1].tolist())])


def compare(
    model: PreTrainedModel,
    encoder: ExampleEncoder,
    row: Row,
    result: ParityResult,
    *,
    policy_index: int = 0,
) -> None:
    """Add one example to the result: every scored row of training against the same row of the session."""
    settings = encoder.settings
    example = encoder.encode(row)
    column = row.schedule if settings.config.has_schedule_column else None
    schedule = schedule_of(example, column, settings.config, policy_index)
    if settings.config.layout.splits:
        compare_pairs(model, encoder, row, example, schedule, result)
        return
    layout = lay_out(settings.config, example, schedule)
    logits = training_logits(model, settings, layout)
    session, streamed, last = force(model, encoder, row, schedule, layout)
    stream_forced(session, row.source, streamed, last)
    if settings.config.layout.in_chunks:
        for (place,), predicted in streamed.items():
            result.add(logits[place], predicted)
        fed = session.lane.fed_ids
        result.same_ids &= fed == layout.input_ids[: len(fed)].tolist()
        return
    for index, token, kind in scored_rows(layout):
        result.add(logits[index], streamed[token, kind])
    # Neither look-ahead rows nor source that has not been read are in the cache. Where the source has not been read to
    # its end, the row that predicted the end of sentence was taken back, to be fed again: a target token, or a header.
    ids, kept = layout.input_ids[layout.source_unit < session.num_read].tolist()[:-1], session.lane.kept_ids()
    result.same_ids &= any(kept == ids[: len(ids) - taken_back] for taken_back in (0, 1, example.num_header))
