"""``simulmask attention``: the attention that a model pays in training and in streaming, on one example."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.attention.families import family_of
from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.commands.arguments import AttentionOptions
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import SequenceLayout
from simulmask_plugin.pictures.picture import (
    LOOK_AHEAD_MARK,
    Picture,
    num_read_text,
    picture_of,
    shorten_prompt,
    visible,
)
from simulmask_plugin.pictures.terminal import console, table, verdict
from simulmask_plugin.policies import ModelDriven, Offline, Policy, ReadSchedule, parse_schedule, roll_out
from simulmask_plugin.streaming.lane import ORDER, Lane
from simulmask_plugin.streaming.parity import TOLERANCE, force, promises_parity, stream_forced
from simulmask_plugin.streaming.parity import training_logits as run_training
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.text.prompts import OFFLINE_LATENCY


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention probabilities of one example, (layers, heads, rows, keys), in the order of the training sequence.

    Attributes:
        layout: of the example.
        schedule: by which it was laid out and streamed.
        training: of the forward pass of training.
        streaming: of the session; nan in rows that it does not feed: the end of sentence, in the layout
            ``interleaved`` the write end before it, and source that no row before it sees.
    """

    layout: SequenceLayout
    schedule: ReadSchedule
    training: Tensor
    streaming: Tensor

    @property
    def fed(self) -> Tensor:
        """True for the rows that streaming feeds, and that are compared."""
        return ~self.streaming.isnan().all(dim=-1).flatten(0, 1).all(dim=0)

    @property
    def differences(self) -> Tensor:
        """The differences of both, (layers, heads, fed rows, keys)."""
        return (self.training - self.streaming)[:, :, self.fed].abs()

    @property
    def max_abs_diff(self) -> float:
        """The largest of them, over layers, heads, rows and keys."""
        return self.differences.max().item()

    @property
    def holds(self) -> bool:
        """Whether that counts as equal."""
        return self.max_abs_diff <= TOLERANCE

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The mean over layers and heads, (rows, keys) each."""
        both = {"training": self.training, "streaming": self.streaming}
        return {name: probabilities.mean(dim=(0, 1)).numpy() for name, probabilities in both.items()}

    def select(self, layer: int | None, head: int | None) -> Attention:
        """Only one layer or head of both; None: all of them.

        Raises:
            ValueError: if the model has no such layer or head.
        """
        picked = [self.training, self.streaming]
        for dimension, (name, index) in enumerate((("layer", layer), ("head", head))):
            if index is None:
                continue
            count = self.training.shape[dimension]
            if not 0 <= index < count:
                raise ValueError(f"--{name} must lie in 0..{count - 1}, got {index}: the model has {count} {name}s.")
            picked = [tensor.narrow(dimension, index, 1) for tensor in picked]
        return Attention(self.layout, self.schedule, *picked)


def compare_attention(
    model: PreTrainedModel, encoder: ExampleEncoder, row: Row, policy: Policy | None = None
) -> Attention:
    """Run training and streaming with the same target, and record what each row attends to.

    Args:
        model: a causal language model in evaluation mode with eager attention.
        encoder: of the model.
        row: the example.
        policy: gives the schedule if the row has none; None: all of the source is read first.

    Raises:
        ValueError: if there is no such comparison, the family returns no attention, or the text or schedule is wrong.
    """
    config = encoder.settings.config
    if config.layout.splits:
        raise ValueError(
            "The attention is compared over whole sentences, but this model was trained with prefix_pairs: true, which "
            "has none; `simulmask parity --model` compares its logits."
        )
    example = encoder.encode(row)
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    if row.schedule is None:
        schedule = roll_out(policy or Offline(), num_source, num_target)
    else:
        schedule = ReadSchedule.from_column(row.schedule, num_source, num_target)
    layout = lay_out(config, example, schedule)
    calls: list[Tensor] = []
    with _recorded(model, calls.append):
        run_training(model, encoder.settings, layout)
    return Attention(layout, schedule, calls[0], _stream(model, encoder, row, schedule, layout))


@contextmanager
def _recorded(model: PreTrainedModel, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Give the attention (layers, heads, rows, keys) of every call to ``take``."""

    def hook(module: PreTrainedModel, inputs: Any, output: Any) -> None:
        if not output.attentions or any(layer is None for layer in output.attentions):
            raise ValueError(
                f"{family_of(model.config).name} returns no attention under our mask, and there is nothing to compare; "
                "`simulmask parity --model` compares its logits."
            )
        take(torch.stack([layer[0] for layer in output.attentions]).float().cpu())

    before = model.config.output_attentions
    model.config.output_attentions = True
    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
        model.config.output_attentions = before


