"""Files of training data: what the library that reads them would pass over, or name without its place."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.files.texts import existing, numbered_lines, read_text

JSON = (".json", ".jsonl")


def files_of(path: Path) -> list[Path]:
    """The file, or those of the folder.

    Raises:
        FileNotFoundError: if there is neither.
    """
    return sorted(existing(path).iterdir()) if path.is_dir() else [existing(path)]


def check_file(path: Path) -> None:
    """Refuse a file of which `datasets` would make other rows than it has.

    It takes the last of a key that a row of a JSON list has twice, cuts a field of a CSV at NUL, renames a column that
    stands there twice, and shifts the columns of a row that is too long.

    Raises:
        ValueError: naming file and line; also for what is no UTF-8.
    """
    if path.suffix == ".csv":
        _check_csv(path)
    elif path.suffix in JSON:
        text = read_text(path)
        if text.lstrip().startswith("["):
            parse_json(text, str(path))


def check_rows(path: Path, num_rows: int | None = None) -> None:
    """Refuse what is no JSON in a file of one object a line, with its place; None: in all lines.

    Raises:
        ValueError: naming file, line and column.
    """
    if path.suffix not in JSON:
        return
    for number, (line, _) in enumerate(islice(numbered_lines(path), num_rows), 1):
        if number == 1 and line.lstrip().startswith("["):
            return
        row = parse_json(line, str(path), line=number) if line.strip() else {}
        for value in row.values() if isinstance(row, dict) else ():
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise ValueError(f"{path}:{number}: expected text, got half a character in {value!r}.")


def _check_csv(path: Path) -> None:
    rows = csv.reader(line for line, _ in numbered_lines(path))
    try:
        header = next(rows, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise ValueError(f"{path}:1: the column {twice[0]!r} stands there twice in the header; rename one.")
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}:{rows.line_num}: expected {len(header)} fields ({', '.join(header)}), got {len(row)}; a "
                    "text with a comma stands between quotation marks."
                )
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: expected CSV, got: {error}.") from error
