"""Source and target in chunks, one after the other; `.` no label, `!R` a source unit that ends no chunk."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.layouts.base import IGNORE_INDEX
from simulmask_plugin.layouts.chunks import NOT_READ_END, Interleaved, Turns, chunks_of, join_chunks
from simulmask_plugin.layouts.conventions import CONVENTIONS
from simulmask_plugin.policies import ReadSchedule

# P = prompt, a..d = source, R = read end, p..s = target, W = write end, E = end of sentence; T U and V X in turns
IDS = {10: "P", 20: "a", 21: "b", 22: "c", 23: "d", 300: "R", 400: "p", 401: "q", 402: "r", 403: "s", 350: "W", 2: "E"}
TURNS = IDS | {300: "T", 301: "U", 350: "V", 351: "X"}
LABELS = {IGNORE_INDEX: ".", NOT_READ_END: "!R"}


def laid_out(pieces, g, layout):
    return layout.lay_out(pieces.example(), ReadSchedule(g, len(pieces.source)), CONVENTIONS["next_unit"])


def lay_out(source, target, g, layout, num_header=1):
    return laid_out(reference.pieces_of(1, source, num_header, target, num_header), g, layout)


def show(layout, names):
    """The tokens of a layout, what they belong to, and the labels."""
    columns = {
        "token": [names[i] for i in layout.input_ids],
        "part": [part[0] for part in layout.parts],
        "unit": layout.source_unit,
        "labels": [(names | LABELS)[i] for i in layout.labels],
    }
    return [" ".join(str(value) for value in [name, *values]) for name, values in columns.items()]


# Source a b | c d (c d one unit) | ..., target p q | r
GOLDEN = {
    "interleaved, loss on all": (
        {"layout": Interleaved()},
        ([1, 1, 2], [2, 1], (2, 3, 3)),
        """
        token  P  a  b  R  p  q  W  c  d  R  r  W  E
        part   p  s  s  h  t  t  h  s  s  h  t  h  t
        unit  -1  0  1 -1 -1 -1 -1  2  2 -1 -1 -1 -1
        labels .  a  b  R  p  q  W  c  d  R  r  W  E""",
    ),
    "interleaved, loss on the target": (
        {"layout": Interleaved(loss_on="target")},
        ([1, 2, 1], [2, 1], (2, 3, 3)),
        """
        token  P  a  b  c  R  p  q  W  d  R  r  W  E
        part   p  s  s  s  h  t  t  h  s  h  t  h  t
        unit  -1  0  1  1 -1 -1 -1 -1  2 -1 -1 -1 -1
        labels .  . !R  .  R  p  q  W  .  R  r  W  E""",
    ),
    "interleaved, the end of sentence reads the rest": (
        {"layout": Interleaved(loss_on="target")},
        ([1, 1, 1, 1], [1, 2], (1, 1, 4)),
        """
        token  P  a  R  p  q  r  W  b  c  d  R  W  E
        part   p  s  h  t  t  t  h  s  s  s  h  h  t
        unit  -1  0 -1 -1 -1 -1 -1  1  2  3 -1 -1 -1
        labels .  .  R  p  q  r  W  . !R !R  R  W  E""",
    ),
    "interleaved, the source is never read to its end": (
        {"layout": Interleaved()},
        ([1, 1, 1], [1], (1, 2)),
        """
        token  P  a  R  p  W  b  R  W  E
        part   p  s  h  t  h  s  h  h  t
        unit  -1  0 -1 -1 -1  1 -1 -1 -1
        labels .  a  R  p  W  b  R  W  E""",
    ),
    "interleaved, offline": (
        {"layout": Interleaved()},
        ([1, 2], [2], (2, 2)),
        """
        token  P  a  b  c  R  p  q  W  E
        part   p  s  s  s  h  t  t  h  t
        unit  -1  0  1  1 -1 -1 -1 -1 -1
        labels .  a  b  c  R  p  q  W  E""",
    ),
    "turns": (
        {"layout": Turns(), "num_header": 2},
        ([1, 1, 2], [2, 1], (2, 3, 3)),
        """
        token  P  a  b  T  U  p  q  V  X  c  d  T  U  r  E
        part   p  s  s  h  h  t  t  h  h  s  s  h  h  t  t
        unit  -1  0  1 -1 -1 -1 -1 -1 -1  2  2 -1 -1 -1 -1
        labels .  .  .  .  .  p  q  V  .  .  .  .  .  r  E""",
    ),
    "turns, the end of sentence reads the rest": (
        {"layout": Turns(), "num_header": 2},
        ([1, 1, 1], [1], (1, 3)),
        """
        token  P  a  T  U  p  V  X  b  c  T  U  E
        part   p  s  h  h  t  h  h  s  s  h  h  t
        unit  -1  0 -1 -1 -1 -1 -1  1  2 -1 -1 -1
        labels .  .  .  .  p  V  .  .  .  .  .  E""",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    options, args, expected = GOLDEN[name]
    layout = lay_out(*args, **options)
    lines = [" ".join(line.split()) for line in expected.strip().splitlines()]
    assert show(layout, IDS if options["layout"].special_tokens else TURNS) == lines


CHUNKS = {
    (1, 2, 3, 3): [(1, 1), (1, 1), (1, 1)],
    (2, 2, 3, 3): [(2, 2), (1, 1)],
    (3, 3, 3, 3): [(3, 3)],
    (1, 1, 1, 3): [(1, 3), (2, 0)],
    (1, 3, 3, 3): [(1, 1), (2, 2)],
    (1, 1, 2, 2): [(1, 2), (1, 1)],
    (3,): [(3, 0)],
}


@pytest.mark.parametrize("g", CHUNKS)
def test_golden_chunks(g):
    assert chunks_of(ReadSchedule(g, 3)) == CHUNKS[g]


@given(reference.schedules(least=1))
def test_chunks_are_the_actions_of_the_schedule(schedule):
    g, num_source = schedule
    chunks = chunks_of(ReadSchedule(g, num_source))
    assert sum(read for read, _ in chunks) == g[-1]
    assert all(read > 0 for read, _ in chunks)
    assert all(written > 0 for _, written in chunks[:-1])
    told = []  # g(1..T) again
    read = 0
    for num_read, num_written in chunks:
        read += num_read
        told += [read] * num_written
    assert tuple(told) == g[:-1]


@pytest.mark.parametrize("g", [(0, 1, 2), (0, 0)])
def test_chunk_without_source_is_refused(g):
    with pytest.raises(ValueError, match=r"A chunk begins with source, but g\(1\) is 0; expected at least 1"):
        lay_out([1, 1], [1] * (len(g) - 1), g, Interleaved())


@given(reference.scheduled_pieces(num_next_header=2, least=1))
def test_source_is_learned_or_the_decision_after_each_of_its_units(scheduled):
    """To go on, or the read end, which is a label of its own."""
    pieces, g = scheduled
    everything, target = (laid_out(pieces, g, Interleaved(loss_on=loss_on)) for loss_on in ("all", "target"))
    is_source = everything.source_unit >= 0
    assert (everything.labels == everything.input_ids)[is_source].all()
    assert set(target.labels[is_source]) <= {IGNORE_INDEX, NOT_READ_END}
    num_chunks = len(chunks_of(ReadSchedule(g, len(pieces.source))))
    assert (target.labels == NOT_READ_END).sum() == g[-1] - num_chunks


@given(reference.scheduled_pieces(num_next_header=1, least=1), st.sampled_from([Interleaved(), Turns()]))
def test_mask_is_plain_causal(scheduled, layout):
    pieces, g = scheduled
    rows = laid_out(pieces, g, layout)
    order, unit, num_read = (
        torch.from_numpy(values)[None] for values in (rows.position, rows.source_unit, rows.num_read)
    )
    (grid,) = may_attend(order, order, unit, num_read)[0]
    assert torch.equal(grid, torch.ones_like(grid).tril())
    assert rows.num_hidden is None


JOINED = {
    "words": (["a b", "c"], ["p", "q r"], "word", "word", ("a b c", "p q r", [2, 3, 3])),
    "characters": (["我们", "是"], ["we ", " are"], "character", "word", ("我们是", "we are", [2, 3])),
    "to characters": (["we are", "x"], ["我们", "是"], "word", "character", ("we are x", "我们是", [2, 2, 3])),
    "white space": ([" a\n b "], ["p\tq"], "word", "word", ("a b", "p q", [2, 2])),
}


@pytest.mark.parametrize("name", JOINED)
def test_chunks_are_joined_and_give_g(name):
    source, target, source_units, target_units, expected = JOINED[name]
    assert join_chunks(source, target, source_units=source_units, target_units=target_units) == expected