def _stream(
    model: PreTrainedModel, encoder: ExampleEncoder, row: Row, schedule: ReadSchedule, layout: SequenceLayout
) -> Tensor:
    """The attention of streaming, its rows and keys at their places in the training sequence."""
    session, rows, last = force(model, encoder, row, schedule, layout)
    lane = session.lane
    fed: dict[int, tuple[list[int], Tensor]] = {}  # by a row's order: the order of the keys, and its attention

    def take(attention: Tensor) -> None:
        keys = lane.keys[ORDER, : lane.num_keys].tolist()
        for order, probabilities in zip(keys[-attention.shape[2] :], attention.unbind(dim=2), strict=True):
            if order in fed:  # it was fed alone at the end, as its own look-ahead row, and taken back
                keys_then, then = fed[order]
                fed[order - 1] = [*keys_then[:-1], order - 1], then
            fed[order] = keys, probabilities

    with _recorded(model, take):
        stream_forced(session, row.source, rows, last)
    places = _places(layout, encoder.settings.config.layout.orders(layout), lane)
    num_layers, num_heads, _ = next(iter(fed.values()))[1].shape
    size = len(layout.input_ids)
    result = torch.full((num_layers, num_heads, size, size), torch.nan)
    for order, (keys, probabilities) in fed.items():
        if order in places:
            known = [i for i, key in enumerate(keys) if key in places]
            result[:, :, places[order]] = 0
            result[:, :, places[order], [places[keys[i]] for i in known]] = probabilities[:, :, known]
    return result


def _places(layout: SequenceLayout, orders: list[int], lane: Lane) -> dict[int, int]:
    """The place in the training sequence of every row that streaming may have fed, by its order.

    A look-ahead row that stayed in the cache was an inner token of its unit: it is the kept row of training, and the
    one that was fed with it has no place.
    """
    places = {order: place for place, order in enumerate(orders)}
    for order in lane.keys[ORDER, : lane.num_keys].tolist():
        if order not in places:
            places[order] = places.pop(order + 1)
    return places


def run_attention(options: AttentionOptions) -> int:
    """Compare, print and draw; return 1 if a model that promises parity misses it.

    Raises:
        ValueError: if the model, an option or a text is wrong.
    """
    trained = TrainedModel.of(options.model, options.adapter)
    settings = trained.settings().for_pair(options.source_lang, options.target_lang)
    policy, column = _decide(settings, options)
    encoder = ExampleEncoder(trained.tokenizer(), settings)
    model = trained.load(attention="eager")
    row = Row(options.source, options.target, *settings.pair(), column, _latency(settings, options.latency))
    attention = compare_attention(model, encoder, row, policy).select(options.layer, options.head)
    picture = picture_of(encoder.tokenizer, settings, attention.layout, attention.schedule)
    read = attention.schedule
    promised = promises_parity(settings, whole_source=read.num_read[0] == read.num_source)
    heading = (
        f"{_describe('layer', options.layer)}, {_describe('head', options.head)} | "
        f"largest difference {attention.max_abs_diff:.1e} over {int(attention.fed.sum())} of {len(picture.tokens)} rows"
    )
    if options.png is not None:
        _draw(picture, attention.maps, options.png, heading)
    if options.json:
        print(_to_json(picture, attention, promised))
    else:
        _print(picture, attention, heading, promised)
        if options.png is not None:
            console().print(f"Drawn into {options.png}")
    return 0 if attention.holds or not promised else 1


