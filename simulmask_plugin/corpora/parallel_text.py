"""Parallel text: readers of the usual formats, cleaning that counts what it drops, writers.

::

    read_aligned, read_pairs, read_test_set    files          ->  pairs (source, target, where)
    clean                                      pairs          ->  kept pairs, counts of the dropped ones
    write_jsonl, write_rows, write_lines       kept pairs     ->  files

Every error names the file and the line it comes from; nothing is skipped without being counted.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from xml.etree import ElementTree

from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.files.texts import existing, is_blank, numbered_lines
from simulmask_plugin.options import Must, between, check_choice, check_fields
from simulmask_plugin.text.pieces import SENTENCE_PIECE
from simulmask_plugin.text.units import CHARACTER, WORD, split_units

UNITS = (WORD, CHARACTER)
DROP_REASONS = ("empty side", "too long", "ratio", "identical", "duplicate")

# The lines of an IWSLT train.tags.* file that describe a talk.
_TALK_HEADER = re.compile(
    r"</?(?:doc|url|keywords|speaker|talkid|title|description|transcript|reviewer|translator)[\s>]"
)

# JSON can spell half a character (\ud83d), which UTF-8 cannot encode, and NUL, which no text contains.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


Item = TypeVar("Item")


def is_text(value: object) -> bool:
    """Whether a JSON value is text that can be written to a file."""
    return isinstance(value, str) and not _NO_TEXT.search(value)


class Pair(NamedTuple):
    """A sentence, its translation, and where they were read (for messages)."""

    source: str
    target: str
    where: str


def read_aligned(source: Path, target: Path) -> Iterator[Pair]:
    """Yields the pairs of two line-aligned files, plain or in the two formats of IWSLT 2017.

    The name of the source file determines the format: ``*.xml`` has the segments of development and test sets,
    ``train.tags.*`` has text lines between header lines (including title and description), which are skipped;
    anything else is plain text, one sentence per line.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the two files do not have the same number of sentences, or one is malformed.
    """
    if source.suffix == ".xml":
        segments = _xml_segments(source), _xml_segments(target)
        for (_, here), (_, there) in zip(*segments, strict=False):
            if here != there:
                raise ValueError(
                    f"Expected the same segments in the same order, got {here} in {source} and {there} in {target}."
                )
        return _align(source, target, ((text, f"{source}, {place}") for text, place in segments[0]), segments[1])
    if source.name.startswith("train.tags."):
        return _align(source, target, _talk_lines(source), _talk_lines(target))
    return _align(source, target, numbered_lines(source), numbered_lines(target))


def read_pairs(path: Path, *, source_key: str | None = None, target_key: str | None = None) -> Iterator[Pair]:
    """Yields the pairs of one .tsv, .json or .jsonl file; the keys are the columns of a TSV."""
    if path.suffix == ".tsv":
        return read_tsv(path, source_column=source_key or "1", target_column=target_key or "2")
    if path.suffix in (".json", ".jsonl"):
        return read_json(path, source_key=source_key or "source", target_key=target_key or "target")
    raise ValueError(f"{path}: expected a name that ends in .tsv, .json or .jsonl, got {path.suffix!r}.")


def read_tsv(path: Path, *, source_column: str = "1", target_column: str = "2") -> Iterator[Pair]:
    """Yields the pairs of a file of tab-separated columns; quotation marks are text.

    A column is a number, counted from 1, or a name; with a name, the first line is the header.
    """
    lines = numbered_lines(path)
    columns = [source_column, target_column]
    header = None
    if not all(column.isdecimal() for column in columns):
        header = next(lines, ("", f"{path}:1"))[0].split("\t")
    first, second = (_column_index(column, header, path) for column in columns)
    for line, where in lines:
        cells = line.split("\t")
        if len(cells) <= max(first, second):
            raise ValueError(
                f"{where}: expected {max(first, second) + 1} or more tab-separated columns, got {len(cells)}."
            )
        yield Pair(cells[first], cells[second], where)


def read_json(path: Path, *, source_key: str = "source", target_key: str = "target") -> Iterator[Pair]:
    """Yields the pairs of a JSON file: an array of objects if it opens with "[", else one object per line."""
    for row, where in read_json_rows(path):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object with the keys of a pair, got {type(row).__name__}.")
        yield Pair(_json_text(row, source_key, where), _json_text(row, target_key, where), where)


def read_json_rows(path: Path) -> Iterator[tuple[object, str]]:
    """Yields (value, where) of a JSON file: the items of an array if it opens with "[", else one value per line."""
    lines = numbered_lines(path)
    for number, (line, where) in enumerate(lines, 1):
        if number == 1 and line.lstrip().startswith("["):
            text = "\n".join([line, *(rest for rest, _ in lines)])
            yield from ((row, f"{path}, item {item}") for item, row in enumerate(parse_json(text, str(path)), 1))
            return
        try:
            yield parse_json(line, str(path), line=number), where
        except ValueError as error:
            raise ValueError(f"{error} Expected one JSON object a line, got {line[:60]!r}.") from error


def read_test_set(test_set: str, lang_pair: str) -> Iterator[Pair]:
    """Yields the pairs of a sacreBLEU test set with its first reference; downloads it the first time.

    ``sacrebleu --list`` shows the names, such as ``wmt15``; a language pair is written ``de-en``.
    """
    import sacrebleu  # here: no other reader needs it, and it imports numpy

    if test_set not in sacrebleu.get_available_testsets():
        raise ValueError(f"sacreBLEU has no test set {test_set!r}; `sacrebleu --list` shows those it has.")
    lang_pairs = sacrebleu.get_langpairs_for_testset(test_set)
    if lang_pair not in lang_pairs:
        raise ValueError(
            f"sacreBLEU's {test_set} has no language pair {lang_pair!r}; expected one of {', '.join(lang_pairs)}."
        )
    try:
        source = sacrebleu.get_source_file(test_set, lang_pair)
        references = sacrebleu.get_reference_files(test_set, lang_pair)
    except OSError as error:
        raise ValueError(
            f"Could not download sacreBLEU's {test_set} {lang_pair} ({error}); check the network, or copy "
            f"the folder {sacrebleu.SACREBLEU_DIR} from a machine that has it."
        ) from error
    return read_aligned(Path(source), Path(references[0]))


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file. Only a line feed ends one: U+2028 would break an alignment."""
    return (line for line, _ in numbered_lines(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """Which pairs are worth keeping; pairs with an empty side never are.

    Attributes:
        source_unit: unit of source lengths, one of `UNITS`.
        target_unit: the same for the target.
        max_units: maximum length of a side.
        max_ratio: maximum ratio of the longer to the shorter side.
        drop_identical: whether to drop pairs with two equal sides.
        drop_duplicates: whether to drop pairs that were kept before.
        keep_spacing: whether to keep white space inside a text; else every run of it (tabs, no-break spaces,
            line separators) becomes one space. It is always removed at the ends.
    """

    source_unit: str = WORD
    target_unit: str = WORD
    max_units: Annotated[int, between(1)] | None = None
    max_ratio: Annotated[float, Must("be at least 1 (longer side / shorter side)", lambda r: r >= 1)] | None = None
    drop_identical: bool = False
    drop_duplicates: bool = False
    keep_spacing: bool = False

    def __post_init__(self) -> None:
        """Check units and limits."""
        check_fields(self, "")
        check_choice("source_unit", self.source_unit, UNITS)
        check_choice("target_unit", self.target_unit, UNITS)

    def normalize(self, text: str) -> str:
        """Returns the text with its white space normalized."""
        return text.strip() if self.keep_spacing else " ".join(text.split())

    def reason_to_drop(self, source: str, target: str, seen: Container[tuple[str, str]]) -> str | None:
        """Returns one of `DROP_REASONS`, or None for a pair worth keeping; ``seen``: pairs kept before."""
        lengths = len(split_units(source, self.source_unit)), len(split_units(target, self.target_unit))
        shorter, longer = sorted(lengths)
        if is_blank(source) or is_blank(target):
            return "empty side"
        if self.max_units is not None and longer > self.max_units:
            return "too long"
        if self.max_ratio is not None and longer > self.max_ratio * shorter:
            return "ratio"
        if self.drop_identical and source == target:
            return "identical"
        if self.drop_duplicates and (source, target) in seen:
            return "duplicate"
        return None


def clean(pairs: Iterable[Pair], cleaning: Cleaning) -> tuple[list[Pair], Counter[str]]:
    """Returns the pairs worth keeping, with normalized white space, and how many were dropped by reason."""
    seen: set[tuple[str, str]] = set()
    kept = []
    dropped: Counter[str] = Counter()
    for pair in pairs:
        source, target = cleaning.normalize(pair.source), cleaning.normalize(pair.target)
        reason = cleaning.reason_to_drop(source, target, seen)
        if reason is not None:
            dropped[reason] += 1
            continue
        if cleaning.drop_duplicates:
            seen.add((source, target))
        kept.append(Pair(source, target, pair.where))
    return kept, dropped


def join_pairs(pairs: Iterable[Pair], sizes: Iterable[int], source_unit: str, target_unit: str) -> list[Pair]:
    """Returns longer pairs, each of as many that follow each other as ``sizes`` say in turn, the last of the rest."""
    source_space, target_space = (" " if unit == WORD else "" for unit in (source_unit, target_unit))
    rest, turns = iter(pairs), cycle(sizes)
    joined = []
    while some := list(islice(rest, next(turns))):
        sources, targets, places = zip(*some, strict=True)
        joined.append(Pair(source_space.join(sources), target_space.join(targets), places[0]))
    return joined


def has_odd_space(text: str) -> bool:
    """Whether a text contains white space other than plain spaces and tabs; in units it becomes a plain space."""
    return any(letter.isspace() and letter not in " \t" or letter == SENTENCE_PIECE for letter in text.strip())


def split_off(pairs: list[Item], *, num_valid: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Returns (training pairs, validation pairs drawn at random), both in the order of the corpus."""
    if not 0 <= num_valid < len(pairs):
        raise ValueError(
            f"The number of validation pairs must be 0 or more and less than the {len(pairs)} pairs there "
            f"are, got {num_valid}."
        )
    drawn = set(random.Random(seed).sample(range(len(pairs)), num_valid))
    train = [pair for index, pair in enumerate(pairs) if index not in drawn]
    valid = [pair for index, pair in enumerate(pairs) if index in drawn]
    return train, valid


def check_absent(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raises FileExistsError if a file to be written exists and may not be overwritten."""
    present = [str(path) for path in paths if path.exists()]
    if present and not overwrite:
        raise FileExistsError(f"Already exists: {', '.join(present)}; choose another output or pass --overwrite.")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes one text per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_jsonl(path: Path, pairs: Iterable[Pair]) -> None:
    """Writes the rows of `formatting: simulmask`: source and target."""
    write_rows(path, ({"source": pair.source, "target": pair.target} for pair in pairs))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line."""
    write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _align(
    source: Path, target: Path, source_texts: Iterable[tuple[str, str]], target_texts: Iterable[tuple[str, str]]
) -> Iterator[Pair]:
    """Yields the pairs of two sequences of (text, where); raises if one ends before the other."""
    num_source = num_target = 0
    for source_row, target_row in zip_longest(source_texts, target_texts):
        num_source += source_row is not None
        num_target += target_row is not None
        if num_source == num_target:
            yield Pair(source_row[0], target_row[0], source_row[1])
    if num_source != num_target:
        raise ValueError(
            f"Expected two files with the same number of sentences, got {num_source} in {source} and "
            f"{num_target} in {target}."
        )


def _talk_lines(path: Path) -> Iterator[tuple[str, str]]:
    return (row for row in numbered_lines(path) if not _TALK_HEADER.match(row[0]))


def _xml_segments(path: Path) -> list[tuple[str, str]]:
    """Returns (text, name of the segment)."""
    try:
        root = ElementTree.parse(existing(path)).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(
            f"{path}:{error.position[0]}: expected well-formed XML, got: {error}; a bare & is written &amp;."
        ) from error
    return [
        ("".join(segment.itertext()), f"doc {document.get('docid')}, seg {segment.get('id')}")
        for document in root.iter("doc")
        for segment in document.iter("seg")
    ]


def _column_index(column: str, header: list[str] | None, path: Path) -> int:
    if column.isdecimal() and int(column) > 0:
        return int(column) - 1
    if header is None or header.count(column) != 1:
        raise ValueError(
            f"{path}:1: expected one column {column!r} (a name, or a number from 1), got the header {header}."
        )
    return header.index(column)


def _json_text(row: dict, key: str, where: str) -> str:
    if key not in row:
        raise ValueError(
            f"{where}: expected a key {key!r}, got the keys {', '.join(map(repr, row))}; name the right one "
            "by source_key or target_key."
        )
    if not is_text(row[key]):
        raise ValueError(f"{where}: expected text under the key {key!r}, got {row[key]!r}.")
    return row[key]
