"""The rows of a layout that hides source: what they see and predict, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int

from simulmask_plugin.layouts.base import IGNORE_INDEX, Example, Flags, Ints, Layout, SequenceLayout
from simulmask_plugin.layouts.conventions import CONVENTIONS, Convention
from simulmask_plugin.options import Must, choices_of
from simulmask_plugin.policies import ReadSchedule
from simulmask_plugin.text.units import CHARACTER, TOKEN, WORD

if TYPE_CHECKING:
    from simulmask_plugin.config.block import SimulMaskConfig as Block


def lay_out_rows(
    example: Example,
    schedule: ReadSchedule,
    convention: Convention,
    look_ahead: Flags | None,
    *,
    token: Int[np.ndarray, " text"],
    position: Int[np.ndarray, " text"],
    opening: Int[np.ndarray, " segments"],
) -> SequenceLayout:
    """Return the rows of a text: one for every token, two for the last one of a unit that gets a look-ahead row.

    The last target token before a new segment has one row whatever the convention: it sees g of its own unit, is kept,
    and predicts the next target token, as the new segment's header does.

    Args:
        example: the tokens.
        schedule: g(1..T+1) over the example's units.
        convention: what the tokens of target unit t see.
        look_ahead: the units that get their look-ahead row where the convention has it; None for all of them.
        token: the text, as indices into the example; negative ones count from the end of the next header.
        position: of each of these.
        opening: the target units, from 0, that open a segment: the header precedes them.
    """
    num_source, g = schedule.num_source, np.asarray(schedule.num_read)
    assert (num_source, len(g)) == (len(example.source_lengths), len(example.target_lengths) + 1), (schedule, example)
    sees, paired, paired_sees = _target_tokens(example.target_lengths, g, convention, look_ahead, opening[1:] - 1)

    header, end, ids = example.source_end, len(example.input_ids), example.all_ids
    start = header + example.num_header
    num_read, labels, copies = (np.full(len(ids), fill) for fill in (num_source, IGNORE_INDEX, 1))
    num_read[header:start], num_read[start:end] = g[0], sees
    learned = start + int(example.target_lengths[: example.num_written].sum())
    labels[learned:end] = ids[learned:end]
    copies[start + paired] = 2

    row = np.repeat(np.arange(len(token)), copies[token])
    first = np.flatnonzero(row[:-1] == row[1:])  # the look-ahead rows; each one's kept row follows it
    token = token[row]
    behind = np.flatnonzero(token[:-1] >= start) + 1  # of a target token, be it its kept row or a new segment
    num_read, source_unit, label = num_read[token], example.source_unit[token], labels[token]
    source_unit[first], num_read[first] = num_source, paired_sees
    if len(opening) > 1:
        num_read[(token >= header) & (token < start)] = np.repeat(g[opening], example.num_header)
    label[behind] = labels[token[behind - 1] + 1]
    return SequenceLayout(example, ids[token], source_unit, num_read, label, np.maximum(token, -1), position[row])


def _target_tokens(
    lengths: Int[np.ndarray, " target_units"],
    g: Int[np.ndarray, " g"],
    convention: Convention,
    look_ahead: Flags | None,
    closing: Int[np.ndarray, " closing"],
) -> tuple[Ints, Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Return what every target token sees, which ones have a look-ahead row, and what that sees.

    ``closing`` are the units that close a segment; the end of sentence counts as a token.
    """
    own, following, last = g[:-1], g[1:], np.cumsum(lengths) - 1
    sees = np.append(np.repeat(following if convention.inner_waits else own, lengths), g[-1])
    sees[last] = following if convention.last_waits else own
    sees[last[closing]] = own[closing]
    has_pair = convention.look_ahead & (own < following)
    if look_ahead is not None:
        has_pair &= look_ahead
    has_pair[closing] = False
    return sees, last[has_pair], own[has_pair]


@dataclass(frozen=True, kw_only=True)
class UnitLayout(Layout):
    """A layout in which a policy shows the source to rows, unit by unit."""

    meant_for = {"look_ahead_rate": {"rows": ("look_ahead",), "target_units": (WORD, CHARACTER)}}
    title_keys: ClassVar[tuple[str, ...]] = ("rows", "positions")

    rows: Literal["look_ahead", "query_unit", "own_unit", "next_unit"] = "look_ahead"
    """What a target token sees as a query: look_ahead, query_unit, own_unit, next_unit (negative control)."""
    look_ahead_rate: Annotated[float, Must("lie in 0..1", lambda rate: 0 <= rate <= 1)] = 0.5
    """look_ahead: share of the target units after which source is read, drawn per epoch, that get a look-ahead row."""

    @property
    def look_ahead_share(self) -> float:
        """As the key has it."""
        return self.look_ahead_rate

    def convention(self, target_units: str) -> Convention:
        """That of the rows; without look-ahead rows the kept rows remain. Over tokens no boundary has to be decided."""
        has_none = self.rows == "look_ahead" and (target_units == TOKEN or not self.look_ahead_rate)
        return CONVENTIONS["next_unit" if has_none else self.rows]

    def promises_parity(self, block: Block, *, whole_source: bool) -> bool:
        """Two settings have a known mismatch, unless all of the source is read first.

        ``query_unit`` shows the inner tokens of a unit one source unit more than streaming can; ``contiguous`` counts
        the whole source, of which a growing cache knows only a part.
        """
        peeks = self.rows == "query_unit" and block.target_units != TOKEN
        return whole_source or not (peeks or self.positions == "contiguous")

    def describe(self, convention: Convention) -> dict[str, str]:
        """With the row convention, and how many look-ahead rows there are."""
        rate = f", {self.look_ahead_rate:.0%} of the units with a look-ahead row" if convention.look_ahead else ""
        return {**super().describe(convention), "rows": self.rows + rate}

    def variants(self, *, alibi: bool) -> Iterator[dict[str, Any]]:
        """Yield all of them."""
        for positions, rows in product(choices_of(type(self), "positions"), choices_of(type(self), "rows")):
            if positions != "modified_alibi" or alibi:
                yield {"positions": positions, "rows": rows}
