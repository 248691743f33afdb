"""The two scripts that prepare parallel text for training and evaluation."""

import json
import sys
from importlib import import_module

import pytest
from run_script import ROOT, advice, run_script

from simulmask_plugin.corpora.parallel_text import read_lines, read_pairs


def without_place(pairs):
    return [(pair.source, pair.target) for pair in pairs]


def write(path, text):
    path.write_text(text, encoding="utf-8")


def run(script, *arguments, **options):
    return run_script(f"east_scripts/{script}", *arguments, **options)


def test_scripts_prepare_the_toy_pair_by_default(tmp_path):
    printed = run("prepare_train_data.py", cwd=tmp_path)
    assert "read" in printed
    assert advice(printed) == {"dataset_dir": "output/data", "dataset": "toy_train"}
    assert "written" in run("prepare_mt_test_data.py", cwd=tmp_path)
    out = tmp_path / "output" / "data"
    assert without_place(read_pairs(out / "toy_train.jsonl")) == without_place(
        read_pairs(ROOT / "data/toy/train.jsonl")
    )
    for side in ("source", "target"):
        assert (out / f"toy_test.{side}").read_text() == (ROOT / f"data/toy/test.{side}").read_text()
    assert json.loads((out / "dataset_info.json").read_text()) == {
        "toy_train": {
            "file_name": "toy_train.jsonl",
            "formatting": "simulmask",
            "columns": {"source": "source", "target": "target"},
        }
    }
    assert "--overwrite" in run("prepare_train_data.py", cwd=tmp_path, status=1)


def test_train_script_reads_a_yaml_and_keeps_other_datasets(tmp_path):
    write(tmp_path / "a.de", "eins zwei\n\ndrei\nvier\n")
    write(tmp_path / "a.en", "one two\nx\nthree\nfour\n")
    write(tmp_path / "dataset_info.json", '{"other": {"file_name": "other.json"}}')
    write(
        tmp_path / "a.yaml",
        "source: a.de\ntarget: a.en\nname: numbers\noutput: out\ndataset_info: dataset_info.json\nvalid: 1\n"
        "source_lang: German\ntarget_lang: English\ndrop_duplicates: true\n",
    )
    printed = run("prepare_train_data.py", "a.yaml", "--limit", 2, cwd=tmp_path)
    assert [line.split() for line in printed.splitlines()[:2]] == [
        ["read", "4"],
        ["dropped:", "empty", "side", "1"],
    ]
    rows = [
        json.loads(line) for name in ("train", "valid") for line in read_lines(tmp_path / f"out/numbers_{name}.jsonl")
    ]
    assert advice(printed) == {
        "dataset_dir": ".",
        "dataset": "numbers_train",
        "eval_dataset": "numbers_valid",
        "eval_strategy": "epoch",
    }
    assert sorted(rows, key=str) == [
        {"source": "drei", "target": "three", "source_lang": "German", "target_lang": "English"},
        {"source": "eins zwei", "target": "one two", "source_lang": "German", "target_lang": "English"},
    ]
    known = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(known) == ["other", "numbers_train", "numbers_valid"]
    assert known["numbers_valid"]["file_name"] == "out/numbers_valid.jsonl"
    assert list(known["numbers_valid"]["columns"]) == ["source", "target", "source_lang", "target_lang"]


def test_train_script_refuses_to_change_a_dataset_entry(tmp_path):
    write(tmp_path / "dataset_info.json", '{"toy_train": {"file_name": "other.json"}}')
    arguments = ["prepare_train_data.py", "--dataset-info", "dataset_info.json"]
    assert "has another dataset named 'toy_train'" in run(*arguments, cwd=tmp_path, status=1)
    assert not (tmp_path / "output").exists()
    run(*arguments, "--overwrite", cwd=tmp_path)
    assert "simulmask" in (tmp_path / "dataset_info.json").read_text()


def test_scripts_refuse_to_write_nothing(tmp_path):
    write(tmp_path / "a.tsv", "")
    assert "input without any" in run("prepare_mt_test_data.py", "--pairs", "a.tsv", cwd=tmp_path, status=1)
    write(tmp_path / "a.tsv", "a\t\n")
    printed = run("prepare_mt_test_data.py", "--pairs", "a.tsv", cwd=tmp_path, status=1)
    assert "No pair is left of 1 read; dropped: {'empty side': 1}" in printed
    assert not (tmp_path / "output").exists()


