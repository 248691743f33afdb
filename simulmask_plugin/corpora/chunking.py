"""Chunk pairs from word alignments: a sentence and its translation, cut where no link crosses.

::

    parse_links, grow_diag_final_and   an aligner's output    ->  links (source unit, target unit), 0-based
    smallest_chunks                    links                  ->  ends of the smallest monotone chunk pairs
    merge_chunks                       ends                   ->  ends of longer chunk pairs: a latency level
    cut_text                           text and ends          ->  chunks that join to the text
    Chunker                            sentence and links     ->  a row per level: the last three at once

A chunking is the list of its `End`s: the numbers of source and target units before each cut; the last are
the lengths of the two sides. Both numbers rise from end to end, so no chunk is empty.

"Ein Hund läuft schnell" and "Quickly a dog runs", with the links 0-1 1-2 2-3 3-0, are one chunk, since 3-0 crosses all
others; "Ein Hund läuft" and "A dog runs" with 0-0 1-1 2-2 have the ends (1, 1), (2, 2), (3, 3).

What does not fit the sentence raises a ValueError.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, product
from operator import itemgetter
from typing import Any

from simulmask_plugin.text.prompts import LATENCIES
from simulmask_plugin.text.units import WORD, split_units

Link = tuple[int, int]
"""Source unit and target unit that translate each other, counted from 0."""

End = tuple[int, int]
"""Numbers of source units and target units before a cut."""

DEFAULT_LEVELS = "low=1,medium=3,high=6"
"""Latencies and the minimum number of source units of their chunks, in the format of the option."""

CHUNK_COLUMNS = ("source_lang", "target_lang", "latency", "source_chunks", "target_chunks")


def parse_links(text: str, num_source: int, num_target: int) -> set[Link]:
    """Returns the links of one line in the Pharaoh format, such as ``0-0 1-2``, all between units of the sentence."""
    links = set()
    for item in text.split():
        match = re.fullmatch(r"([0-9]+)-([0-9]+)", item)
        if match is None:
            raise ValueError(f"expected links i-j with i and j counted from 0, got {item!r}.")
        source, target = map(int, match.groups())
        if source >= num_source or target >= num_target:
            raise ValueError(
                f"expected links of {num_source} source and {num_target} target units, counted from 0, got {item}; "
                "were the two sides aligned in the same order and cut into the same units?"
            )
        links.add((source, target))
    return links


def grow_diag_final_and(forward: Collection[Link], backward: Collection[Link]) -> set[Link]:
    """Returns the symmetrized links of the two directions (Koehn et al., 2003; "and": the cautious final step).

    The intersection grows by neighbours (diagonal ones too) of the union that bring in a unit without a link; then
    links between two units that both have none are added, those of `forward` first.
    """
    forward, backward = set(forward), set(backward)
    union, links = forward | backward, forward & backward
    sources, targets = ({link[side] for link in links} for side in (0, 1))

    def add(link: Link) -> None:
        links.add(link)
        sources.add(link[0])
        targets.add(link[1])

    pending = sorted(links)
    while pending:
        grown = []
        for source, target in pending:
            for step in product((-1, 0, 1), repeat=2):
                link = source + step[0], target + step[1]
                if link in union - links and (link[0] not in sources or link[1] not in targets):
                    add(link)
                    grown.append(link)
        pending = grown
    for link in (*sorted(forward), *sorted(backward)):
        if link[0] not in sources and link[1] not in targets:
            add(link)
    return links


def smallest_chunks(links: Iterable[Link], num_source: int, num_target: int) -> list[End]:
    """Returns the ends of the smallest chunk pairs that no link leaves; each has a link if there is any.

    Units without a link belong to the next chunk, so that they are written with more of the source read; those
    after the last link belong to the last chunk.
    """
    if num_source < 1 or num_target < 1:
        raise ValueError(f"Expected a unit or more on each side, got {num_source} and {num_target}.")
    ordered = sorted(links)
    for source, target in ordered:
        if not (0 <= source < num_source and 0 <= target < num_target):
            raise ValueError(
                f"Expected links of {num_source} source and {num_target} target units, got {source, target}."
            )
    reach = accumulate((target for _, target in ordered), max)
    opens = list(accumulate((target for _, target in reversed(ordered)), min))[::-1]
    ends = [
        (this[0] + 1, furthest + 1)
        for (this, following), furthest, first in zip(pairwise(ordered), reach, opens[1:], strict=False)
        if this[0] < following[0] and furthest < first
    ]
    return [*ends, (num_source, num_target)]


def merge_chunks(ends: Sequence[End], min_source: int) -> list[End]:
    """Returns the ends of chunks with `min_source` or more source units, each a run of the given ones.

    Chunks are as short as that allows, from the left; a last one that is too short joins the one before. Their
    number never rises with `min_source`.
    """
    if min_source < 1:
        raise ValueError(f"A chunk needs at least 1 source unit, got {min_source}.")
    merged: list[End] = []
    start = 0
    for end in ends:
        if end[0] - start >= min_source:
            merged.append(end)
            start = end[0]
    return [*merged[:-1], ends[-1]]


def cut_text(text: str, unit: str, ends: Sequence[int]) -> list[str]:
    """Returns chunks that join to the text, except for white space at its ends; each includes its leading white space.

    `ends` are the numbers of units (words or characters; white space is none) before each cut, the last being all.
    """
    text = text.strip()
    places = [0]  # where each unit ends; before the next there is nothing but white space
    for one in split_units(text, unit):
        places.append(text.index(one, places[-1]) + len(one))
    if ends[-1] != len(places) - 1:
        raise ValueError(f"Expected ends up to the {len(places) - 1} units ({unit}) of {text!r}, got {list(ends)}.")
    places[-1] = len(text)
    return [text[places[start] : places[end]] for start, end in pairwise((0, *ends))]


def parse_levels(text: str) -> dict[str, int]:
    """Returns latency -> fewest source units of a chunk, from text such as ``low=1,high=6``."""
    levels = {}
    for item in text.split(","):
        latency, _, fewest = item.partition("=")
        if not fewest.isdecimal():
            raise ValueError(f"Expected latencies such as low=1,high=6, got {item!r}.")
        levels[latency.strip()] = int(fewest)
    check_levels(levels)
    return levels


def check_levels(levels: Mapping[str, int]) -> None:
    """Raises ValueError where levels (latency -> fewest source units of a chunk) are not what `merge_chunks` needs."""
    unknown = [latency for latency in levels if latency not in LATENCIES]
    if unknown or not levels:
        raise ValueError(
            f"Unknown latency {', '.join(unknown) or '(none)'!r}; expected some of {', '.join(LATENCIES)}."
        )
    ordered = [(latency, levels[latency]) for latency in LATENCIES if latency in levels]
    for (lower, fewer), (higher, more) in pairwise([("", 1), *ordered]):
        if more < fewer:
            raise ValueError(
                f"Expected at least {fewer} source units for {higher!r}, "
                f"{f'as many as for {lower!r}' if lower else 'one'} or more, got {more}."
            )


def average_lagging(ends: Sequence[End]) -> float:
    """Returns AL in source units of writing each chunk as soon as it has been read (Ma et al., 2019).

    The mean of g(t) - (t - 1) S / T over the target units up to the first one that is written with all of the source.
    """
    num_source, num_target = ends[-1]
    first_of_last = ends[-2][1] + 1 if len(ends) > 1 else 1
    num_read = [source for (_, before), (source, target) in pairwise([(0, 0), *ends]) for _ in range(target - before)]
    lags = [read - t * num_source / num_target for t, read in enumerate(num_read[:first_of_last])]
    return sum(lags) / len(lags)


def count_crossed(ends: Sequence[End], links: Iterable[Link]) -> int:
    """Returns how many chunks hold two links that cross: the translation has another order there."""
    source_ends = [source for source, _ in ends]
    crossed, reach = set(), -1
    for source, same in groupby(sorted(links), key=itemgetter(0)):
        targets = [target for _, target in same]
        if targets[0] < reach:
            crossed.add(bisect_right(source_ends, source))
        reach = max(reach, targets[-1])
    return len(crossed)


@dataclass(slots=True)
class LevelStatistics:
    """What the chunks of one latency level are like, summed over sentences."""

    sentences: int = 0
    chunks: int = 0
    source_units: int = 0
    lagging: float = 0.0
    """Sum of the sentences' `average_lagging`."""
    crossed: int = 0
    """Chunks with crossing links, which reordering holds together."""
    lengthened: int = 0
    """Chunks merged from several smallest ones to reach the length of the level."""

    def add(self, ends: Sequence[End], smallest: Sequence[End], links: Iterable[Link]) -> None:
        """Counts one sentence, given its chunks at this level and the smallest ones."""
        kept = set(ends)
        steps = [index for index, end in enumerate(smallest) if end in kept]
        self.sentences += 1
        self.chunks += len(ends)
        self.source_units += ends[-1][0]
        self.lagging += average_lagging(ends)
        self.crossed += count_crossed(ends, links)
        self.lengthened += sum(later - earlier > 1 for earlier, later in pairwise([-1, *steps]))


