"""Files of training data: errors that the library that reads them would ignore, or report without file and line.

Each is a ValueError with file and line.
"""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

from simulmask_plugin.files.json_files import parse_json
from simulmask_plugin.files.texts import existing, numbered_lines, read_text
from simulmask_plugin.text.units import HALVES

JSON = (".json", ".jsonl")


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a folder; a FileNotFoundError if there is neither."""
    return sorted(existing(path).iterdir()) if path.is_dir() else [existing(path)]


def check_file(path: Path) -> None:
    """Refuse a file that `datasets` would misread.

    It takes the last value of a key that occurs twice in a JSON row, cuts a CSV field at NUL, renames a column that
    occurs twice, and shifts the columns of a row that is too long.
    """
    if path.suffix == ".csv":
        _check_csv(path)
    elif path.suffix in JSON:
        text = read_text(path)
        if text.lstrip().startswith("["):
            parse_json(text, str(path))


def check_rows(path: Path, num_rows: int | None = None) -> None:
    """Refuse invalid JSON in the first rows of a file with one object per line; None: in all rows."""
    if path.suffix not in JSON:
        return
    for number, (line, _) in enumerate(islice(numbered_lines(path), num_rows), 1):
        if number == 1 and line.lstrip().startswith("["):
            return
        row = parse_json(line, str(path), line=number) if line.strip() else {}
        for value in row.values() if isinstance(row, dict) else ():
            if isinstance(value, str) and HALVES.search(value):
                raise ValueError(f"{path}:{number}: expected text, got half a character in {value!r}.")


def _check_csv(path: Path) -> None:
    rows = csv.reader(line for line, _ in numbered_lines(path))
    try:
        header = next(rows, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise ValueError(f"{path}:1: the column {twice[0]!r} occurs twice in the header; rename one.")
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}:{rows.line_num}: expected {len(header)} fields ({', '.join(header)}), got {len(row)}; a "
                    "text with a comma needs quotation marks."
                )
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: expected CSV, got: {error}.") from error
