"""Text files from users: UTF-8, line by line, and the bytes in them that are not text.

Every reader raises an OSError for a file that cannot be read, and a ValueError that names file and line where a line is
not UTF-8 or contains NUL.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
INVISIBLE = ("Cc", "Cf")
"""Unicode categories of invisible characters: controls, and format characters such as U+200B."""


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: it is empty, white space, zero-width space and the like."""
    return all(character.isspace() or unicodedata.category(character) in INVISIBLE for character in text)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (line, "file:number") of a UTF-8 file. Only a line feed ends a line: U+2028 would break an alignment.

    A byte order mark at the beginning is removed.
    """
    for number, line, where in _decoded(existing(path)):
        yield line.removeprefix(BOM if number == 1 else "").rstrip("\r\n"), where


def existing(path: Path) -> Path:
    """Return the path of a file, or raise a FileNotFoundError with the current folder if there is none."""
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path} (looked for in {Path.cwd()}).")
    return path


def read_text(path: str | Path) -> str:
    """Return a UTF-8 file as it is."""
    return "".join(line for _, line, _ in _decoded(Path(path)))


def _decoded(path: Path, what: str = "") -> Iterator[tuple[int, str, str]]:
    """Yield number, text and place of the lines; a byte that is not UTF-8, or NUL, is refused."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{what}{path}:{number}"
            yield number, _decode(line, where), where


def _decode(line: bytes, where: str) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: expected UTF-8, got byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line; "
            "convert the file, for instance with iconv."
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{where}: expected text, got NUL at character {text.index(chr(0)) + 1} of the line; the file is damaged, "
            "or UTF-16: convert it with iconv."
        )
    return text


def check_sentences(path: Path, *, what: str) -> int:
    """Check a file that is read as it is, one sentence per line; return the number of sentences.

    ``what`` is its role, for the message.

    Raises:
        ValueError: naming the first line that is empty, or has a byte order mark or a carriage return inside (where
            Python's text files would end the line).
    """
    number = 0
    for number, text, where in _decoded(path, f"{what}: "):
        if number == 1 and text.startswith(BOM):
            raise ValueError(
                f"{where}: a byte order mark, which would be part of the first word; save the file as UTF-8 "
                "without one (prepare_mt_test_data.py leaves it out)."
            )
        if is_blank(text):
            raise ValueError(
                f"{where}: the line is empty, got {text!r}; remove it here and in the other file "
                "(prepare_mt_test_data.py drops such pairs)."
            )
        if "\r" in text.removesuffix("\n").removesuffix("\r"):
            raise ValueError(f"{where}: a carriage return inside the line would cut it in two; remove it.")
    return number
