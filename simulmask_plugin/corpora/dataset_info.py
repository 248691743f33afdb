"""Entries of `formatting: simulmask` in the dataset_info.json of LLaMA-Factory."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simulmask_plugin.files.json_files import read_json


class Dataset(NamedTuple):
    """A JSONL file and the columns of its rows."""

    file: Path
    columns: Sequence[str]


def read_entries(dataset_info: Path) -> dict[str, Any]:
    """Returns the content of a dataset_info.json; a missing one has no entries.

    Raises:
        ValueError: LLaMA-Factory would misread it: it is not a JSON object, or has a name twice.
    """
    entries = read_json(dataset_info) if dataset_info.is_file() else {}
    if not isinstance(entries, dict):
        raise ValueError(f"{dataset_info}: expected a JSON object, got {type(entries).__name__}.")
    return entries


def listed_entries(dataset_dir: Path, names: Sequence[str]) -> dict[str, tuple[Mapping[str, Any], list[Path]]]:
    """Returns entry and files (all files of a folder) of the data sets that a dataset_info.json lists."""
    known = read_entries(dataset_dir / "dataset_info.json")
    entries: dict[str, tuple[Mapping[str, Any], list[Path]]] = {}
    for name in names:
        entry = known.get(name)
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            path = dataset_dir / entry["file_name"]
            entries[name] = entry, sorted(path.iterdir()) if path.is_dir() else [path]
    return entries


def dataset_info_with(dataset_info: Path, datasets: Mapping[str, Dataset], *, overwrite: bool) -> str:
    """Returns the text of a dataset_info.json of LLaMA-Factory with `formatting: simulmask` entries added.

    Its folder is the ``dataset_dir`` of the training YAML.

    Raises:
        ValueError: it has an entry of that name which differs, and is not to be overwritten.
    """
    known = read_entries(dataset_info)
    for name, dataset in datasets.items():
        entry = {
            "file_name": Path(os.path.relpath(dataset.file, dataset_info.parent)).as_posix(),
            "formatting": "simulmask",
            "columns": {column: column for column in dataset.columns},
        }
        if known.get(name, entry) != entry and not overwrite:
            raise ValueError(
                f"{dataset_info} has another dataset named {name!r}: {json.dumps(known[name])}; choose "
                "another --name or pass --overwrite."
            )
        known[name] = entry
    return json.dumps(known, ensure_ascii=False, indent=2)
