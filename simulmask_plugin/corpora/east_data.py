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

from simulmask_plugin.corpora.chunking import CHUNK_COLUMNS, LATENCIES
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
    """Returns the usable rows of a JSON file of chunk pairs, and the faults of the others."""
    return _read(path, _SIMT_KEYS, _simt_columns)


def read_offline(path: Path) -> tuple[list[Example], Faults]:
    """Returns the usable rows of a JSON file of sentence pairs, and the faults of the others."""
    return _read(path, _OFFLINE_KEYS, _offline_columns)


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


class _Fault(Exception):
    """What makes a row unusable."""


def _read(
    path: Path, keys: Sequence[str], columns_of: Callable[..., tuple[dict[str, Any], str, str]]
) -> tuple[list[Example], Faults]:
    """Returns the examples that `columns_of` makes of the values under these keys, and the faults that it raises."""
    examples = []
    faults: Faults = defaultdict(list)
    for row, where in read_json_rows(path):
        try:
            if not isinstance(row, dict) or not row.keys() >= set(keys):
                raise _Fault("missing key")
            columns, source, target = columns_of(*(row[key] for key in keys))
            examples.append(Example(columns, Pair(source, target, where)))
        except _Fault as fault:
            faults[str(fault)].append(where)
    return examples, faults


def _simt_columns(
    source_lang: Any, target_lang: Any, latency: Any, source: Any, target: Any
) -> tuple[dict[str, Any], str, str]:
    if not (all(map(is_text, (source_lang, target_lang, latency))) and _are_texts(source) and _are_texts(target)):
        raise _Fault("not text")
    if latency not in LATENCIES:
        raise _Fault("unknown latency")
    if len(source) != len(target):
        raise _Fault("unequal counts of chunks")
    if not source or not all(chunk.strip() for chunk in (*source, *target)):
        raise _Fault("empty chunk")
    chunks = space_chunks(source, source_lang), space_chunks(target, target_lang)
    columns = dict(zip(CHUNK_COLUMNS, (source_lang, target_lang, latency, *chunks), strict=True))
    return columns, "".join(chunks[0]), "".join(chunks[1])


def _offline_columns(source_lang: Any, target_lang: Any, *texts: Any) -> tuple[dict[str, Any], str, str]:
    if not all(map(is_text, (source_lang, target_lang, *texts))):
        raise _Fault("not text")
    source, target = (" ".join(text.split()) for text in texts)
    return dict(zip(OFFLINE_COLUMNS, (source_lang, target_lang, source, target), strict=True)), source, target


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value))
