"""make_chunks.py: rows from links of a file and of eflomal, exact spacing, and errors."""

import json
import random
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from run_script import ROOT, advice, rows_of, run_script

LANGUAGES = ("--source-lang", "German", "--target-lang", "English")


def run(*arguments, **options):
    return run_script("east_scripts/make_chunks.py", "--output", "out", *arguments, **options)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def corpus(tmp_path):
    """Four pairs: with a verb at the end, without a target, without links, and of one word."""
    write(tmp_path / "a.de", "Er hat\u00a0heute  Brot gekauft .", "leer", "ganz frei", "Ja")
    write(tmp_path / "a.en", " He has bought bread today .", "", "much too free", "Yes")
    write(tmp_path / "a.links", "0-0 1-1 2-4 3-3 4-2 5-5", "", "", "0-0")
    return tmp_path


FILES = ("--source", "a.de", "--target", "a.en", "--alignments", "a.links")


def test_held_out_sentences_are_held_out_with_all_their_levels(corpus):
    printed = run(*FILES, *LANGUAGES, "--latencies", "low=1,high=4", "--name", "a", "--valid", 1, cwd=corpus)
    assert (advice(printed)["dataset"], advice(printed)["eval_dataset"]) == ("a", "a_valid")
    train, valid = (
        ["".join(row["source_chunks"]) for row in rows_of(corpus / f"out/a{end}.jsonl")] for end in ("", "_valid")
    )
    assert len(train) == len(valid) == 2
    assert {*train, *valid} == {"Er hat\u00a0heute  Brot gekauft .", "Ja"}


def test_chunks_of_given_links(corpus):
    printed = run(*FILES, *LANGUAGES, "--latencies", "low=1,high=4", "--name", "a", cwd=corpus)
    assert rows_of(corpus / "out/a.jsonl")[:2] == [
        {
            "source_lang": "German",
            "target_lang": "English",
            "latency": "low",
            "source_chunks": ["Er", " hat", "\u00a0heute  Brot gekauft", " ."],
            "target_chunks": ["He", " has", " bought bread today", " ."],
        },
        {
            "source_lang": "German",
            "target_lang": "English",
            "latency": "high",
            "source_chunks": ["Er hat\u00a0heute  Brot gekauft ."],
            "target_chunks": ["He has bought bread today ."],
        },
    ]
    assert advice(printed) == {"dataset_dir": "out", "dataset": "a"}
    lines = [line.split() for line in printed.splitlines()]
    assert ["dropped:", "empty", "side", "1"] in lines
    assert ["dropped:", "nothing", "aligned", "1"] in lines
    assert ["written:", "out/a.jsonl", "4"] in lines
    assert ["low", "2.50", "1.40", "1.25", "20.0%", "0.0%"] in lines
    known = json.loads((corpus / "out/dataset_info.json").read_text())
    assert list(known["a"]["columns"]) == ["source_lang", "target_lang", "latency", "source_chunks", "target_chunks"]
    assert "--overwrite" in run(*FILES, *LANGUAGES, "--name", "a", cwd=corpus, status=1)


def test_characters_are_cut_without_spaces(tmp_path):
    write(tmp_path / "a.tsv", "我喝茶\tI drink tea")
    write(tmp_path / "a.links", "0-0 1-1 2-2")
    pairs = ("--pairs", "a.tsv", "--alignments", "a.links", "--source-unit", "character", "--latencies", "low=1")
    run(*pairs, *LANGUAGES, cwd=tmp_path)
    [row] = rows_of(tmp_path / "out/toy_chunks.jsonl")
    assert row["source_chunks"] == ["我", "喝", "茶"]
    assert row["target_chunks"] == ["I", " drink", " tea"]


