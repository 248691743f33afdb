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
    """Returns the content of a dataset_info.json.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a JSON object.
    """
    entries = read_json(dataset_info)
    if not isinstance(entries, dict):
        raise ValueError(f"{dataset_info}: expected a JSON object, got {type(entries).__name__}.")
    return entries


def check_entries(dataset_dir: Path) -> None:
    """Refuse a dataset_info.json that LLaMA-Factory would misread; a missing one is fine.

    Raises:
        ValueError: it is not a JSON object, or has a name twice; with file and line.
    """
    if (dataset_dir / "dataset_info.json").is_file():
        read_entries(dataset_dir / "dataset_info.json")


def listed_entries(dataset_dir: Path, names: Sequence[str]) -> dict[str, tuple[Mapping[str, Any], list[Path]]]:
    """Returns entry and files (all files of a folder) of the data sets that are listed in a dataset_info.json.

    Raises:
        ValueError: dataset_info.json is not a JSON object.
    """
    dataset_info = dataset_dir / "dataset_info.json"
    known = read_entries(dataset_info) if dataset_info.is_file() else {}
    entries: dict[str, tuple[Mapping[str, Any], list[Path]]] = {}
    for name in names:
        entry = known.get(name)
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            path = dataset_dir / entry["file_name"]
            entries[name] = entry, sorted(path.iterdir()) if path.is_dir() else [path]
    return entries


def dataset_info_with(dataset_info: Path, datasets: Mapping[str, Dataset], *, overwrite: bool) -> str:
    """Returns the text of a dataset_info.json of LLaMA-Factory with `formatting: simulmask` entries added.

    Args:
        dataset_info: the file, which need not exist; its folder is the ``dataset_dir`` of the training YAML.
        datasets: by name.
        overwrite: whether an entry of the same name may be replaced by a different one.

    Raises:
        ValueError: the file is not a JSON object, or has an entry of that name which differs.
    """
    known = read_entries(dataset_info) if dataset_info.exists() else {}
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
