"""`simulmask trace`: one sentence of a run as a staircase, from its logs."""

import json

import pytest
from PIL import Image
from rich.cells import cell_len

from simulmask_plugin.cli import main
from simulmask_plugin.pictures.staircase import Stair, Staircase, staircase_text

SENTENCES = [
    {
        "source": "ein Haus am See",
        "prediction": "a house by",
        "delays": [2, 3, 3],
        "reference": "a house at a lake\n",
    },
    {"source": "das 東京 Haus", "prediction": "这座房", "delays": [1, 3, 3], "reference": "这座房子\n"},
]
STEPS = [
    {"action": "READ", "text": "ein", "g": 1, "time": 0.0},
    {"action": "READ", "text": "Haus", "g": 2, "time": 0.0},
    {"action": "WRITE", "text": "a house", "g": 2, "time": 0.25, "units": [["a", 0.75], ["house", 0.125]]},
    {"action": "READ", "text": "am", "g": 3, "time": 0.25},
    {"action": "WRITE", "text": "by", "g": 3, "time": 0.5, "units": [["by", 0.5]]},
]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def results(tmp_path):
    """The output of an evaluation with two runs."""
    for name in ("wait_k-2", "offline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "instances.log").write_text(lines({"index": i, **one} for i, one in enumerate(SENTENCES)))
    return tmp_path


def test_delays_are_a_staircase(results, capsys):
    assert main(["trace", str(results / "wait_k-2"), "0"]) == 0
    heading, source, output, reference, _, *stairs = capsys.readouterr().out.splitlines()
    assert heading.startswith("wait_k-2, sentence 0, chrF ")
    assert source == "source     ein Haus am See"
    assert (output, reference) == ("output     a house by", "reference  a house at a lake")
    assert [line.rstrip() for line in stairs] == [
        "target  source    g  read before it",
        "a       ■ ■ · ·   2  ein Haus",
        "house   ■ ■ ■ ·   3  am",
        "by      ■ ■ ■ ·   3",
        "read after the last unit, or not at all: See",
        "",
    ]


def test_trace_adds_probability_and_time(results, capsys):
    """Its units are the rows; those of one WRITE share its time."""
    (results / "wait_k-2" / "trace.jsonl").write_text(lines([{"steps": STEPS}, {"steps": []}]))
    assert main(["trace", str(results), "0", "--policy", "wait_k-2"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[5:9]] == [
        "target  source    g     P       s  read before it",
        "a       ■ ■ · ·   2  0.75   0.250  ein Haus",
        "house   ■ ■ · ·   2  0.12   0.250",
        "by      ■ ■ ■ ·   3  0.50   0.500  am",
    ]


def test_wide_characters_are_aligned():
    """Cells stand below each other, whatever stands before them."""
    stairs = [Stair("这", 1), Stair("house", 2), Stair("東京都", 3), Stair("a" * 50, 3), Stair("", 3)]
    head, *rows = staircase_text(Staircase(["x"] * 3, stairs, ""), 100).plain.splitlines()
    starts = {cell_len(row[: row.index("■")]) for row in rows} | {cell_len(head[: head.index("source")])}
    assert starts == {24 + 2}
    assert rows[-1].startswith("␣ ")


def test_character_has_a_delay_of_its_own(results, capsys):
    assert main(["trace", str(results), "1", "--policy", "offline"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[6:9]] == [
        ["这", *"■··", "1", "das"],
        ["座", *"■■■", "3", "東京", "Haus"],
        ["房", *"■■■", "3"],
    ]


def test_cells_that_do_not_fit_stand_close():
    stairs = [Stair("a", 40)]
    (row,) = staircase_text(Staircase(["x"] * 40, stairs, ""), 80).plain.splitlines()[1:]
    assert "■" * 40 in row


def test_unsure_unit_is_marked():
    text = staircase_text(Staircase(["x"], [Stair("a", 1, 0.51, 0.1), Stair("b", 1, 0.49, 0.2)], ""), 80)
    (marked,) = [span for span in text.spans if str(span.style) == "#d55e00"]
    assert text.plain[marked.start : marked.end].strip() == "0.49"


def test_picture_has_a_row_for_every_unit(results, capsys, tmp_path):
    (results / "wait_k-2" / "trace.jsonl").write_text(lines([{"steps": STEPS}]))
    png = tmp_path / "trace.png"
    assert main(["trace", str(results), "0", "--policy", "wait_k-2", "--png", str(png)]) == 0
    assert f"Drawn into {png}" in capsys.readouterr().out
    with Image.open(png) as image:
        assert image.text["Title"].startswith("wait_k-2, sentence 0")
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 16)}
    assert {(0, 0x72, 0xB2), (0, 0x9E, 0x73)} <= colors, "what had been read before, and since"


def test_sentence_without_a_word_is_drawn(results, capsys, tmp_path):
    empty = SENTENCES[0] | {"index": 0, "prediction": "", "delays": []}
    (results / "wait_k-2" / "instances.log").write_text(lines([empty]))
    assert main(["trace", str(results / "wait_k-2"), "0", "--png", str(tmp_path / "a.png")]) == 0
    assert "read after the last unit, or not at all: ein Haus am See" in capsys.readouterr().out


WRONG = {
    "several runs": (["0"], "has several runs; choose one with --policy: offline, wait_k-2."),
    "unknown run": (["0", "--policy", "low"], "--policy low: {} has no such run; expected one of offline, wait_k-2."),
    "sentence": (["2", "--policy", "offline"], "instances.log has the sentences 0 to 1, got 2."),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_there_is_named(results, capsys, options, message):
    assert main(["trace", str(results), *options]) == 2
    assert message.format(results) in capsys.readouterr().err


def test_folder_without_results_is_named(tmp_path, capsys):
    assert main(["trace", str(tmp_path), "0"]) == 2
    assert f"{tmp_path}: no instances.log in it or in its folders; expected the output of" in capsys.readouterr().err


def test_delays_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="Expected a delay for every word or character, got 1 for 'a house'"):
        Staircase.from_logs(SENTENCES[0] | {"prediction": "a house", "delays": [1]})
