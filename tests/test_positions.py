"""Positions: what RoPE turns by, and the ranks from which ALiBi measures."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.attention.mask import key_rank
from simulmask_plugin.config.block import ROWS
from simulmask_plugin.layouts.base import prefix_layout
from simulmask_plugin.layouts.positions import position_ids, target_start
from simulmask_plugin.policies import ReadSchedule

POSITIONS = ("contiguous", "modified_alibi", "group")  # of the layout `prefix`


def wait_1(num_prompt=1, source=(1, 2), num_header=1, target=(2, 1)):
    """P a b c H p q~ q r E, the example of test_layout.py."""
    pieces = reference.pieces_of(num_prompt, list(source), num_header, list(target))
    return prefix_layout(pieces.example(), ReadSchedule((1, 2, 2), 2), rows="look_ahead")


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
    assert position_ids(wait_1(), scheme=scheme, group_offset=group_offset).tolist() == expected


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
    ranks = rank_of(wait_1(), "modified_alibi")
    for row, line in enumerate(expected.strip().splitlines()):
        for key, number in enumerate(line.split()[1:]):
            assert number in (".", str(ranks[row, key].item())), (line, key)


def rank_of(layout, scheme):
    """(query, key) ranks of one layout, with the zeros that the collator gives to other schemes."""
    modified = scheme == "modified_alibi"
    position, after_source, num_hidden = (
        torch.from_numpy(values).long()[None]
        for values in (
            position_ids(layout, scheme=scheme),
            layout.after_source * modified,
            layout.num_hidden * modified,
        )
    )
    return key_rank(position, after_source, num_hidden)[0, 0]


@given(reference.scheduled_pieces(), st.sampled_from(ROWS), st.sampled_from(POSITIONS), st.integers(0, 9))
def test_positions_equal_the_reference(scheduled, rows, scheme, group_offset):
    pieces, g = scheduled
    layout = prefix_layout(pieces.example(), ReadSchedule(g, len(pieces.source)), rows=rows)
    expected = reference.positions(pieces, reference.lay_out(pieces, g, rows), scheme, group_offset)
    assert position_ids(layout, scheme=scheme, group_offset=group_offset).tolist() == expected


@given(reference.scheduled_pieces(), st.sampled_from(ROWS))
def test_modified_alibi_is_the_rank_among_the_attended_keys(scheduled, rows):
    pieces, g = scheduled
    expected = reference.lay_out(pieces, g, rows)
    (grid,) = reference.mask([expected], len(expected))
    ranks = rank_of(
        prefix_layout(pieces.example(), ReadSchedule(g, len(pieces.source)), rows=rows), "modified_alibi"
    ).tolist()
    for query, line in enumerate(reference.alibi_rank(grid)):
        for key, rank in enumerate(line):
            assert rank is None or rank == ranks[query][key]


@pytest.mark.parametrize("scheme", ["contiguous", "group"])
def test_rank_is_the_position_for_every_other_scheme(scheme):
    layout = wait_1()
    assert rank_of(layout, scheme).tolist() == [position_ids(layout, scheme=scheme).tolist()] * len(layout.token)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=2), st.integers(0, 50))
def test_group_positions_of_the_target_do_not_depend_on_the_source(source, group_offset):
    short, long = wait_1(), wait_1(source=source)
    positions = [
        position_ids(layout, scheme="group", group_offset=group_offset)[layout.after_source].tolist()
        for layout in (short, long)
    ]
    assert positions[0] == positions[1]


@given(reference.scheduled_pieces(), st.sampled_from(POSITIONS), st.integers(0, 9))
def test_streaming_starts_the_header_where_training_did(scheduled, scheme, group_offset):
    """Once the whole source has arrived; `contiguous` and `modified_alibi` count it."""
    pieces, g = scheduled
    layout = prefix_layout(pieces.example(), ReadSchedule(g, len(pieces.source)), rows="look_ahead")
    first = position_ids(layout, scheme=scheme, group_offset=group_offset)[layout.after_source][0]
    assert first == target_start(
        num_prompt=len(pieces.prompt),
        num_source_tokens=sum(map(len, pieces.source)),
        scheme=scheme,
        group_offset=group_offset,
    )
