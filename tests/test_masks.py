"""The mask, typed by hand, and against three loops. Rows are queries, columns are keys, 1 means may attend."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.layouts.conventions import CONVENTIONS


def grid(text):
    """The grid of a drawing, without the names of its rows; dots and what is left out on the right are zeros."""
    rows = [line.split()[1:] for line in text.strip().splitlines()]
    return [[int(cell == "1") for cell in row] + [0] * (len(rows) - len(row)) for row in rows]


# Source units a | b c, target units p q | r.
WAIT_1 = {
    "look_ahead": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 . . 1
        p  1 1 . . 1 1
        q~ 1 1 . . 1 1 1
        q  1 1 1 1 1 1 . 1
        r  1 1 1 1 1 1 . 1 1
        E  1 1 1 1 1 1 . 1 1 1""",
    "query_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 . . 1
        p  1 1 1 1 1 1
        q  1 1 1 1 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
    "own_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 . . 1
        p  1 1 . . 1 1
        q  1 1 . . 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
    "next_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 . . 1
        p  1 1 . . 1 1
        q  1 1 1 1 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
}


@pytest.mark.parametrize("rows", CONVENTIONS)
def test_golden_wait_1_with_units_of_two_tokens(rows):
    pieces = reference.pieces_of(1, [1, 2], 1, [2, 1])
    layout = reference.package_rows(pieces, (1, 2, 2), rows=rows)
    assert reference.package_mask([layout]) == [grid(WAIT_1[rows])]


# Source a b c, target p q r, a token each.
WAIT_1_LOOK_AHEAD = """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 . . 1
        p~ 1 1 . . 1 1
        p  1 1 1 . 1 . 1
        q~ 1 1 1 . 1 . 1 1
        q  1 1 1 1 1 . 1 . 1
        r  1 1 1 1 1 . 1 . 1 1
        E  1 1 1 1 1 . 1 . 1 1 1"""
WAIT_2 = {
    "look_ahead": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p~ 1 1 1 . 1 1
        p  1 1 1 1 1 . 1
        q  1 1 1 1 1 . 1 1
        r  1 1 1 1 1 . 1 1 1
        E  1 1 1 1 1 . 1 1 1 1""",
    "query_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p  1 1 1 1 1 1
        q  1 1 1 1 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
    "own_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p  1 1 1 . 1 1
        q  1 1 1 1 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
}
WAIT_2["next_unit"] = WAIT_2["query_unit"]  # the same where every unit is one token
READ_2 = {
    "look_ahead": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p  1 1 1 . 1 1
        q~ 1 1 1 . 1 1 1
        q  1 1 1 1 1 1 . 1
        r  1 1 1 1 1 1 . 1 1
        E  1 1 1 1 1 1 . 1 1 1""",
    "query_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p  1 1 1 . 1 1
        q  1 1 1 1 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
    "own_unit": """
        P  1
        a  1 1
        b  1 1 1
        c  1 1 1 1
        H  1 1 1 . 1
        p  1 1 1 . 1 1
        q  1 1 1 . 1 1 1
        r  1 1 1 1 1 1 1 1
        E  1 1 1 1 1 1 1 1 1""",
}
READ_2["next_unit"] = READ_2["query_unit"]


def three_by_three(g, rows):
    pieces = reference.pieces_of(1, [1, 1, 1], 1, [1, 1, 1])
    return reference.package_mask([reference.package_rows(pieces, g, rows=rows)])[0]


THREE_BY_THREE = {
    (1, 2, 3, 3): {"look_ahead": WAIT_1_LOOK_AHEAD},
    (2, 3, 3, 3): WAIT_2,
    (2, 2, 3, 3): READ_2,
}


@pytest.mark.parametrize("g, rows", [(g, rows) for g, grids in THREE_BY_THREE.items() for rows in grids])
def test_golden_masks_of_units_of_one_token(g, rows):
    assert three_by_three(g, rows) == grid(THREE_BY_THREE[g][rows])


@pytest.mark.parametrize("rows", CONVENTIONS)
def test_offline_is_plain_causal_attention(rows):
    assert three_by_three((3, 3, 3, 3), rows) == np.tri(9, dtype=int).tolist()


@given(st.lists(reference.scheduled_pieces(), min_size=1, max_size=3), st.sampled_from(sorted(CONVENTIONS)))
def test_mask_of_a_padded_batch_equals_three_loops(batch, rows):
    layouts = [reference.package_rows(pieces, g, rows=rows) for pieces, g in batch]
    expected = [reference.lay_out(pieces, g, rows) for pieces, g in batch]
    length = max(len(layout.input_ids) for layout in layouts)
    mask = np.array(reference.package_mask(layouts))
    loops = np.array(reference.mask(expected, length), dtype=int)
    for i, rows_of_one in enumerate(expected):
        n = len(rows_of_one)
        assert (mask[i, :n] == loops[i, :n]).all()
        assert not mask[i, :, n:][~np.eye(length, dtype=bool)[:, n:]].any()  # no row reads padding but its own
        assert mask[i].diagonal().all()  # no row is without a key


@given(reference.scheduled_pieces(), st.sampled_from(sorted(CONVENTIONS)), st.randoms(use_true_random=False))
def test_mask_does_not_depend_on_the_order_of_arrival(scheduled, rows, random):
    """Keys in any order, compared by their place in the training sequence: the columns move, and nothing else."""
    pieces, g = scheduled
    layout = reference.package_rows(pieces, g, rows=rows)
    order = torch.arange(len(layout.token))[None]
    source_unit, num_read = (torch.from_numpy(x)[None] for x in (layout.source_unit, layout.num_read))
    arrival = list(range(len(layout.token)))
    random.shuffle(arrival)
    moved = may_attend(order, order[:, arrival], source_unit[:, arrival], num_read)
    assert torch.equal(moved, may_attend(order, order, source_unit, num_read)[..., arrival])


def test_shapes_are_checked_while_tests_run():
    """By the import hook in conftest.py."""
    order = torch.arange(3)[None]
    with pytest.raises(TypeCheckError, match="may_attend"):
        may_attend(order, order, order[0], order)
