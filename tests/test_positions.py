"""Positions: what RoPE turns by, and the ranks from which ALiBi measures."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.attention.mask import key_rank
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.layouts.positions import SCHEMES, scheme_of


def wait_1(scheme, group_offset=0, source=(1, 2)):
    """P a b c H p q~ q r E, the example of test_layout.py."""
    return laid_out(reference.pieces_of(1, list(source), 1, [2, 1]), (1, 2, 2), "look_ahead", scheme, group_offset)


def laid_out(pieces, g, rows, scheme, group_offset=0):
    offset = {"group_offset": group_offset} if scheme == "group" else {}
    return reference.package_rows(pieces, g, rows=rows, positions=scheme, **offset)


@pytest.mark.parametrize(
    "scheme, group_offset, positions",
    [
        #                    P  a  b  c  H  p  q~ q  r  E
        ("contiguous", 0, "  0  1  2  3  4  5  6  6  7  8"),
        ("modified_alibi", 0, "0 1 2  3  4  5  6  6  7  8"),
        ("group", 0, "       0  1  2  3  1  2  3  3  4  5"),
        ("group", 4, "       0  1  2  3  5  6  7  7  8  9"),
    ],
)
def test_golden_positions(scheme, group_offset, positions):
    expected = [int(number) for number in positions.split()]
    assert wait_1(scheme, group_offset).position.tolist() == expected


def test_golden_ranks_of_modified_alibi():
    """Rows that see one of the two source units stand as if the other were not there; dots are not attended."""
    expected = """
        P    0
        a    0 1
        b    0 1 2
        c    0 1 2 3
        H    0 1 . . 2
        p    0 1 . . 2 3
        q~   0 1 . . 2 3 4
        q    0 1 2 3 4 5 . 6
        r    0 1 2 3 4 5 . 6 7
        E    0 1 2 3 4 5 . 6 7 8"""
    ranks = rank_of(wait_1("modified_alibi"))
    for row, line in enumerate(expected.strip().splitlines()):
        for key, number in enumerate(line.split()[1:]):
            assert number in (".", str(ranks[row, key].item())), (line, key)


def rank_of(layout):
    """(query, key) ranks of one layout, by way of the collator."""
    batch = SimulMaskCollator(reference.settings_of(policy="offline"), pad_token_id=0).pad([layout])
    return key_rank(batch["position_ids"], batch["after_source"], batch["num_hidden"])[0, 0]


@given(
    reference.scheduled_pieces(), st.sampled_from(sorted(CONVENTIONS)), st.sampled_from([*SCHEMES]), st.integers(0, 9)
)
def test_positions_equal_the_reference(scheduled, rows, scheme, group_offset):
    pieces, g = scheduled
    expected = reference.positions(pieces, reference.lay_out(pieces, g, rows), scheme, group_offset)
    assert laid_out(pieces, g, rows, scheme, group_offset).position.tolist() == expected


@given(reference.scheduled_pieces(), st.sampled_from(sorted(CONVENTIONS)))
def test_modified_alibi_is_the_rank_among_the_attended_keys(scheduled, rows):
    pieces, g = scheduled
    expected = reference.lay_out(pieces, g, rows)
    (grid,) = reference.mask([expected], len(expected))
    ranks = rank_of(laid_out(pieces, g, rows, "modified_alibi")).tolist()
    for query, line in enumerate(reference.alibi_rank(grid)):
        for key, rank in enumerate(line):
            assert rank is None or rank == ranks[query][key]


@pytest.mark.parametrize("scheme", ["contiguous", "group"])
def test_rank_is_the_position_for_every_other_scheme(scheme):
    layout = wait_1(scheme)
    assert rank_of(layout).tolist() == [layout.position.tolist()] * len(layout.token)


@given(reference.scheduled_pieces(), st.sampled_from([*SCHEMES]), st.integers(0, 9))
def test_streaming_measures_as_training_did(scheduled, scheme, group_offset):
    """From every target row to every key before it; for `contiguous` once the whole source has arrived."""
    pieces, g = scheduled
    if scheme == "contiguous":
        g = (len(pieces.source),) * len(g)
    layout = laid_out(pieces, g, "look_ahead", scheme, group_offset)
    behind = layout.after_source
    visible = np.cumsum([0, *map(len, pieces.source)])[layout.num_read[behind]]
    one_row = scheme_of(scheme, group_offset=group_offset).behind_source
    hidden = 0 * visible if layout.num_hidden is None else layout.num_hidden[behind]
    start = layout.position[behind][0] - len(pieces.prompt)
    streamed = [one_row(None, num_visible) for num_visible in visible.tolist()]
    assert [first - (taken_away or 0) for first, taken_away in streamed] == (start - hidden).tolist()
    assert len({first for first, _ in streamed}) == 1  # rows are each other's keys