def _draw(picture: Picture, maps: Mapping[str, np.ndarray], png: str, heading: str) -> None:
    """Draw both maps side by side, without most of the prompt."""
    from simulmask_plugin.pictures.drawing import save_attention_png

    short, start = shorten_prompt(picture)
    cut = {name: probabilities[start:, start:] for name, probabilities in maps.items()}
    note = "probability" if not start else f"probability (without the first {start} tokens of the prompt)"
    save_attention_png(short, cut, png, heading, note=note)


def _latency(settings: ModelSettings, given: str | None) -> str | None:
    """The latency for the prompt.

    Raises:
        ValueError: if the layout has none, or it was never trained.
    """
    if not settings.config.layout.names_latency:
        if given is not None:
            raise ValueError(
                f"--latency has no meaning for a model of layout: {settings.config.layout.name}; remove it."
            )
        return None
    if given is None and OFFLINE_LATENCY in (settings.trained_on.latencies or (OFFLINE_LATENCY,)):
        return OFFLINE_LATENCY
    return settings.trained_on.latency(given)


def _decide(settings: ModelSettings, options: AttentionOptions) -> tuple[Policy | None, tuple[int, ...] | None]:
    """The policy or the g to stream with; neither: the model decides, and its text comes whole.

    Raises:
        ValueError: if both are given, or one is wrong.
    """
    is_given = options.policy is not None or options.parameters
    if options.schedule is not None:
        if is_given:
            raise ValueError("Give --schedule, or a policy and its k or n, not both.")
        return None, parse_schedule(options.schedule)
    if settings.config.policy is ModelDriven and not is_given:
        return None, None
    return settings.inference_policy(options.policy, **options.parameters), None


def _describe(name: str, index: int | None) -> str:
    return f"mean of all {name}s" if index is None else f"{name} {index}"


def _to_json(picture: Picture, attention: Attention, promised: bool) -> str:
    maps = attention.maps
    content = {
        "tokens": picture.tokens,
        "regions": picture.regions,
        "look_ahead": [picture.is_look_ahead(row) for row in range(len(picture.tokens))],
        **{name: [None if np.isnan(line).any() else line.tolist() for line in rows] for name, rows in maps.items()},
        "max_abs_diff": attention.max_abs_diff,
        "schedule": list(picture.schedule),
        "promised": promised,
        "holds": attention.holds,
    }
    return json.dumps(content, ensure_ascii=False)


def _print(picture: Picture, attention: Attention, heading: str, promised: bool) -> None:
    """A line for each row of header and target: what share it pays to the source, and how far both are apart."""
    maps = attention.maps
    is_source = np.array([region in ("source", "slot") for region in picture.regions])
    lines = []
    for i, (token, region) in enumerate(zip(picture.tokens, picture.regions, strict=True)):
        rows = [maps[name][i] for name in ("training", "streaming")]
        if region not in ("header", "target") or np.isnan(rows[1]).any():
            continue
        label = f"{LOOK_AHEAD_MARK} {visible(token)}" if picture.is_look_ahead(i) else visible(token)
        shares = [f"{row[is_source].sum():.4f}" for row in rows]
        lines.append((label, region, num_read_text(picture, i), *shares, f"{np.abs(rows[0] - rows[1]).max():.1e}"))
    out = console()
    out.print(heading)
    columns = ("row", "part", "num_read", "to the source: training", "streaming", "difference")
    out.print(table(columns, lines))
    out.print(
        "Parity to", f"{TOLERANCE:g}:", verdict(attention.holds) if promised else "no promise (docs/architecture.md)"
    )