class Chunker:
    """Cuts sentences into rows of several latency levels (see `check_levels`), and keeps statistics of the chunks.

    The languages are columns of every row; the units, words or characters, are what links count.
    """

    def __init__(
        self,
        levels: Mapping[str, int],
        *,
        source_lang: str,
        target_lang: str,
        source_unit: str = WORD,
        target_unit: str = WORD,
    ) -> None:
        check_levels(levels)
        self.levels = levels
        self.languages = source_lang, target_lang
        self.units = source_unit, target_unit
        self.statistics = {latency: LevelStatistics() for latency in levels}

    def rows(self, source: str, target: str, links: Collection[Link]) -> list[dict[str, Any]]:
        """Returns the rows of one sentence, one per level."""
        lengths = [len(split_units(*side)) for side in zip((source, target), self.units, strict=True)]
        smallest = smallest_chunks(links, *lengths)
        rows = []
        for latency, min_source in self.levels.items():
            ends = merge_chunks(smallest, min_source)
            self.statistics[latency].add(ends, smallest, links)
            sides = zip((source, target), self.units, zip(*ends, strict=True), strict=True)
            values = *self.languages, latency, *(cut_text(*side) for side in sides)
            rows.append(dict(zip(CHUNK_COLUMNS, values, strict=True)))
        return rows


def statistics_table(statistics: Mapping[str, LevelStatistics]) -> str:
    """Returns the statistics of a chunking, one line per level."""
    lines = [f"{'latency':<12} {'chunks':>8} {'units':>8} {'lagging':>8} {'crossed':>8} {'lengthened':>11}"]
    for latency, level in statistics.items():
        lines.append(
            f"{latency:<12} {level.chunks / level.sentences:>8.2f} {level.source_units / level.chunks:>8.2f} "
            f"{level.lagging / level.sentences:>8.2f} {level.crossed / level.chunks:>8.1%} "
            f"{level.lengthened / level.chunks:>11.1%}"
        )
    return "\n".join(lines)