def test_aligner_gets_lines_and_leaves_links(monkeypatch):
    """An eflomal that takes what eflomal 2.0.0 takes, and writes what it writes: links i-j, a line a sentence."""
    taken = []

    class Aligner:
        def align(self, src_input, trg_input, links_filename_fwd=None, links_filename_rev=None, quiet=True):
            taken.append((src_input, trg_input, quiet))
            assert len({links_filename_fwd, links_filename_rev}) == 2
            # the second sentence has no link; of the third both directions say something else, and forward wins
            Path(links_filename_fwd).write_text("0-0 1-0 2-1\n\n0-0\n")
            Path(links_filename_rev).write_text("1-0 2-1\n\n0-1\n")

    eflomal = ModuleType("eflomal")
    eflomal.Aligner = Aligner
    monkeypatch.setitem(sys.modules, "eflomal", eflomal)
    monkeypatch.syspath_prepend(ROOT / "east_scripts")
    units = [(["a", "b", "c"], ["x", "y"]), (["我", "们"], ["we"]), (["d"], ["z", "z"])]
    links = import_module("make_chunks").align(units)
    assert taken == [(["a b c", "我 们", "d"], ["x y", "we", "z z"], True)]
    assert links == [{(0, 0), (1, 0), (2, 1)}, set(), {(0, 0)}]


def test_eflomal_finds_the_links_of_a_synthetic_corpus(tmp_path):
    pytest.importorskip("eflomal", reason="word alignment needs eflomal (pip install eflomal)")
    draw = random.Random(0)
    sentences = [[f"w{draw.randrange(40)}" for _ in range(draw.randint(3, 9))] for _ in range(400)]
    write(tmp_path / "a.de", *(" ".join(words) for words in sentences))
    # the first two words of the translation are swapped
    write(tmp_path / "a.en", *(" ".join([*words[1::-1], *words[2:]]).replace("w", "v") for words in sentences))
    run("--source", "a.de", "--target", "a.en", *LANGUAGES, "--latencies", "low=1", cwd=tmp_path)
    rows = rows_of(tmp_path / "out/toy_chunks.jsonl")
    right = 0
    for row, words in zip(rows, sentences, strict=True):
        assert "".join(row["source_chunks"]) == " ".join(words)
        assert len(row["source_chunks"]) == len(row["target_chunks"])
        right += row["source_chunks"] == [" ".join(words[:2]), *(f" {word}" for word in words[2:])]
    # not those whose first two words are equal, and not every word of an aligner is right
    assert right > 0.9 * len(rows)


def test_missing_eflomal_is_told_with_the_remedies(tmp_path):
    write(tmp_path / "eflomal.py", "raise ImportError('not installed')")
    printed = run(*LANGUAGES, cwd=tmp_path, status=1, path=tmp_path)
    assert "needs eflomal: pip install eflomal; or pass the links of another aligner with --alignments" in printed


@pytest.mark.parametrize(
    ("links", "arguments", "message"),
    [
        (["0-0"], LANGUAGES, "Expected a line of links for each of the 4 pairs, got 1 in a.links"),
        (["0-0", "", "2-0", ""], LANGUAGES, "a.links:3: expected links of 2 source and 3 target units, counted from 0"),
        (["0-0", "", "0:0", ""], LANGUAGES, "a.links:3: expected links i-j with i and j counted from 0, got '0:0'"),
        (["", "", "", ""], LANGUAGES, "None of the 3 pairs has a link"),
        (["0-0"], [], "pass --source-lang and --target-lang"),
        (["0-0"], (*LANGUAGES, "--latencies", "low:1"), "Expected latencies such as low=1,high=6, got 'low:1'"),
        (["0-0"], (*LANGUAGES, "--latencies", "slow=1"), "Unknown latency 'slow'; expected some of low, low-medium"),
    ],
)
def test_script_names_what_is_wrong(corpus, links, arguments, message):
    write(corpus / "a.links", *links)
    assert message in run(*FILES, *arguments, cwd=corpus, status=1)
    assert not (corpus / "out").exists()
