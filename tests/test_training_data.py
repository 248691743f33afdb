"""Rows of every kind of file become the same features."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from driving import llama_factory, write_setup
from in_process import load_data

import simulmask_plugin
from simulmask_plugin.batches.features import row_of
from simulmask_plugin.commands.training_yaml import load_training, read_data
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.training.dataset import COLUMNS, code_digest, convert_row, parse_schedule

pytestmark = llama_factory

SCHEDULED = [
    {"source": "ein haus am see", "target": "a house", "target_lang": "Dutch", "schedule": [1, 4]},
    {"source": "zwei, 你好", "target": 'two "of" them', "target_lang": "French", "schedule": [0, 2, 2, 2]},
    {"source": "drei", "target": "three", "target_lang": "Dutch", "schedule": [1]},
]
CHUNKS = [
    {"source_chunks": ["ein haus", " am see"], "target_chunks": ["a house", " at the lake"], "latency": "low"},
    {"source_chunks": ["zwei"], "target_chunks": ["two"], "latency": "high"},
]


def write_json(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=False))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_csv(path, rows, separator=" "):
    """Lists become text."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"schedule": separator.join(map(str, row["schedule"]))})


def write_python_csv(path, rows):
    """As `str` writes a list."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    Dataset.from_list(rows).to_parquet(path)


FILES = {
    "rows.json": write_json,
    "rows.jsonl": write_jsonl,
    "rows.csv": write_csv,
    "lists.csv": write_python_csv,
    "rows.parquet": write_parquet,
}
KINDS = {"schedule": (SCHEDULED, {"policy": "schedule"}), "chunks": (CHUNKS, {"layout": "interleaved"})}
CASES = [(kind, name) for kind in KINDS for name in FILES if kind == "schedule" or not name.endswith("csv")]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """A training YAML for each kind of rows, with a data set of each kind of file."""
    paths = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        for kind, (rows, block) in KINDS.items():
            folder = tmp_path_factory.mktemp(kind)
            keys = {"template": "empty", "cache_dir": str(folder / "cache"), "cutoff_len": 512}
            paths[kind] = write_setup(folder, simulmask=block, **keys)
            entries = {}
            for name in FILES:
                if (kind, name) in CASES:
                    FILES[name](folder / name, rows)
                    columns = {column: column for column in rows[0]}
                    entries[name] = {"file_name": name, "formatting": "simulmask", "columns": columns}
            (folder / "dataset_info.json").write_text(json.dumps(entries))
        yield paths


@pytest.mark.parametrize("kind, name", CASES)
def test_every_kind_of_file_gives_the_same_features(trainings, kind, name):
    """In training, and where `simulmask validate` reads the first rows."""
    path, (rows, _) = trainings[kind], KINDS[kind]
    expected, found = (load_data(path, f"dataset={one}").to_list() for one in ("rows.json", name))
    assert found == expected
    assert len(found) == len(rows)
    if kind == "schedule":
        assert [feature["schedule"] for feature in found] == [[1, 4, 4], [0, 2, 2, 2], [1, 1]]
    else:
        assert [feature["schedule"] for feature in found] == [[2, 2, 4, 4, 4, 4], [1, 1]]
    first, other = (read_data(load_training(str(path), [f"dataset={one}"])) for one in ("rows.json", name))
    assert (first[0].first, first[0].longest) == (other[0].first, other[0].longest)


@pytest.mark.parametrize("value", [[1, 2, 12], "1 2 12", "1,2,12", "[1, 2, 12]", " [1 2 12] "])
def test_schedule_is_a_list_or_its_text(value):
    assert parse_schedule(value, "here") == [1, 2, 12]


def test_schedule_of_one_target_unit_may_be_a_number():
    """So pandas reads a column of CSV in which no row has another."""
    assert parse_schedule(3, "here") == [3]


def test_chunks_that_are_text_are_refused():
    """Their letters would be taken for chunks."""
    row = {"source_chunks": "ein haus", "target_chunks": ["a house"]}
    with pytest.raises(
        ValueError, match=r"mine, example 1: source_chunks must be a list of texts, got 'ein haus'; use"
    ):
        convert_row(row, 0, columns={key: key for key in row}, name="mine")


@pytest.mark.parametrize("language", [3, ["German"], float("nan")])
def test_language_that_is_no_text_is_refused(language):
    row = {"source": "ein haus", "target": "a house", "target_lang": language}
    with pytest.raises(ValueError, match=r"mine, example 3: target_lang must be a text, got"):
        convert_row(row, 2, columns={key: key for key in row}, name="mine")


def test_latency_of_a_row_that_comes_whole_is_checked_as_well():
    """Its prompt would name a latency that streaming refuses."""
    config = SimulMaskConfig.from_dict({"layout": "interleaved"})
    values = dict.fromkeys(COLUMNS) | {"source": "ein haus", "target": "a house"}
    assert row_of(values | {"latency": "low"}, config).latency == "low"
    with pytest.raises(ValueError, match=r"Unknown latency 'lowest'; expected one of low"):
        row_of(values | {"latency": "lowest"}, config)


@pytest.mark.parametrize(
    ("file", "is_tokenized_again"),
    [
        ("layouts/slots.py", True),
        ("text/units.py", True),
        ("policies/fixed.py", True),
        ("pictures/drawing.py", False),
        ("commands/show.py", False),
        ("training/trainer.py", False),
    ],
)
def test_a_data_set_is_tokenized_again_after_an_edit_of_what_makes_features(tmp_path, file, is_tokenized_again):
    copied = tmp_path / "package"
    shutil.copytree(Path(simulmask_plugin.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_digest(copied)
    assert before == code_digest()
    with (copied / file).open("a") as code:
        code.write("# edited\n")
    code_digest.cache_clear()
    assert (code_digest(copied) != before) == is_tokenized_again
