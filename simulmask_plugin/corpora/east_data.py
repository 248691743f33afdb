"""The published data of EAST: readers that count what they drop, and cleaning of rows with many languages and levels.

::

    read_simt       SiMT-De-En-660K, SiMT-Multi-90K    ->  examples with chunks, faults
    read_offline    Off-Multi-120K                     ->  examples with sentences, faults
    clean_examples  examples                           ->  kept examples, counts of the dropped ones

Both files are a JSON array of objects, or one object per line. The white space of the chunks is not reliable, so each
gets one leading space, except the first and those of languages without spaces. https://arxiv.org/abs/2504.09570
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from simulmask_plugin.corpora.chunking import CHUNK_COLUMNS, LATENCIES, chunk_row
from simulmask_plugin.corpora.parallel_text import Cleaning, Pair, clean, is_text, read_json_rows
from simulmask_plugin.text.languages import unit_of
from simulmask_plugin.text.units import CHARACTER

OFFLINE_COLUMNS = ("source_lang", "target_lang", "source", "target")

_SIMT_KEYS = ("src_lang", "tgt_lang", *CHUNK_COLUMNS[2:])
_OFFLINE_KEYS = ("src_lang", "tgt_lang", *OFFLINE_COLUMNS[2:])

Faults = dict[str, list[str]]
"""Fault of unusable rows -> the places of these rows."""


class Example(NamedTuple):
    """A row as it will be written, and its two sentences with the place that they were read from."""

    row: dict[str, Any]
    pair: Pair


def read_simt(path: Path) -> tuple[list[Example], Faults]:
    """Returns the usable rows of a file of chunk pairs, and the faults of the others.

    Raises:
        ValueError: the file is not JSON.
    """
    return _read(path, _simt_fault, _simt_example)


def read_offline(path: Path) -> tuple[list[Example], Faults]:
    """Returns the usable rows of a file of sentence pairs, and the faults of the others.

    Raises:
        ValueError: the file is not JSON.
    """
    return _read(path, _offline_fault, _offline_example)


def clean_examples(examples: Sequence[Example], cleaning: Cleaning) -> tuple[list[Example], Counter[str]]:
    """Returns the examples worth keeping and, by reason, how many were dropped; see `parallel_text.clean`.

    The units follow the languages: words, or characters for those without spaces. The same sentences at another
    level are not duplicates.
    """
    groups = defaultdict(list)
    for row, pair in examples:
        groups[row["source_lang"], row["target_lang"], row.get("latency")].append(pair)
    kept: set[str] = set()
    dropped: Counter[str] = Counter()
    for (source_lang, target_lang, _), pairs in groups.items():
        own = replace(cleaning, source_unit=unit_of(source_lang), target_unit=unit_of(target_lang))
        left, lost = clean(pairs, own)
        kept |= {pair.where for pair in left}
        dropped += lost
    return [example for example in examples if example.pair.where in kept], dropped


def space_chunks(chunks: Sequence[str], language: str) -> list[str]:
    """Returns the chunks with the leading spaces with which they join to a sentence of the language."""
    separator = "" if unit_of(language) == CHARACTER else " "
    return [separator * (index > 0) + " ".join(chunk.split()) for index, chunk in enumerate(chunks)]


def _read(
    path: Path, fault_of: Callable[[object], str | None], example: Callable[[dict[str, Any], str], Example]
) -> tuple[list[Example], Faults]:
    examples = []
    faults: Faults = {}
    for row, where in read_json_rows(path):
        fault = fault_of(row)
        if fault is not None:
            faults.setdefault(fault, []).append(where)
        elif isinstance(row, dict):
            examples.append(example(row, where))
    return examples, faults


def _simt_fault(row: object) -> str | None:
    """Returns what is wrong with a row, None if nothing is."""
    if not isinstance(row, dict) or not row.keys() >= set(_SIMT_KEYS):
        return "missing key"
    *labels, source_chunks, target_chunks = (row[key] for key in _SIMT_KEYS)
    if not (all(map(is_text, labels)) and _are_texts(source_chunks) and _are_texts(target_chunks)):
        return "not text"
    if row["latency"] not in LATENCIES:
        return "unknown latency"
    if len(source_chunks) != len(target_chunks):
        return "unequal counts of chunks"
    if not source_chunks or not all(chunk.strip() for chunk in (*source_chunks, *target_chunks)):
        return "empty chunk"
    return None


def _simt_example(row: dict[str, Any], where: str) -> Example:
    source_lang, target_lang, latency, *sides = (row[key] for key in _SIMT_KEYS)
    source, target = (space_chunks(*side) for side in zip(sides, (source_lang, target_lang), strict=True))
    columns = chunk_row(source, target, latency=latency, source_lang=source_lang, target_lang=target_lang)
    return Example(columns, Pair("".join(source), "".join(target), where))


def _offline_fault(row: object) -> str | None:
    if not isinstance(row, dict) or not row.keys() >= set(_OFFLINE_KEYS):
        return "missing key"
    return None if all(is_text(row[key]) for key in _OFFLINE_KEYS) else "not text"


def _offline_example(row: dict[str, Any], where: str) -> Example:
    source_lang, target_lang, *texts = (row[key] for key in _OFFLINE_KEYS)
    source, target = (" ".join(text.split()) for text in texts)
    columns = dict(zip(OFFLINE_COLUMNS, (source_lang, target_lang, source, target), strict=True))
    return Example(columns, Pair(source, target, where))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value))
