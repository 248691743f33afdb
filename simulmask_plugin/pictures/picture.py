"""One example as training sees it: token by token as numbers and as a table, and its mask in the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import ExampleEncoder, Row, features_of, from_feature, to_feature
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.description import describe_policy
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import IGNORE_INDEX, SequenceLayout
from simulmask_plugin.layouts.chunks import NOT_READ_END
from simulmask_plugin.layouts.slots import Slot
from simulmask_plugin.pictures.terminal import table
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.prompts import READ_END
from simulmask_plugin.text.units import Tokenizer


class Region(NamedTuple):
    """How a part of the sequence is drawn.

    Attributes:
        letter: its name without colour.
        color: of its tokens and, as a tint, of the cells in its columns.
        ink: colour of the letter.
        meaning: its name in a legend.
    """

    letter: str
    color: str
    ink: str
    meaning: str

    @property
    def style(self) -> str:
        """The letter on its colour in a terminal, readable on every background."""
        return f"{self.ink} on {self.color}"


REGIONS = {
    "prompt": Region("P", "#8c8c8c", "black", "prompt"),
    "source": Region("S", "#0072b2", "white", "source"),
    "slot": Region("L", "#cc79a7", "black", "slot (reserved for source)"),
    "header": Region("H", "#e69f00", "black", "header"),
    "target": Region("T", "#009e73", "black", "target"),
}
"""The regions of a sequence, in the colours of Okabe and Ito, which are safe for colour-blind readers."""

SEES_ALL = ("prompt", "source", "slot")
"""The regions whose rows see all source before them."""

LOOK_AHEAD_MARK, LOOK_AHEAD_COLOR = "↷", "#d55e00"
PROMPT_TOKENS = 2
"""Number of prompt tokens in the picture of a mask; they all look the same."""
PER_TOKEN = ("tokens", "input_ids", "source_unit", "num_read", "position", "labels")
"""What a picture has of every token, besides its region."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One example after layout; every list has one entry per token, the mask one row and one column.

    Attributes:
        tokens: text of the tokens.
        input_ids: their ids.
        source_unit: index of the source unit, -1 outside the source, S for a look-ahead row.
        num_read: source units that the token may see as a query, S for "all".
        position: position ids.
        labels: target of the row before, -100 for none, -101 for any token except the end of read.
        regions: a key of `REGIONS`; source in a slot has the region slot.
        mask: True where the row may attend to the column.
        schedule: g(1..T+1).
        num_source: S, the number of source units.
        slots: the slots with source, in the layout ``slots``.
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
    slots: list[Slot]

    def is_look_ahead(self, row: int) -> bool:
        """Whether the row decides if its unit is complete; no other row sees it."""
        return self.source_unit[row] == self.num_source

    def slot_number(self, row: int) -> int:
        """The number, from 1, of the slot that a row is in; 0 outside the slots."""
        return next((number for number, slot in enumerate(self.slots, 1) if slot.first <= row < slot.end), 0)

    def legend(self) -> list[Region]:
        """The regions that occur, in the order of `REGIONS`."""
        return [region for name, region in REGIONS.items() if name in self.regions]

    @property
    def has_look_ahead(self) -> bool:
        """Whether there is a look-ahead row."""
        return any(map(self.is_look_ahead, range(len(self.tokens))))

    @property
    def hidden(self) -> np.ndarray:
        """True where a row may not attend to an earlier column; nowhere if the mask is plain causal."""
        return np.tril(~self.mask)


def draw(tokenizer: Tokenizer, settings: ModelSettings, row: Row, *, seed: int = 0) -> Picture:
    """Lay out a row of data, or the longest of its prefix pairs, with the collator of training in the first epoch."""
    example = ExampleEncoder(tokenizer, settings).encode(row)
    column = row.schedule if settings.config.has_schedule_column else None
    collator = SimulMaskCollator(settings, pad_token_id=tokenizer.eos_token_id, seed=seed)
    schedule, _ = collator.sampler.draw(*from_feature(to_feature(example, column)), epoch=0)
    *_, feature = features_of(example, column, settings.config)
    return picture_of(tokenizer, settings, collator.lay_out(feature), schedule)


def picture_of(
    tokenizer: Tokenizer, settings: ModelSettings, layout: SequenceLayout, schedule: ReadSchedule
) -> Picture:
    """The picture of an example that was laid out with a schedule."""
    batch = SimulMaskCollator(settings, pad_token_id=tokenizer.eos_token_id).pad([layout])
    order = torch.arange(len(layout.input_ids))[None]
    mask = may_attend(order, order, batch["source_unit"], batch["num_read"])[0, 0].numpy()
    lists = {name: batch[name][0].tolist() for name in ("input_ids", "source_unit", "num_read", "labels")}
    return Picture(
        tokens=[token_text(tokenizer, token) for token in lists["input_ids"]],
        position=batch["position_ids"][0].tolist(),
        regions=settings.config.layout.regions(layout),
        mask=mask,
        schedule=schedule.num_read,
        num_source=schedule.num_source,
        slots=settings.config.layout.slots(layout),
        **lists,
    )


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Text of a token, or its vocabulary piece if it is a part of a character."""
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.convert_ids_to_tokens([token])[0]


def label_text(tokenizer: Tokenizer, label: int) -> str:
    """What the row before a label predicts: a token, nothing, or any token except the end of read."""
    if label == IGNORE_INDEX:
        return ""
    return f"not {READ_END}" if label == NOT_READ_END else visible(token_text(tokenizer, label))


def visible(text: str) -> str:
    """The text with visible symbols for its white space."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def to_json(picture: Picture) -> str:
    """The picture as one JSON object."""
    content = {name: getattr(picture, name) for name in PER_TOKEN} | {
        "region": picture.regions,
        "mask": ["".join("1" if cell else "0" for cell in row) for row in picture.mask],
        "schedule": list(picture.schedule),
    }
    return json.dumps(content, ensure_ascii=False)


