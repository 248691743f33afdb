"""`simulmask show`: the numbers of one example, typed by hand, and its pictures."""

import json

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.pictures import drawing
from simulmask_plugin.text.prompts import Prompt

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

WAIT_1 = ["--policy", "wait_k", "--k", "1", "--source", "a b", "--target", "x y z"]

INSTRUCTION = ["--instruction", "A: B: C: P"]
SLOTS = ["--layout", "slots", "--slot-length", "3", "--k", "2", "--source", "a b c d", "--target", "p q r"]
"""The example of `Slots.lay_out`: c fills the slot, d opens another one."""

LAYOUTS = {
    "prefix": (
        WAIT_1,
        ["P", "a", "b", "->", "x", "x", "y", "z", "</s>"],
        ["prompt", "source", "source", "header", "target", "target", "target", "target", "target"],
    ),
    "interleaved": (
        ["--layout", "interleaved", "--schedule", "1,2", "--source", "a b", "--target", "x y"],
        ["P", "a", "<|end-of-read|>", "x", "<|end-of-write|>", "b", "<|end-of-read|>", "y", "<|end-of-write|>", "</s>"],
        ["prompt", "source", "header", "target", "header", "source", "header", "target", "header", "target"],
    ),
    "turns": (
        ["--layout", "turns", "--k", "1", "--source", "a b", "--target", "x y"],
        ["P", "a", "->", "x", "<-", "b", "->", "y", "</s>"],
        ["prompt", "source", "header", "target", "header", "source", "header", "target", "target"],
    ),
    "slots": (
        SLOTS,
        ["P", "a", "b", "c", "->", "p", "p", "q", "<-", "d", "->", "r", "</s>"],
        [
            *["prompt", "slot", "slot", "slot", "header", "target", "target", "target"],
            *["header", "slot", "header", "target", "target"],
        ],
    ),
}
"""Options, and the tokens and regions that follow the first three words of the instruction."""


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
        "region": ["source", "source", "header", "target", "target", "target", "target", "target"],
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


@pytest.mark.parametrize("options, tokens, regions", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_token_has_its_region(capsys, options, tokens, regions):
    picture = shown(capsys, *INSTRUCTION, *options)
    assert picture["tokens"] == ["A:", "B:", "C:", *tokens]
    assert picture["region"] == ["prompt", "prompt", "prompt", *regions]


def test_slot_length_decides_what_fits(capsys):
    assert shown(capsys, *SLOTS, "--slot-length", "4")["tokens"].count("<-") == 0
    assert shown(capsys, *SLOTS)["position"] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 10, 11, 12]


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
    ModelSettings(
        SimulMaskConfig.from_dict({"policy": "wait_k", "k": 1, "rows": "own_unit"}), Prompt("T:", "\nA:")
    ).save(tmp_path)
    picture = shown(capsys, "--tokenizer", str(tmp_path), "--source", "a bc", "--target", "é")
    assert picture["tokens"] == ["T", ":", " a", " b", "c", "\n", "A", ":", " ", "Ã", "©", "</s>"]
    assert picture["source_unit"] == [-1, -1, 0, 1, 1, -1, -1, -1, -1, -1, -1, -1]
    assert picture["schedule"] == [1, 2]


def test_option_drops_what_the_model_then_does_not_read(tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path)
    config = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 1, "look_ahead_rate": 0.5, "group_offset": 4})
    ModelSettings(config, Prompt("T:", "\nA:")).save(tmp_path)
    options = ["--tokenizer", str(tmp_path), "--source", "a", "--target", "b"]
    assert shown(capsys, *options, "--rows", "own_unit")["position"] == [0, 1, 2, 6, 7, 8, 9, 10]
    assert shown(capsys, *options, "--positions", "contiguous")["position"] == list(range(8))


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


