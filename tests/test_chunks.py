"""Chunk pairs from word alignments: golden examples, minimality, levels and exact spacing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.corpora.chunking import (
    LevelStatistics,
    average_lagging,
    check_levels,
    count_crossed,
    cut_text,
    grow_diag_final_and,
    merge_chunks,
    parse_links,
    smallest_chunks,
    statistics_table,
)
from simulmask_plugin.text.units import split_units


def links_of(text):
    return parse_links(text, 100, 100)


@st.composite
def alignments(draw):
    num_source, num_target = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    link = st.tuples(st.integers(0, num_source - 1), st.integers(0, num_target - 1))
    return draw(st.sets(link, max_size=12)), num_source, num_target


def crosses(link, end):
    return (link[0] < end[0]) != (link[1] < end[1])


# --- Golden examples


@pytest.mark.parametrize(
    ("links", "lengths", "ends"),
    [
        ("0-0 1-1 2-2", (3, 3), [(1, 1), (2, 2), (3, 3)]),
        # a swap of two words, then one in order
        ("0-1 1-0 2-2", (3, 3), [(2, 2), (3, 3)]),
        # the verb at the end crosses its object, not its subject
        ("0-0 1-3 2-1 3-2", (4, 4), [(1, 1), (4, 4)]),
        # one to many and many to one
        ("0-0 0-1 1-2 2-2", (3, 3), [(1, 2), (3, 3)]),
        # one source word on both sides of another: all one chunk
        ("0-0 0-2 1-1", (2, 3), [(2, 3)]),
        # unaligned words at the start, between (they join what follows) and at the end
        ("1-1 3-3", (5, 6), [(2, 2), (5, 6)]),
        ("0-0", (1, 1), [(1, 1)]),
        ("0-0 0-1 0-2", (1, 3), [(1, 3)]),
        ("", (3, 2), [(3, 2)]),
    ],
)
def test_smallest_chunks_of_small_sentences(links, lengths, ends):
    assert smallest_chunks(links_of(links), *lengths) == ends


def test_levels_of_a_sentence_of_ten_words():
    ends = [(n, n) for n in range(1, 11)]
    assert merge_chunks(ends, 1) == ends
    assert merge_chunks(ends, 3) == [(3, 3), (6, 6), (10, 10)]
    assert merge_chunks(ends, 5) == [(5, 5), (10, 10)]
    assert merge_chunks(ends, 6) == [(10, 10)]
    assert merge_chunks(ends, 50) == [(10, 10)]


def test_grow_diag_final_and():
    # 1-1 is a neighbour of 0-0 and new on both sides; 3-3 is no neighbour, but free on both sides; 0-3 is neither
    forward, backward = links_of("0-0 1-1 0-3"), links_of("0-0 3-3")
    assert grow_diag_final_and(forward, backward) == links_of("0-0 1-1 3-3")


def test_growing_goes_on_from_a_link_that_was_added():
    assert grow_diag_final_and(links_of("0-0 1-1 2-2"), links_of("0-0")) == links_of("0-0 1-1 2-2")


def test_average_lagging():
    assert average_lagging([(4, 4)]) == 4
    assert average_lagging([(n, n) for n in range(1, 5)]) == 1
    # reads 2, 2, 4: the fourth word is written after all has been read already
    assert average_lagging([(2, 2), (4, 4)]) == pytest.approx((2 + 1 + 2) / 3)


def test_statistics_tell_reordering_from_length():
    links = links_of("0-1 1-0 2-2 3-3 4-4")
    smallest = smallest_chunks(links, 5, 5)
    low, high = LevelStatistics(), LevelStatistics()
    low.add(smallest, smallest, links)
    high.add(merge_chunks(smallest, 2), smallest, links)
    assert (low.chunks, low.crossed, low.lengthened) == (4, 1, 0)
    assert (high.chunks, high.crossed, high.lengthened) == (2, 1, 1)
    assert [line.split() for line in statistics_table({"low": low, "high": high}).splitlines()] == [
        ["latency", "chunks", "units", "lagging", "crossed", "lengthened"],
        ["low", "4.00", "1.25", "1.20", "25.0%", "0.0%"],
        ["high", "2.00", "2.50", "2.00", "50.0%", "50.0%"],
    ]


def test_crossed_counts_no_link_that_shares_a_word():
    assert count_crossed([(2, 3)], links_of("0-0 0-1 1-1 1-2")) == 0
    assert count_crossed([(2, 2), (4, 4)], links_of("0-1 1-0 2-3 3-2")) == 2


@pytest.mark.parametrize(
    ("text", "unit", "ends", "chunks"),
    [
        ("Ein Hund läuft .", "word", [2, 4], ["Ein Hund", " läuft ."]),
        ("  10\u00a0000\tJahre  später \n", "word", [2, 4], ["10\u00a0000", "\tJahre  später"]),
        ("👍🏽 gut", "word", [1, 2], ["👍🏽", " gut"]),
        ("我有 iPad。", "character", [1, 3, 4], ["我", "有 iPad", "。"]),
        ("a▁b c", "word", [1, 3], ["a", "▁b c"]),
    ],
)
def test_cut_text(text, unit, ends, chunks):
    assert cut_text(text, unit, ends) == chunks


# --- Properties

spaced_text = st.lists(
    st.one_of(st.sampled_from([" ", "  ", "\t", "\u00a0", "\u3000", "\n", "👩‍👧", "你好", "ß"]), st.text())
)


@given(spaced_text.map("".join), st.sampled_from(["word", "character"]), st.data())
def test_chunks_join_to_the_text(text, unit, data):
    units = split_units(text, unit)
    if units:
        cuts = data.draw(st.sets(st.integers(1, len(units))))
        chunks = cut_text(text, unit, sorted({*cuts, len(units)}))
        assert "".join(chunks) == text.strip()
        assert [part for chunk in chunks for part in split_units(chunk, unit)] == units
        assert not chunks[0][0].isspace()


@given(alignments())
def test_no_link_crosses_a_cut_and_no_chunk_is_empty(alignment):
    links, *lengths = alignment
    ends = smallest_chunks(links, *lengths)
    assert ends[-1] == tuple(lengths)
    assert not any(crosses(link, end) for link in links for end in ends)
    for (source, target), end in zip([(0, 0), *ends], ends, strict=False):
        assert source < end[0]
        assert target < end[1]
        assert not links or any(source <= i < end[0] and target <= j < end[1] for i, j in links)


@given(alignments())
def test_no_chunk_can_be_cut_into_two_that_have_links(alignment):
    links, *lengths = alignment
    ends = smallest_chunks(links, *lengths)
    for before, end in zip([(0, 0), *ends], ends, strict=False):
        inside = [link for link in links if before[0] <= link[0] < end[0]]
        for cut in [(i, j) for i in range(before[0], end[0]) for j in range(before[1], end[1])]:
            left = sum(link[0] < cut[0] for link in inside)
            assert left in (0, len(inside)) or any(crosses(link, cut) for link in inside)


@given(alignments(), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_higher_levels_have_longer_and_no_more_chunks(alignment, lengths):
    smallest = smallest_chunks(*alignment)
    levels = [merge_chunks(smallest, length) for length in sorted(lengths)]
    for ends, length in zip(levels, sorted(lengths), strict=True):
        assert set(ends) <= set(smallest)
        assert ends[-1] == smallest[-1]
        sizes = [end[0] - before[0] for before, end in zip([(0, 0), *ends], ends, strict=False)]
        assert len(ends) == 1 or min(sizes) >= length
    counts = [len(ends) for ends in levels]
    assert counts == sorted(counts, reverse=True)


@given(alignments())
def test_crossed_chunks_are_those_with_two_links_that_cross(alignment):
    links, *lengths = alignment
    ends = smallest_chunks(links, *lengths)
    starts = [0, *(source for source, _ in ends)]
    expected = sum(
        any(a < c and b > d for a, b in links for c, d in links if start <= a < end[0])
        for start, end in zip(starts, ends, strict=False)
    )
    assert count_crossed(ends, links) == expected


@given(alignments(), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_symmetrized_links_lie_between_intersection_and_union(alignment, backward):
    forward = alignment[0]
    links = grow_diag_final_and(forward, backward)
    assert forward & backward <= links <= forward | backward
    assert {source for source, _ in forward & backward} <= {source for source, _ in links}


# --- Errors


def test_links_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected links i-j .* got '1:2'"):
        parse_links("0-0 1:2", 3, 3)
    with pytest.raises(
        ValueError, match=r"of 2 source and 3 target units, counted from 0, got 2-0; were the two sides"
    ):
        parse_links("2-0", 2, 3)
    with pytest.raises(ValueError, match=r"links of 1 source and 1 target units, got \(0, 1\)"):
        smallest_chunks([(0, 1)], 1, 1)
    with pytest.raises(ValueError, match=r"a unit or more on each side, got 0 and 3"):
        smallest_chunks([], 0, 3)


def test_senseless_levels_are_refused():
    check_levels({"high": 6, "low": 1})
    with pytest.raises(ValueError, match=r"Unknown latency 'slow'; expected some of low, low-medium, medium"):
        check_levels({"low": 1, "slow": 9})
    with pytest.raises(ValueError, match=r"at least 4 source units for 'high', as many as for 'low' or more, got 3"):
        check_levels({"high": 3, "low": 4})
    with pytest.raises(ValueError, match=r"at least 1 source units for 'low', one or more, got 0"):
        check_levels({"low": 0})
    with pytest.raises(ValueError, match=r"at least 1 source unit, got 0"):
        merge_chunks([(1, 1)], 0)


def test_ends_that_do_not_fit_the_text_are_refused():
    with pytest.raises(ValueError, match=r"up to the 2 units \(word\) of 'a b', got \[1, 3\]"):
        cut_text("a b", "word", [1, 3])
