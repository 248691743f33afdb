"""Files that are complete or absent: written under another name in the same folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path to write to; it replaces ``path`` once the block has ended without an error.

    A full disk, an error or a kill therefore leaves the old file unchanged. The temporary name has the suffix of the
    file, from which matplotlib takes the format. A link stays a link; /dev/stdout and the like are written directly.

    Raises:
        OSError: if the folder is missing or full, or may not be written to.
    """
    whole = Path(os.path.realpath(path))
    if whole.exists() and not whole.is_file():
        yield whole
        return
    unfinished = whole.with_name(f".{whole.stem}.{os.getpid()}{whole.suffix}")
    try:
        yield unfinished
        if whole.is_file():
            unfinished.chmod(whole.stat().st_mode)
        unfinished.replace(whole)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file, completely or not at all, see `replacing`."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(text.encode())