def num_read_text(picture: Picture, row: int) -> str:
    """How many source units a row may see; "all" for prompt and source, and if nothing is hidden from any row."""
    return "all" if picture.regions[row] in SEES_ALL or not picture.hidden.any() else str(picture.num_read[row])


def region_tag(picture: Picture, row: int) -> str:
    """The letter of a token's region, and the number of its slot."""
    return f"{REGIONS[picture.regions[row]].letter}{picture.slot_number(row) or ''}"


def slot_text(number: int, slot: Slot) -> str:
    """How full a slot is, e.g. "slot 1 (2 of 3 positions)"."""
    return f"slot {number} ({slot.end - slot.first} of {slot.reserved} positions)"


def region_text(picture: Picture, row: int) -> str:
    """The name of a token's region or its slot, and whether it is a look-ahead row."""
    number = picture.slot_number(row)
    name = slot_text(number, picture.slots[number - 1]) if number else picture.regions[row]
    return f"{name}, look-ahead" if picture.is_look_ahead(row) else name


def token_table(picture: Picture, tokenizer: Tokenizer) -> Table:
    """A table with one line per token; the last column is what its row predicts."""
    rows = []
    predicted = [*picture.labels[1:], IGNORE_INDEX]
    for i, (token, label) in enumerate(zip(picture.tokens, predicted, strict=True)):
        rows.append(
            (
                str(i),
                visible(token),
                str(picture.input_ids[i]),
                Text(f" {region_tag(picture, i)} ", style=REGIONS[picture.regions[i]].style),
                region_text(picture, i),
                str(picture.source_unit[i]),
                num_read_text(picture, i),
                str(picture.position[i]),
                label_text(tokenizer, label),
            )
        )
    return table(("", "token", "id", "", "region", "source_unit", "num_read", "position", "predicts"), rows)


def shorten_prompt(picture: Picture) -> tuple[Picture, int]:
    """The picture without the first tokens of the prompt, which every row sees, and how many were removed."""
    start = max(0, picture.regions.count("prompt") - PROMPT_TOKENS)
    short = replace(
        picture,
        **{name: getattr(picture, name)[start:] for name in (*PER_TOKEN, "regions")},
        slots=[slot._replace(first=slot.first - start, end=slot.end - start) for slot in picture.slots],
        mask=picture.mask[start:, start:],
    )
    return short, start


def mask_text(picture: Picture, width: int) -> Text:
    """The mask, one line per row: a block in the column's colour where it may attend, a dot where it may not.

    Rows and columns have the letters of their regions.

    Cells are drawn without gaps if they would not fit into the width of the terminal otherwise.
    """
    labels = [visible(token) for token in picture.tokens]
    tags = [region_tag(picture, row) for row in range(len(labels))]
    longest, longest_tag = max(map(cell_len, labels)), max(map(len, tags))
    left = longest + longest_tag + 4
    space = " " if left + 2 * len(labels) <= width else ""
    text = Text(" " * left, no_wrap=True)
    regions = [REGIONS[name] for name in picture.regions]
    for region in regions:
        text.append(region.letter, style=region.style).append(space)
    text.append("\n")
    for row, (label, region) in enumerate(zip(labels, regions, strict=True)):
        text.append(f"{set_cell_size(label, longest)} ").append(tags[row].ljust(longest_tag), style=region.style)
        text.append(f" {LOOK_AHEAD_MARK} " if picture.is_look_ahead(row) else "   ", style=LOOK_AHEAD_COLOR)
        for column in range(row + 1):
            if picture.mask[row, column]:
                text.append("■", style=regions[column].color)
            else:
                text.append("·", style="dim")
            text.append(space)
        text.append("\n")
    return text.append_text(_legend(picture))


def _legend(picture: Picture) -> Text:
    """The meaning of letters, colours and marks, and in the layout ``slots`` how full each slot is."""
    text = Text(no_wrap=True)
    for region in picture.legend():
        text.append(f" {region.letter} ", style=region.style).append(f" {region.meaning}   ")
    text.append("■ may attend")
    if picture.hidden.any():
        text.append("   · may not attend")
    if picture.has_look_ahead:
        text.append(f"   {LOOK_AHEAD_MARK} look-ahead row")
    if picture.slots:
        text.append("\n" + "   ".join(slot_text(number, slot) for number, slot in enumerate(picture.slots, 1)))
    return text


def title(config: SimulMaskConfig) -> str:
    """The settings that decide what a picture looks like, in one line."""
    layout = config.layout
    policy = config.policies[0].title if len(config.policies) == 1 else describe_policy(config)
    return " | ".join([policy, f"layout {layout.name}", *layout.title()])


def describe_schedule(picture: Picture, config: SimulMaskConfig) -> str:
    """The schedule in one line, and in a second the number of prefix pairs."""
    values = " ".join(map(str, picture.schedule))
    line = f"g(1..T+1) = {values} (source units read before each target unit and before the end of sentence)"
    if not config.layout.splits:
        return line
    return f"{line}\nprefix pairs: {len(set(picture.schedule))}, one per WRITE; this is the last and longest"