def test_test_script_cuts_characters_as_simuleval_wants_them(tmp_path):
    write(tmp_path / "a.tsv", "我有 iPad\t我 有\n")
    units = ["--source-unit", "character", "--target-unit", "character"]
    run("prepare_mt_test_data.py", "--pairs", "a.tsv", *units, "--output", ".", "--name", "a", cwd=tmp_path)
    assert (tmp_path / "a.source").read_text() == "我 有 iPad\n"
    assert (tmp_path / "a.target").read_text() == "我有\n"


def test_pairs_that_follow_each_other_are_joined_in_turn(tmp_path):
    write(tmp_path / "a.tsv", "".join(f"s{number}\tt {number}\n" for number in range(6)))
    named = ["--pairs", "a.tsv", "--join", "1-2", "--output", ".", "--name", "a"]
    run("prepare_mt_test_data.py", *named, cwd=tmp_path)
    assert (tmp_path / "a.source").read_text() == "s0\ns1 s2\ns3\ns4 s5\n"
    run("prepare_train_data.py", *named, "--limit", 5, cwd=tmp_path)
    assert without_place(read_pairs(tmp_path / "a_train.jsonl"))[1:] == [
        ("s1 s2", "t 1 t 2"),
        ("s3", "t 3"),
        ("s4", "t 4"),
    ]


def test_characters_are_joined_without_spaces(tmp_path):
    write(tmp_path / "a.tsv", "我\tI am\n有\there\n")
    options = ["--source-unit", "character", "--join", "2", "--output", ".", "--name", "a"]
    run("prepare_train_data.py", "--pairs", "a.tsv", *options, cwd=tmp_path)
    assert without_place(read_pairs(tmp_path / "a_train.jsonl")) == [("我有", "I am here")]


@pytest.mark.parametrize("sizes", ["0-2", "3-2", "2-", "two", "-1"])
def test_join_takes_numbers(tmp_path, sizes):
    printed = run("prepare_mt_test_data.py", f"--join={sizes}", cwd=tmp_path, status=2)
    assert f"--join: expected N, or N-M with 1 <= N <= M, got '{sizes}'" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sorce: a.de\n", r"unknown key 'sorce'; known keys: source, target, pairs"),
        ("overwrite: 1\n", "overwrite must be true or false, got 1"),
        ("- a\n", "a.yaml: expected a mapping of keys to values"),
        ("source: a.de\n", "Expected --source and --target, or --pairs, or"),
        ("limit: 0\n", "--limit must be at least 1, got 0"),
        ("pairs: a.yaml\n", r"expected a name that ends in .tsv"),
    ],
)
def test_scripts_name_what_is_wrong_in_a_yaml(tmp_path, content, message):
    write(tmp_path / "a.yaml", content)
    assert message in run("prepare_mt_test_data.py", "a.yaml", cwd=tmp_path, status=1)


def test_interrupted_script_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "east_scripts"))
    options = import_module("corpus_options")

    def interrupt(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["prepare.py"])
    parser = options.corpus_parser("a script")
    parser.add_argument("--name")
    with pytest.raises(SystemExit, match="130"):
        options.run(parser, interrupt)
    assert capsys.readouterr().err == "prepare.py: interrupted; a file is written whole or not at all.\n"


@pytest.mark.parametrize(("odd", "counted"), [("\u00a0", True), ("\u202f", True), ("▁", True), (" ", False)])
def test_white_space_that_becomes_a_plain_space_is_counted(tmp_path, odd, counted):
    write(tmp_path / "a.tsv", f"10{odd}000 Leute\t10 000 people\nein Haus\ta house\n")
    out = run("prepare_mt_test_data.py", "--pairs", "a.tsv", "--output", ".", "--name", "a", cwd=tmp_path)
    assert ("which becomes a plain space: 1 of 2 pairs" in out) == counted
    assert (tmp_path / "a.source").read_text() == "10 000 Leute\nein Haus\n"
