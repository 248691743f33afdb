"""`simulmask show`: the numbers of one example, typed by hand, and its pictures."""

import json
import re

import pytest

from simulmask_plugin.cli import main
from simulmask_plugin.config import ModelSettings, SimulMaskConfig
from simulmask_plugin.matrix import byte_tokenizer
from simulmask_plugin.prompts import Prompt

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

WAIT_1 = ["--policy", "wait_k", "--k", "1", "--source", "a b", "--target", "x y z"]


def shown(capsys, *options):
    assert main(["show", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_is_the_example_and_nothing_else(capsys):
    assert shown(capsys, *WAIT_1, "--positions", "modified_alibi") == {
        "tokens": ["a", "b", "->", "x", "x", "y", "z", "</s>"],
        "input_ids": [0, 1, 2, 3, 3, 4, 5, 6],
        "source_unit": [0, 1, -1, 2, -1, -1, -1, -1],
        "num_read": [2, 2, 1, 1, 2, 2, 2, 2],
        "position": [0, 1, 2, 3, 3, 4, 5, 6],
        "labels": [-100, -100, -100, 3, 4, 4, 5, 6],
        "mask": [
            "10000000",
            "11000000",
            "10100000",  # the header reads g(1) = 1
            "10110000",  # the look-ahead row, too
            "11101000",  # the kept row reads g(2) = 2
            "11101100",
            "11101110",
            "11101111",
        ],
        "schedule": [1, 2, 2, 2],
    }


def test_group_positions_count_source_and_target_separately(capsys):
    assert shown(capsys, *WAIT_1, "--positions", "group")["position"] == [0, 1, 0, 1, 1, 2, 3, 4]


def test_own_unit_rows_have_no_look_ahead(capsys):
    picture = shown(capsys, *WAIT_1, "--rows", "own_unit")
    assert picture["tokens"] == ["a", "b", "->", "x", "y", "z", "</s>"]
    assert picture["num_read"] == [2, 2, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("schedule", ["0,1,2", "0,1,2,2"])
def test_schedule_may_leave_out_the_end_of_sentence(capsys, schedule):
    picture = shown(capsys, "--source", "a b", "--target", "x y z", "--schedule", schedule)
    assert picture["schedule"] == [0, 1, 2, 2]


def test_characters_are_units(capsys):
    picture = shown(capsys, "--source", "你好", "--target", "hi", "--k", "1", "--source-units", "character")
    assert picture["source_unit"][:2] == [0, 1]
    assert picture["tokens"][:2] == ["你", "好"]


def test_a_repeated_word_keeps_its_id(capsys):
    assert shown(capsys, "--source", "a b a", "--target", "b", "--k", "3")["input_ids"] == [0, 1, 0, 2, 1, 3]


def test_folder_of_a_model_brings_tokenizer_and_settings(tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path)
    ModelSettings(SimulMaskConfig(policy="wait_k", k=1, rows="own_unit"), Prompt("T:", "\nA:")).save(tmp_path)
    picture = shown(capsys, "--tokenizer", str(tmp_path), "--source", "a bc", "--target", "é")
    assert picture["tokens"] == ["T", ":", " a", " b", "c", "\n", "A", ":", " ", "Ã", "©", "</s>"]
    assert picture["source_unit"] == [-1, -1, 0, 1, 1, -1, -1, -1, -1, -1, -1, -1]
    assert picture["schedule"] == [1, 2]


def test_folder_of_a_tokenizer_alone_gets_the_plain_prompt(tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path)
    picture = shown(capsys, "--tokenizer", str(tmp_path))
    text = "".join(picture["tokens"])
    assert text.startswith("Translate the following sentence from English to German: ich habe")
    assert picture["schedule"] == [3, 4, 5, 5, 5, 5]


def test_example_of_the_command_needs_no_options(capsys):
    assert main(["show"]) == 0
    output = capsys.readouterr().out
    assert "wait_k k=3 | layout prefix | rows look_ahead" in output
    assert "g(1..T+1) = 3 4 5 5 5 5" in output
    assert "\x1b" not in output, "no colours where the output is no terminal"


def test_mask_in_the_terminal_is_the_mask(capsys):
    assert main(["show", *WAIT_1]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("a") and "■" in line)
    assert [line.rstrip() for line in lines[start : start + 5]] == [
        "a      ■",
        "b      ■ ■",
        "->     ■ · ■",
        "x    ↷ ■ · ■ ■",
        "x      ■ ■ ■ · ■",
    ]


def test_png_is_written(tmp_path, capsys):
    path = tmp_path / "mask.png"
    assert main(["show", *WAIT_1, "--png", str(path)]) == 0
    assert path.read_bytes().startswith(PNG_SIGNATURE)
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--k", "0"], "simulmask.k must be an integer of at least 1"),
        (["--policy", "read_n"], "simulmask.n is missing: policy read_n needs it"),
        (["--schedule", "1,2"], r"The schedule has 2 values; expected 5"),
        (["--schedule", "1,x"], "A schedule is a list of integers"),
        (["--schedule", "3,2,1,1,1"], r"g must never decrease, got g\(1\)=3 > g\(2\)=2"),
        (["--schedule", "1,2", "--policy", "offline"], "--schedule goes with --policy schedule"),
        (["--policy", "schedule"], "needs the column `schedule`"),
        (["--source", "a"], "Give --source and --target together"),
        (["--tokenizer", "no/such/folder"], "no/such/folder: no such folder"),
        (["any.yaml", "--tokenizer", "folder"], "Give a training YAML or --tokenizer, not both"),
        (["--png", "no/such/folder/mask.png"], "No such file or directory"),
    ],
)
def test_bad_input_is_told_in_one_line(capsys, options, message):
    assert main(["show", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("simulmask: error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
