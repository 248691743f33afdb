"""One example as training sees it, token by token: as numbers, as a table, and its mask in the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from simulmask_plugin.collator import SimulMaskCollator
from simulmask_plugin.config import CHUNKED, ModelSettings, SimulMaskConfig
from simulmask_plugin.features import ExampleEncoder, Row, features_of, from_feature, to_feature
from simulmask_plugin.layout import IGNORE_INDEX, SequenceLayout
from simulmask_plugin.masks import may_attend
from simulmask_plugin.schedule import ReadSchedule
from simulmask_plugin.terminal import table
from simulmask_plugin.units import Tokenizer

STYLES = {"prompt": "bright_black", "source": "blue", "header": "yellow", "target": "green"}
"""The regions of a sequence, in the colours of a terminal."""

LOOK_AHEAD_STYLE = "red"
LOOK_AHEAD_MARK = "↷"
PROMPT_TOKENS = 2
"""Tokens of a prompt that the pictures of a mask show; they all look the same."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One example, laid out; every list has an entry per token, and the mask a row and a column.

    Attributes:
        tokens: text of the tokens.
        input_ids: their ids.
        source_unit: index of the source unit, -1 outside the source, S for a look-ahead row.
        num_read: source units that the token may see as a query, S for "all".
        position: position ids.
        labels: target of the row before, -100 where there is none.
        regions: prompt, source, header or target.
        mask: True where the row may attend to the column.
        schedule: g(1..T+1).
        num_source: S, the number of source units.
    """

    tokens: list[str]
    input_ids: list[int]
    source_unit: list[int]
    num_read: list[int]
    position: list[int]
    labels: list[int]
    regions: list[str]
    mask: np.ndarray
    schedule: tuple[int, ...]
    num_source: int

    def is_look_ahead(self, row: int) -> bool:
        """Whether a row decides if its unit is complete, and is seen by no other."""
        return self.source_unit[row] == self.num_source


def draw(tokenizer: Tokenizer, settings: ModelSettings, row: Row, *, seed: int = 0) -> Picture:
    """Lay out a row of data, or the longest of its prefix pairs, with the collator of training, first epoch.

    Raises:
        ValueError: if the row cannot be encoded or its schedule is wrong.
    """
    example = ExampleEncoder(tokenizer, settings).encode(row)
    column = row.schedule if settings.config.has_schedule_column else None
    collator = SimulMaskCollator(settings, pad_token_id=tokenizer.eos_token_id, seed=seed)
    schedule, _ = collator.sampler.draw(*from_feature(to_feature(example, column)), epoch=0)
    *_, feature = features_of(example, column, settings.config)
    return picture_of(tokenizer, settings, collator.lay_out(feature), schedule)


def picture_of(
    tokenizer: Tokenizer, settings: ModelSettings, layout: SequenceLayout, schedule: ReadSchedule
) -> Picture:
    """The picture of an example that has been laid out by a schedule."""
    batch = SimulMaskCollator(settings, pad_token_id=tokenizer.eos_token_id).pad([layout])
    order = torch.arange(len(layout.input_ids))[None]
    mask = may_attend(order, order, batch["source_unit"], batch["num_read"])[0, 0].numpy()
    lists = {name: batch[name][0].tolist() for name in ("input_ids", "source_unit", "num_read", "labels")}
    return Picture(
        tokens=[token_text(tokenizer, token) for token in lists["input_ids"]],
        position=batch["position_ids"][0].tolist(),
        regions=regions(layout),
        mask=mask,
        schedule=schedule.num_read,
        num_source=schedule.num_source,
        **lists,
    )


def regions(layout: SequenceLayout) -> list[str]:
    """Name the region of every token."""
    if layout.parts:
        return list(layout.parts)
    example = layout.example
    starts = [example.num_prompt, example.source_end, example.source_end + example.num_header]
    return [list(STYLES)[place] for place in np.searchsorted(starts, layout.token, side="right")]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Text of a token, or its vocabulary piece where it is a part of a character."""
    text = tokenizer.decode([token])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.convert_ids_to_tokens([token])[0]


