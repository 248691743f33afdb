"""The published data of EAST: spacing, faults that are counted, and prepare_train_data.py --format east."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_script import advice, rows_of, run_script

from simulmask_plugin.corpora.east_data import clean_examples, read_offline, read_simt, space_chunks
from simulmask_plugin.corpora.parallel_text import Cleaning


def simt(source=("Ein Hund", "läuft"), target=("A dog", "runs"), latency="low", **changes):
    row = {
        "src_lang": "German",
        "tgt_lang": "English",
        "latency": latency,
        "source_chunks": list(source),
        "target_chunks": list(target),
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def offline(source="Ein Hund", target="A dog", **changes):
    return {"src_lang": "German", "tgt_lang": "English", "source": source, "target": target, **changes}


def write(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2))
    return path


def run(*arguments, **options):
    return run_script("east_scripts/prepare_train_data.py", "--format", "east", *arguments, **options)


def test_chunks_get_the_spaces_of_their_language():
    assert space_chunks([" Ein  Hund ", "läuft", "."], "German") == ["Ein Hund", " läuft", " ."]
    assert space_chunks(["你好 ", " 吗"], "Chinese") == ["你好", "吗"]
    assert space_chunks(["今日", "は"], "ja") == ["今日", "は"]


@given(st.lists(st.lists(st.text("abß", min_size=1), min_size=1), min_size=1))
def test_spaced_chunks_join_to_the_sentence(chunks):
    words = [" ".join(chunk) for chunk in chunks]
    assert "".join(space_chunks(words, "German")) == " ".join(words)
    assert "".join(space_chunks(words, "Japanese")) == "".join(words)


def test_array_and_lines_are_read_alike(tmp_path):
    rows = [simt(), simt(latency="high")]
    array = write(tmp_path / "a.json", rows)
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_array, from_lines = (read_simt(path)[0] for path in (array, lines))
    assert [example.row for example in from_array] == [example.row for example in from_lines]
    assert from_array[1].pair == ("Ein Hund läuft", "A dog runs", f"{array}, item 2")
    assert from_array[1].row == {
        "source_lang": "German",
        "target_lang": "English",
        "latency": "high",
        "source_chunks": ["Ein Hund", " läuft"],
        "target_chunks": ["A dog", " runs"],
    }


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (simt(latency="slow"), "unknown latency"),
        (simt(target=["A dog"]), "unequal counts of chunks"),
        (simt(source=["Ein Hund", " \u00a0"]), "empty chunk"),
        (simt(source=[], target=[]), "empty chunk"),
        (simt(tgt_lang=None), "missing key"),
        (simt(source_chunks="Ein Hund"), "not text"),
        (simt(source=["a", 1]), "not text"),
        (simt(source=["a", "\ud83d"]), "not text"),
        ("Ein Hund", "missing key"),
    ],
)
def test_faults_of_chunk_rows_are_named_with_their_place(tmp_path, row, fault):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([simt(), row]))
    examples, faults = read_simt(path)
    assert len(examples) == 1
    assert faults == {fault: [f"{path}, item 2"]}


def test_faults_of_sentence_rows(tmp_path):
    path = write(tmp_path / "a.json", [offline(), {"source": "a", "target": "b"}, offline(target=None)])
    examples, faults = read_offline(path)
    assert [example.row for example in examples] == [
        {"source_lang": "German", "target_lang": "English", "source": "Ein Hund", "target": "A dog"}
    ]
    assert faults == {"missing key": [f"{path}, item 2"], "not text": [f"{path}, item 3"]}


def test_cleaning_counts_in_the_units_of_each_language_and_keeps_every_level(tmp_path):
    chinese = simt(["你好"], ["How are you"], src_lang="Chinese")
    rows = [simt(), simt(), simt(latency="high"), chinese, simt(["eins zwei drei vier"], ["a b c d"])]
    examples, _ = read_simt(write(tmp_path / "a.json", rows))
    kept, dropped = clean_examples(examples, Cleaning(max_units=3, max_ratio=1.5, drop_duplicates=True))
    assert [(example.row["source_lang"], example.row["latency"]) for example in kept] == [
        ("German", "low"),
        ("German", "high"),
        ("Chinese", "low"),
    ]
    assert dropped == {"duplicate": 1, "too long": 1}


# --- Script


def test_script_writes_chunks_and_sentences_with_their_entries(tmp_path):
    write(tmp_path / "simt.json", [simt(), simt(latency="slow"), simt(latency="new")])
    write(tmp_path / "off.json", [offline()])
    printed = run("--pairs", "simt.json", "--offline", "off.json", "--name", "a", "--output", ".", cwd=tmp_path)
    assert ["dropped:", "unknown", "latency", "2"] in [line.split() for line in printed.splitlines()]
    assert "the first of each: unknown latency: simt.json, item 2" in printed
    assert rows_of(tmp_path / "a_train.jsonl")[0]["source_chunks"] == ["Ein Hund", " läuft"]
    assert rows_of(tmp_path / "a_offline.jsonl")[0]["source"] == "Ein Hund"
    known = json.loads((tmp_path / "dataset_info.json").read_text())
    assert {name: list(entry["columns"]) for name, entry in known.items()} == {
        "a_train": ["source_lang", "target_lang", "latency", "source_chunks", "target_chunks"],
        "a_offline": ["source_lang", "target_lang", "source", "target"],
    }
    assert "--overwrite" in run("--pairs", "simt.json", "--name", "a", "--output", ".", cwd=tmp_path, status=1)


def test_held_out_sentences_leave_with_all_their_levels(tmp_path):
    rows = [simt([f"Hund {n}"], ["dog"], latency=latency) for n in range(5) for latency in ("low", "high")]
    write(tmp_path / "simt.json", rows)
    printed = run("--pairs", "simt.json", "--valid", 2, "--output", ".", cwd=tmp_path)
    assert (advice(printed)["dataset"], advice(printed)["eval_dataset"]) == ("east_train", "east_valid")
    train, valid = (rows_of(tmp_path / f"east_{split}.jsonl") for split in ("train", "valid"))
    assert (len(train), len(valid)) == (6, 4)
    sources = [{row["source_chunks"][0] for row in split} for split in (train, valid)]
    assert sources[0].isdisjoint(sources[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got neither"),
        (["--offline", "off.json", "--valid", 1], "--valid holds out rows of --pairs"),
        (["--pairs", "a.json", "--source-lang", "de", "--target-unit", "character"], "--source-lang, --target-unit."),
        (["--pairs", "a.json", "--limit", 0], "--limit must be at least 1, got 0"),
        (["--pairs", "nowhere.json"], "No such file: nowhere.json"),
        (["--pairs", "broken.json"], "broken.json:3: expected JSON, got: "),
        (
            ["--pairs", "broken.jsonl"],
            "broken.jsonl:2: expected JSON, got: Expecting value at column 1. Expected one ",
        ),
        (
            ["--pairs", "off.json"],
            "No row of off.json is left; dropped: {'missing key': 1}. The first of each: missing",
        ),
    ],
)
def test_script_names_what_is_wrong(tmp_path, arguments, message):
    write(tmp_path / "a.json", [simt()])
    write(tmp_path / "off.json", [offline()])
    (tmp_path / "broken.json").write_text('[{"src_lang": "German",\n"tgt_lang": "English"},\n{]')
    (tmp_path / "broken.jsonl").write_text(f"{json.dumps(simt())}\nx\n")
    assert message in run(*arguments, "--output", "out", cwd=tmp_path, status=1)
    assert not (tmp_path / "out").exists()