def mask_lines(capsys, *options):
    """What the terminal shows of the mask, line by line."""
    assert main(["show", *options]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    return lines[next(i for i, line in enumerate(lines) if line.startswith("mask")) + 1 :]


def test_mask_in_the_terminal_is_the_mask(capsys):
    assert mask_lines(capsys, *WAIT_1) == [
        "         S S H T T T T T",
        "a    S   ■",
        "b    S   ■ ■",
        "->   H   ■ · ■",
        "x    T ↷ ■ · ■ ■",
        "x    T   ■ ■ ■ · ■",
        "y    T   ■ ■ ■ · ■ ■",
        "z    T   ■ ■ ■ · ■ ■ ■",
        "</s> T   ■ ■ ■ · ■ ■ ■ ■",
        " S  source    H  header    T  target   ■ may attend   · may not attend   ↷ look-ahead row",
    ]


def test_slots_are_numbered_in_the_terminal(capsys):
    assert mask_lines(capsys, *INSTRUCTION, *SLOTS) == [
        "          P P L L L H T T T H L H T T",
        "C:   P    ■",
        "P    P    ■ ■",
        "a    L1   ■ ■ ■",
        "b    L1   ■ ■ ■ ■",
        "c    L1   ■ ■ ■ ■ ■",
        "->   H    ■ ■ ■ ■ · ■",
        "p    T  ↷ ■ ■ ■ ■ · ■ ■",
        "p    T    ■ ■ ■ ■ ■ ■ · ■",
        "q    T    ■ ■ ■ ■ ■ ■ · ■ ■",
        "<-   H    ■ ■ ■ ■ ■ ■ · ■ ■ ■",
        "d    L2   ■ ■ ■ ■ ■ ■ · ■ ■ ■ ■",
        "->   H    ■ ■ ■ ■ ■ ■ · ■ ■ ■ ■ ■",
        "r    T    ■ ■ ■ ■ ■ ■ · ■ ■ ■ ■ ■ ■",
        "</s> T    ■ ■ ■ ■ ■ ■ · ■ ■ ■ ■ ■ ■ ■",
        " P  prompt    L  slot (reserved for source)    H  header    T  target   ■ may attend   · may not attend   "
        "↷ look-ahead row",
        "slot 1 (3 of 3 positions)   slot 2 (1 of 3 positions)",
    ]


def test_table_names_the_regions_without_colour(capsys):
    assert main(["show", *SLOTS]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "a", "0", "L1", *"slot 1 (3 of 3 positions)".split(), "0", "all", "0"] in lines
    assert ["8", "d", "3", "L2", *"slot 2 (1 of 3 positions)".split(), "3", "all", "7"] in lines
    assert ["4", "p", "5", "T", "target,", "look-ahead", "4", "2", "4", "q"] in lines


def test_table_says_of_every_row_what_it_predicts(capsys):
    """Both rows of a look-ahead pair predict what follows it; labels, which are shifted, stay in the JSON."""
    assert main(["show", *WAIT_1]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line and line[-1] == "predicts")
    rows = [line for line in lines[start + 1 :] if line and line[0].isdigit()]
    assert [line[1] for line in rows] == ["a", "b", "->", "x", "x", "y", "z", "</s>"]
    assert [line[-1] for line in rows[2:7]] == ["x", "y", "y", "z", "</s>"]
    assert [len(line) for line in rows] == [8, 8, 9, 10, 9, 9, 9, 8], "prompt, source and the end predict nothing"


def test_plain_causal_rows_see_all_and_the_legend_has_no_hidden_cell(capsys):
    lines = mask_lines(capsys, *LAYOUTS["turns"][0])
    assert lines[-1] == " S  source    H  header    T  target   ■ may attend"


def test_regions_are_coloured_where_there_are_colours(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["show", *SLOTS]) == 0
    output = capsys.readouterr().out
    for letter, (red, green, blue) in {"L": (204, 121, 167), "H": (230, 159, 0), "T": (0, 158, 115)}.items():
        assert f"\x1b[30;48;2;{red};{green};{blue}m{letter}\x1b" in output
        assert f"\x1b[38;2;{red};{green};{blue}m■" in output


@pytest.fixture
def drawn(monkeypatch, capsys):
    """Returns the figure that a command draws, and its axes."""

    def draw(*options):
        figures = []
        monkeypatch.setattr(drawing, "save_png", lambda picture, path, heading: figures.append((picture, heading)))
        assert main(["show", *options, "--png", "unused.png"]) == 0
        capsys.readouterr()
        figure = drawing.mask_figure(*figures[0])
        return figure, figure.axes[0]

    return draw


LEGENDS = {
    "prefix": ["P  prompt", "S  source", "H  header", "T  target", "not seen", "↷ look-ahead row"],
    "interleaved": ["P  prompt", "S  source", "H  header", "T  target"],
    "turns": ["P  prompt", "S  source", "H  header", "T  target"],
    "slots": [
        *["P  prompt", "L  slot (reserved for source)", "H  header", "T  target"],
        *["slot: how many of its\npositions are filled", "not seen", "↷ look-ahead row"],
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_png_has_a_legend_of_the_regions_that_occur(drawn, layout):
    _, axes = drawn(*INSTRUCTION, *LAYOUTS[layout][0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == LEGENDS[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_png_has_strips_with_the_region_of_every_row_and_column(drawn, layout):
    """Of the prompt, two tokens are drawn."""
    _, axes = drawn(*INSTRUCTION, *LAYOUTS[layout][0])
    regions = ["prompt", *LAYOUTS[layout][2]]
    letters = {"prompt": "P", "source": "S", "slot": "L", "header": "H", "target": "T"}
    strips = [(*text.get_position(), text.get_text()) for text in axes.texts if type(text) is Text]
    rows = {round(y): letter for x, y, letter in strips if x < -0.5}
    columns = {round(x): letter for x, y, letter in strips if y > len(regions) - 0.5}
    assert rows == columns == dict(enumerate(letters[region] for region in regions))


def test_png_cells_have_a_tint_of_the_columns_region(drawn):
    _, axes = drawn(*WAIT_1)
    cells = axes.images[0].get_array()
    hidden, future = [0xF2 / 255] * 3, [1, 1, 1]
    source, header = ([0.6 * value / 255 + 0.4 for value in color] for color in ((0, 114, 178), (230, 159, 0)))
    np.testing.assert_allclose(cells[2, :4], [source, hidden, header, future])
    dots = {(int(x), int(y)) for x, y in axes.lines[0].get_xydata()}
    assert dots == {(1, 2), (1, 3), (3, 4), (3, 5), (3, 6), (3, 7)}


def test_png_has_a_bracket_over_each_slot(drawn):
    """Two words of the prompt are not drawn."""
    _, axes = drawn(*INSTRUCTION, *SLOTS)
    brackets = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 4 and line.get_ydata()[0] < 0]
    assert [(xs[0] + 0.4, xs[-1] + 0.6) for xs in brackets] == [(2, 5), (10, 11)]
    assert [t.get_text() for t in axes.texts if "slot" in t.get_text()] == ["slot 1\n3 of 3", "slot 2\n1 of 3"]


def test_png_frames_the_look_ahead_rows(drawn):
    _, axes = drawn(*INSTRUCTION, *SLOTS)
    frames = [patch.get_y() + 0.44 for patch in axes.patches if not patch.get_fill()]
    assert frames == [6]
    assert [t.get_text() for t in axes.texts].count("↷ p") == 2


def test_png_is_written(tmp_path, capsys):
    path = tmp_path / "mask.png"
    assert main(["show", *WAIT_1, "--png", str(path)]) == 0
    assert path.read_bytes().startswith(PNG_SIGNATURE)
    assert str(path) in capsys.readouterr().out


def test_png_holds_its_numbers(tmp_path, capsys):
    """Words that Latin-1 has not, too."""
    path = tmp_path / "mask.png"
    options = ["--source", "αβ γ", "--target", "ж x"]
    assert main(["show", *options, "--png", str(path), "--json"]) == 0
    with Image.open(path) as image:
        assert json.loads(image.text["Comment"]) == json.loads(capsys.readouterr().out)
        assert image.text["Title"] == (
            "wait_k k=3 | layout prefix | rows look_ahead | positions group | look_ahead_rate 1.0"
        )