def visible(text: str) -> str:
    """The text with its white space drawn."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def to_json(picture: Picture) -> str:
    """The picture as one JSON object."""
    content = {
        "tokens": picture.tokens,
        "input_ids": picture.input_ids,
        "source_unit": picture.source_unit,
        "num_read": picture.num_read,
        "position": picture.position,
        "labels": picture.labels,
        "mask": ["".join("1" if cell else "0" for cell in row) for row in picture.mask],
        "schedule": list(picture.schedule),
    }
    return json.dumps(content, ensure_ascii=False)


def num_read_text(picture: Picture, row: int) -> str:
    """The source units that a row may see; "all" for prompt and source."""
    return "all" if picture.regions[row] in ("prompt", "source") else str(picture.num_read[row])


def token_table(picture: Picture, tokenizer: Tokenizer) -> Table:
    """A table with a line per token."""
    rows = []
    for i, (token, region) in enumerate(zip(picture.tokens, picture.regions, strict=True)):
        label = picture.labels[i]
        rows.append(
            (
                str(i),
                Text(visible(token), style=STYLES[region]),
                str(picture.input_ids[i]),
                f"{region}, look-ahead" if picture.is_look_ahead(i) else region,
                str(picture.source_unit[i]),
                num_read_text(picture, i),
                str(picture.position[i]),
                "" if label == IGNORE_INDEX else visible(token_text(tokenizer, label)),
            )
        )
    return table(("", "token", "id", "part", "source_unit", "num_read", "position", "label"), rows)


def shorten_prompt(picture: Picture) -> tuple[Picture, int]:
    """The picture without the prompt's first tokens, which every row sees, and how many these are."""
    start = max(0, picture.regions.count("prompt") - PROMPT_TOKENS)
    short = replace(
        picture,
        tokens=picture.tokens[start:],
        input_ids=picture.input_ids[start:],
        source_unit=picture.source_unit[start:],
        num_read=picture.num_read[start:],
        position=picture.position[start:],
        labels=picture.labels[start:],
        regions=picture.regions[start:],
        mask=picture.mask[start:, start:],
    )
    return short, start


def mask_text(picture: Picture, width: int) -> Text:
    """The mask, a line per row: a block where it may attend, in the colour of the column, a dot where it may not.

    Args:
        picture: what is drawn.
        width: of the terminal; cells stand close together if that makes them fit.
    """
    labels = [visible(token) for token in picture.tokens]
    longest = max(cell_len(label) for label in labels)
    space = " " if longest + 3 + 2 * len(labels) <= width else ""
    text = Text(no_wrap=True)
    for row, label in enumerate(labels):
        text.append(set_cell_size(label, longest), style=STYLES[picture.regions[row]])
        text.append(f" {LOOK_AHEAD_MARK} " if picture.is_look_ahead(row) else "   ", style=LOOK_AHEAD_STYLE)
        for column in range(row + 1):
            if picture.mask[row, column]:
                text.append(f"■{space}", style=STYLES[picture.regions[column]])
            else:
                text.append(f"·{space}", style="dim")
        text.append("\n")
    for region, style in STYLES.items():
        text.append("■ ", style=style).append(f"{region}   ")
    return text.append(f"· may not attend   {LOOK_AHEAD_MARK} look-ahead row")


def title(config: SimulMaskConfig) -> str:
    """The settings that decide what a picture looks like, in one line."""
    parameters = [f"{key}={getattr(config, key)}" for key in ("k", "n") if getattr(config, key) is not None]
    policy = " ".join([config.policy, *parameters])
    rows = ["prefix pairs" if config.prefix_pairs else f"rows {config.rows}"] * (config.layout not in CHUNKED)
    return " | ".join([policy, f"layout {config.layout}", *rows, f"positions {config.positions}"])


def describe_schedule(picture: Picture, config: SimulMaskConfig) -> str:
    """The schedule in one line, and in another how many prefix pairs it makes."""
    values = " ".join(map(str, picture.schedule))
    line = f"g(1..T+1) = {values} (source units read before each target unit and before the end of sentence)"
    if not config.prefix_pairs:
        return line
    return f"{line}\nprefix pairs: {len(set(picture.schedule))}, one per WRITE; this is the last and longest"
