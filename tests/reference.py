"""What the tests compare with: slow loops written from docs, not from the package, and random examples."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.collator import lay_out as laid_out_by_block
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import Example, SequenceLayout
from simulmask_plugin.policies import Action, ReadSchedule
from simulmask_plugin.text.prompts import plain_prompt

IGNORED = -100


@dataclass(frozen=True)
class Pieces:
    """An example in pieces; a list of token ids per unit."""

    prompt: list[int]
    source: list[list[int]]
    header: list[int]
    target: list[list[int]]
    eos: int
    next_header: tuple[int, ...] = ()

    def example(self) -> Example:
        """The same, as the package holds it."""
        target = [i for unit in self.target for i in unit]
        ids = [*self.prompt, *(i for unit in self.source for i in unit), *self.header, *target, self.eos]
        return Example(
            input_ids=np.asarray(ids),
            num_prompt=len(self.prompt),
            source_lengths=np.asarray([len(unit) for unit in self.source]),
            num_header=len(self.header),
            target_lengths=np.asarray([len(unit) for unit in self.target]),
            next_header=self.next_header,
        )


def pieces_of(
    num_prompt: int, source: list[int], num_header: int, target: list[int], num_next_header: int = 0
) -> Pieces:
    """Pieces of given lengths with a different id for every token: 10.. , 20.. , 300.. , 400.. , 2 and 350.. ."""

    def cut(lengths, first):
        units = []
        for length in lengths:
            units.append(list(range(first, first + length)))
            first += length
        return units

    header = list(range(300, 300 + num_header))
    next_header = tuple(range(350, 350 + num_next_header))
    return Pieces(list(range(10, 10 + num_prompt)), cut(source, 20), header, cut(target, 400), 2, next_header)


@dataclass(frozen=True)
class Row:
    """One row of the laid-out sequence."""

    id: int
    part: str  # prompt, source, header or target, to which the end of sentence belongs
    unit: int  # of the source; -1 elsewhere
    place: int  # in the text, where a look-ahead pair stands once
    sees: int  # source units that it may see
    predicts: int | None = None
    is_look_ahead: bool = False


def lay_out(pieces: Pieces, g: tuple[int, ...], rows: str, look_ahead: list[bool] | None = None) -> list[Row]:
    """Rows of the `prefix` layout, one after the other; `look_ahead` says which units get their pair."""
    everything = len(pieces.source)
    out: list[Row] = []
    place = 0
    for token in pieces.prompt:
        out.append(Row(token, "prompt", -1, place, everything))
        place += 1
    for unit, tokens in enumerate(pieces.source):
        for token in tokens:
            out.append(Row(token, "source", unit, place, everything))
            place += 1
    first_target = pieces.target[0][0]
    for i, token in enumerate(pieces.header):
        predicts = first_target if i == len(pieces.header) - 1 else None
        out.append(Row(token, "header", -1, place, g[0], predicts))
        place += 1
    for t, tokens in enumerate(pieces.target):
        for i, token in enumerate(tokens):
            ends = i == len(tokens) - 1
            if not ends:
                following = tokens[i + 1]
            else:
                following = pieces.target[t + 1][0] if t + 1 < len(pieces.target) else pieces.eos
            if rows == "own_unit":
                sees = g[t]
            elif rows == "query_unit":
                sees = g[t + 1]
            else:
                sees = g[t + 1] if ends else g[t]
            if rows == "look_ahead" and ends and g[t] != g[t + 1] and (look_ahead is None or look_ahead[t]):
                out.append(Row(token, "target", -1, place, g[t], following, is_look_ahead=True))
            out.append(Row(token, "target", -1, place, sees, following))
            place += 1
    out.append(Row(pieces.eos, "target", -1, place, g[-1]))
    return out


def labels(rows: list[Row]) -> list[int]:
    """Label of a row: what the row before it predicts."""
    out = [IGNORED]
    for before in rows[:-1]:
        out.append(IGNORED if before.predicts is None else before.predicts)
    return out


def mask(batch: list[list[Row]], length: int) -> list[list[list[bool]]]:
    """True where the query may attend; beyond its end, a sequence is padding that is read by itself alone."""
    out = []
    for rows in batch:
        grid = []
        for q in range(length):
            line = []
            for k in range(length):
                if q >= len(rows) or k >= len(rows):
                    line.append(k == q)
                elif k > q:
                    line.append(False)
                elif k == q:
                    line.append(True)
                elif rows[k].is_look_ahead:
                    line.append(False)
                elif rows[k].part == "source":
                    line.append(rows[k].unit < rows[q].sees)
                else:
                    line.append(True)
            grid.append(line)
        out.append(grid)
    return out


def alibi_rank(grid: list[list[bool]]) -> list[list[int | None]]:
    """Place of key k for row q: how many keys before it q may attend; None where it may not attend k."""
    out = []
    for line in grid:
        ranks = []
        for k in range(len(line)):
            count = 0
            for j in range(k):
                count += line[j]
            ranks.append(count if line[k] else None)
        out.append(ranks)
    return out


def num_hidden(rows: list[Row]) -> list[int]:
    """Source tokens that a row may not see, by the schedule alone."""
    out = []
    for query in rows:
        count = 0
        for key in rows:
            count += key.part == "source" and key.unit >= query.sees
        out.append(count)
    return out


def positions(pieces: Pieces, rows: list[Row], scheme: str, group_offset: int = 0) -> list[int]:
    """Position of every row."""
    num_source = sum(len(unit) for unit in pieces.source)
    out = []
    for row in rows:
        behind = row.part in ("header", "target")
        out.append(row.place - num_source + group_offset if scheme == "group" and behind else row.place)
    return out


def average_lagging(g: tuple[int, ...], num_source: int, num_target: int) -> float:
    """AL (Ma et al., 2019, section 4.1), over g(1..T)."""
    total, t = 0.0, 0
    while t < num_target:
        total += g[t] - t * num_source / num_target
        t += 1
        if g[t - 1] == num_source:
            break
    return total / t


def actions(g: tuple[int, ...]) -> list[Action]:
    """READ and WRITE in the order in which they happen; the last WRITE is the end of sentence."""
    out, read = [], 0
    for now in g:
        while read < now:
            out.append(Action.READ)
            read += 1
        out.append(Action.WRITE)
    return out


def settings_of(**block) -> ModelSettings:
    """Settings with a short prompt."""
    config = SimulMaskConfig.from_dict(block)
    prompt = plain_prompt("Tr:", "\nAs:", "", "\nUs:")
    return ModelSettings(config, config.layout.prompt(prompt))


def package_rows(pieces: Pieces, g: tuple[int, ...], look_ahead: list[bool] | None = None, **block) -> SequenceLayout:
    """What the package makes of it, under a block with a schedule."""
    config = settings_of(policy="schedule", **block).config
    flags = None if look_ahead is None else np.array(look_ahead)
    return laid_out_by_block(config, pieces.example(), ReadSchedule(g, len(pieces.source)), flags)


def package_mask(layouts: list[SequenceLayout]) -> list[list[list[int]]]:
    """(batch, query, key) of 0 and 1, by way of the collator."""
    batch = SimulMaskCollator(settings_of(policy="offline"), pad_token_id=0).pad(layouts)
    order = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    return may_attend(order, order, batch["source_unit"], batch["num_read"])[:, 0].int().tolist()


NAMES = dict(zip([10, *range(20, 26), 300, 350, *range(400, 404), 2], "PabcdefHNpqrsE", strict=True))
"""Letters for the ids of `pieces_of`: prompt, source, header, next header, target, end of sentence."""


def show(layout: SequenceLayout, *columns: str) -> list[str]:
    """The integers of a layout as text, one column per token; `~` marks a look-ahead row, `.` no label."""
    num_source = len(layout.example.source_lengths)
    pairs = zip(layout.input_ids, layout.source_unit, strict=True)
    lines = [["token", *(NAMES[token] + "~" * int(unit == num_source) for token, unit in pairs)]]
    for name in columns:
        values = getattr(layout, name)
        lines.append([name, *(NAMES.get(i, ".") if name == "labels" else str(i) for i in values)])
    return [" ".join(line) for line in lines]


def shown(text: str) -> list[str]:
    """What `show` gives for a drawing."""
    return [" ".join(line.split()) for line in text.strip().splitlines()]


lengths = st.integers(1, 8)
unit_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=8)


@st.composite
def schedules(draw, num_source=None, num_target=None, least=0):
    """Any g(1..T+1) >= least, and S. Plain numbers: type checks draw at random, which strategies may not."""
    num_source = draw(lengths) if num_source is None else num_source
    num_target = draw(lengths) if num_target is None else num_target
    values = st.lists(st.integers(least, num_source), min_size=num_target + 1, max_size=num_target + 1)
    return tuple(sorted(draw(values))), num_source


@st.composite
def scheduled_pieces(draw, num_next_header=0, least=0):
    """(pieces, g): 1..8 units of 1..6 tokens on either side."""
    source, target = draw(unit_lengths), draw(unit_lengths)
    pieces = pieces_of(draw(st.integers(0, 3)), source, draw(st.integers(1, 3)), target, num_next_header)
    return pieces, draw(schedules(len(source), len(target), least))[0]


def lay_out_slots(pieces, g, rows, slot_length, look_ahead=None) -> list[Row]:
    """Rows of the `slots` layout, segment by segment; a row's `place` is its position."""

    def round_up(length):
        return -(-length // slot_length) * slot_length

    segments = [{"slots": [{"capacity": slot_length, "units": []}], "targets": []}]
    read = 0
    for t, now in enumerate(g):
        for unit in range(read, now):
            segment, length = segments[-1], len(pieces.source[unit])
            slot = segment["slots"][-1]
            used = sum(len(pieces.source[u]) for u in slot["units"])
            if used + length <= slot["capacity"]:
                slot["units"].append(unit)
            elif segment["targets"]:
                segments.append({"slots": [{"capacity": round_up(length), "units": [unit]}], "targets": []})
            elif not slot["units"]:
                slot.update(capacity=round_up(length), units=[unit])
            else:
                segment["slots"].append({"capacity": round_up(length), "units": [unit]})
        read = now
        segments[-1]["targets"].append(t)

    everything, target = len(pieces.source), [*pieces.target, [pieces.eos]]
    out = [Row(token, "prompt", -1, i, everything) for i, token in enumerate(pieces.prompt)]
    position = len(out)
    for number, segment in enumerate(segments):
        if number:
            out += [Row(token, "header", -1, position + i, everything) for i, token in enumerate(pieces.next_header)]
            position += len(pieces.next_header)
        for slot in segment["slots"]:
            tokens = [(unit, token) for unit in slot["units"] for token in pieces.source[unit]]
            out += [Row(token, "source", unit, position + i, everything) for i, (unit, token) in enumerate(tokens)]
            position += slot["capacity"]
        first = target[segment["targets"][0]][0]
        for i, token in enumerate(pieces.header):
            predicts = first if i == len(pieces.header) - 1 else None
            out.append(Row(token, "header", -1, position, g[segment["targets"][0]], predicts))
            position += 1
        for t in segment["targets"]:
            for i, token in enumerate(target[t]):
                if t == len(pieces.target):
                    out.append(Row(token, "target", -1, position, g[t]))
                    break
                ends = i == len(target[t]) - 1
                following = target[t + 1][0] if ends else target[t][i + 1]
                sees = {"own_unit": g[t], "query_unit": g[t + 1]}.get(rows, g[t + 1] if ends else g[t])
                if ends and t == segment["targets"][-1]:
                    sees = g[t]
                elif ends and rows == "look_ahead" and g[t] < g[t + 1] and (look_ahead is None or look_ahead[t]):
                    out.append(Row(token, "target", -1, position, g[t], following, is_look_ahead=True))
                out.append(Row(token, "target", -1, position, sees, following))
                position += 1
    return out
