"""Readers, cleaning and writers of parallel text."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.corpora.parallel_text import (
    Cleaning,
    Pair,
    check_absent,
    clean,
    read_aligned,
    read_json,
    read_lines,
    read_pairs,
    read_test_set,
    read_tsv,
    split_off,
    write_jsonl,
    write_lines,
)

ROOT = Path(__file__).resolve().parents[1]

any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
clean_text = any_text.map(lambda text: " ".join(text.split())).filter(bool)
clean_pairs = st.lists(st.tuples(clean_text, clean_text), min_size=1, max_size=8)


def without_place(pairs):
    return [(pair.source, pair.target) for pair in pairs]


def at(pairs, where="here:1"):
    return [Pair(source, target, where) for source, target in pairs]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- Round trips


@given(clean_pairs)
def test_jsonl_round_trip(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("jsonl") / "pairs.jsonl"
    write_jsonl(path, at(pairs))
    assert without_place(read_pairs(path)) == pairs


@given(clean_pairs)
def test_aligned_files_round_trip(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("aligned")
    # A byte order mark that opens a file is not text.
    pairs = [(source.lstrip("\ufeff") or "x", target.lstrip("\ufeff") or "x") for source, target in pairs]
    write_lines(folder / "a.de", [source for source, _ in pairs])
    write_lines(folder / "a.en", [target for _, target in pairs])
    assert without_place(read_aligned(folder / "a.de", folder / "a.en")) == pairs


@given(st.lists(st.tuples(any_text, any_text), max_size=8))
def test_cleaning_twice_changes_nothing_and_counts_every_pair(pairs):
    cleaning = Cleaning(max_units=3, max_ratio=2, drop_duplicates=True, drop_identical=True)
    kept, dropped = clean(at(pairs), cleaning)
    assert len(kept) + dropped.total() == len(pairs)
    assert clean(kept, cleaning) == (kept, Counter())


@given(st.lists(st.tuples(any_text, any_text), max_size=8))
def test_kept_text_has_single_spaces_only(pairs):
    for pair in clean(at(pairs), Cleaning())[0]:
        assert pair.source == " ".join(pair.source.split())
        assert pair.source


# --- Golden files


def test_tsv_by_number_and_by_name(tmp_path):
    path = write(tmp_path / "a.tsv", 'id\tde\ten\n1\t"Hallo\tHello\n2\tJa\tYes\n')
    assert list(read_tsv(path, source_column="de", target_column="en")) == [
        Pair('"Hallo', "Hello", f"{path}:2"),
        Pair("Ja", "Yes", f"{path}:3"),
    ]
    assert without_place(read_tsv(path, source_column="2", target_column="3"))[0] == ("de", "en")


def test_json_array_with_other_keys(tmp_path):
    rows = [{"source": "你好", "reference": "Hello"}, {"source": "是", "reference": "Yes"}]
    path = write(tmp_path / "a.json", json.dumps(rows, indent=4))
    assert list(read_json(path, target_key="reference")) == [
        Pair("你好", "Hello", f"{path}, item 1"),
        Pair("是", "Yes", f"{path}, item 2"),
    ]


def test_iwslt_training_file_leaves_out_the_talk_headers(tmp_path):
    source = write(
        tmp_path / "train.tags.de-en.de",
        "<url>http://x</url>\n<keywords>a, b</keywords>\n<title>Titel</title>\n"
        " Guten Tag & willkommen.\n< 3 Jahre.\n"
        '<reviewer href="x">R</reviewer>\n',
    )
    target = write(
        tmp_path / "train.tags.de-en.en",
        "<url>http://x</url>\n<title>Title</title>\n Good day & welcome.\n< 3 years.\n",
    )
    assert list(read_aligned(source, target)) == [
        Pair(" Guten Tag & willkommen.", " Good day & welcome.", f"{source}:4"),
        Pair("< 3 Jahre.", "< 3 years.", f"{source}:5"),
    ]


def iwslt_xml(texts, doc="1"):
    segments = "".join(f'<seg id="{number}"> {text} </seg>\n' for number, text in texts)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<mteval><srcset setid="tst" srclang="german">\n'
        f'<doc docid="{doc}" genre="lectures"><title>T</title>\n{segments}</doc></srcset></mteval>\n'
    )


def test_iwslt_xml(tmp_path):
    source = write(tmp_path / "a.de.xml", iwslt_xml([(1, "Tag &amp; Nacht"), (2, "Ja")]))
    target = write(tmp_path / "a.en.xml", iwslt_xml([(1, "Day &amp; night"), (2, "Yes")]))
    assert list(read_aligned(source, target)) == [
        Pair(" Tag & Nacht ", " Day & night ", f"{source}, doc 1, seg 1"),
        Pair(" Ja ", " Yes ", f"{source}, doc 1, seg 2"),
    ]


def test_test_set_is_read_from_the_files_of_sacrebleu(tmp_path, monkeypatch):
    write(tmp_path / "a.src", "Ja\n")
    write(tmp_path / "a.ref", "Yes\n")
    monkeypatch.setattr("sacrebleu.get_source_file", lambda *_: tmp_path / "a.src")
    monkeypatch.setattr("sacrebleu.get_reference_files", lambda *_: [tmp_path / "a.ref"])
    assert without_place(read_test_set("wmt15", "de-en")) == [("Ja", "Yes")]


def test_line_feed_alone_ends_a_line(tmp_path):
    path = write(tmp_path / "a", "\ufeffa\u2028b\u0085c\x0bd\r\ne\n\nlast")
    assert list(read_lines(path)) == ["a\u2028b\u0085c\x0bd", "e", "", "last"]


def test_cleaning_normalizes_white_space():
    kept, _ = clean([Pair("\ta\u00a0 b\u2028c ", "d\te", "here:1")], Cleaning())
    assert kept == [Pair("a b c", "d e", "here:1")]


def test_cleaning_counts_by_reason():
    pairs = at(
        [
            ("a b", "c d"),
            ("", "x"),
            ("x", " \u00a0"),
            ("a b c d e", "a"),
            ("a", "b c d"),
            ("z", "z"),
            ("a b", "c d"),
        ]
    )
    kept, dropped = clean(pairs, Cleaning(max_units=4, max_ratio=2, drop_identical=True, drop_duplicates=True))
    assert without_place(kept) == [("a b", "c d")]
    assert dropped == {"empty side": 2, "too long": 1, "ratio": 1, "identical": 1, "duplicate": 1}


def test_cleaning_keeps_all_but_empty_sides_by_default():
    kept, dropped = clean(at([("z", "z"), ("z", "z"), ("a", "b " * 300)]), Cleaning())
    assert len(kept) == 3
    assert not dropped


def test_cleaning_counts_in_the_given_units():
    pairs = at([("你好 吗", "hello there")])
    assert clean(pairs, Cleaning(source_unit="character", max_units=3))[0]
    assert not clean(pairs, Cleaning(source_unit="character", max_units=2))[0]
    assert clean(pairs, Cleaning(source_unit="word", max_units=2))[0]


def test_split_off_is_a_partition_in_order_and_depends_on_the_seed():
    pairs = at([(str(i), "x") for i in range(100)])
    train, valid = split_off(pairs, num_valid=10, seed=1)
    assert len(valid) == 10
    assert sorted(train + valid, key=lambda pair: int(pair.source)) == pairs
    assert train == [pair for pair in pairs if pair in train]
    assert (train, valid) == split_off(pairs, num_valid=10, seed=1)
    assert valid != split_off(pairs, num_valid=10, seed=2)[1]


# --- Errors


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file: .*nowhere\.de \(looked for in /"):
        list(read_aligned(tmp_path / "nowhere.de", tmp_path / "nowhere.en"))
    with pytest.raises(FileNotFoundError, match=r"No such file: .*nowhere\.xml"):
        read_aligned(tmp_path / "nowhere.xml", tmp_path / "nowhere.xml")


def test_files_of_different_length_are_refused_with_both_counts(tmp_path):
    source, target = write(tmp_path / "a.de", "1\n2\n3\n"), write(tmp_path / "a.en", "1\n")
    with pytest.raises(ValueError, match=r"same number of sentences, got 3 in .*a\.de and 1 in .*a\.en\."):
        list(read_aligned(source, target))
    with pytest.raises(ValueError, match=r"same number of sentences, got 1 in .*a\.en and 3 in .*a\.de\."):
        list(read_aligned(target, source))


def test_disk_that_is_full_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a", "old\n")

    def fill(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        write_lines(path, ["new", "text"])
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_undecodable_line_is_named(tmp_path):
    path = write(tmp_path / "a", b"gut\nT\xfcr\n")
    with pytest.raises(ValueError, match=r"a:2: expected UTF-8, got byte 0xfc at byte 2 of the line; convert"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"source": "a", "target": "b"}\n{"source": \n',
            r"a\.jsonl:2: expected JSON, got: .* Expected one JSON object a line, got '{\"so",
        ),
        (
            '{"source": "a", "target": "b"}\n\n',
            r"a\.jsonl:2: expected JSON, .* one JSON object a line, got ''",
        ),
        ('[{"source": "a",\n "target": }]', r"a\.jsonl:2: expected JSON, got: Expecting value at column 12"),
        ('["a"]', r"a\.jsonl, item 1: expected an object with the keys of a pair, got str"),
        (
            '{"source": "a", "tgt": "b"}',
            r"a\.jsonl:1: expected a key 'target', got the keys 'source', 'tgt'; name",
        ),
        ('{"source": "a", "target": null}', r"a\.jsonl:1: expected text under the key 'target', got None"),
        (
            '{"source": "a", "target": "\\ud83d"}',
            r"a\.jsonl:1: expected text under the key 'target', got '\\ud83d'",
        ),
        ('{"source": "a", "target": "b\\u0000"}', r"a\.jsonl:1: expected text under the key 'target', got 'b\\x00'"),
        ('{"source": "a", "target": "b", "target": "c"}', r"a\.jsonl:1: the key 'target' occurs twice"),
    ],
)
def test_malformed_json_is_named(tmp_path, content, message):
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(ValueError, match=message):
        list(read_pairs(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("1", "3"), r"a\.tsv:1: expected 3 or more tab-separated columns, got 2"),
        (
            ("de", "fr"),
            r"a\.tsv:1: expected one column 'fr' \(a name, or a number from 1\), got the header \['de', 'en'",
        ),
        (("0", "1"), r"a\.tsv:1: expected one column '0'"),
        (("en", "de"), r"a\.tsv:1: expected one column 'en' .*, got the header \['de', 'en', 'en'\]"),
    ],
)
def test_missing_column_is_named(tmp_path, columns, message):
    header = "de\ten\ten" if columns == ("en", "de") else "de\ten"
    path = write(tmp_path / "a.tsv", f"{header}\nJa\tYes\n")
    with pytest.raises(ValueError, match=message):
        list(read_pairs(path, source_key=columns[0], target_key=columns[1]))


def test_unknown_suffix():
    with pytest.raises(ValueError, match=r"a\.csv: expected a name that ends in \.tsv, \.json or \.jsonl, got '\.csv'"):
        read_pairs(Path("a.csv"))


def test_malformed_xml_is_named(tmp_path):
    path = write(tmp_path / "a.xml", iwslt_xml([(1, "Tag & Nacht")]))
    with pytest.raises(ValueError, match=r"a\.xml:4: expected well-formed XML, .*a bare & is written &amp;"):
        read_aligned(path, path)


def test_xml_segments_that_do_not_match_are_named(tmp_path):
    source = write(tmp_path / "a.de.xml", iwslt_xml([(1, "Ja"), (2, "Nein")]))
    target = write(tmp_path / "a.en.xml", iwslt_xml([(1, "Yes"), (3, "No")]))
    with pytest.raises(ValueError, match=r"got doc 1, seg 2 in .*a\.de\.xml and doc 1, seg 3 in .*a\.en\.xml"):
        read_aligned(source, target)


def test_unknown_test_set_and_language_pair():
    with pytest.raises(ValueError, match=r"sacreBLEU has no test set 'wmt1'; `sacrebleu --list` shows"):
        read_test_set("wmt1", "de-en")
    with pytest.raises(ValueError, match=r"wmt15 has no language pair 'de-xx'; expected one of .*de-en"):
        read_test_set("wmt15", "de-xx")


def test_missing_network_is_told(monkeypatch):
    def unreachable(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr("sacrebleu.get_source_file", unreachable)
    with pytest.raises(ValueError, match=r"Could not download .*wmt15 de-en \(Name or service not known\); check"):
        read_test_set("wmt15", "de-en")


def test_cleaning_refuses_senseless_limits():
    with pytest.raises(ValueError, match=r"max_units must be an integer of at least 1, got 0"):
        Cleaning(max_units=0)
    with pytest.raises(ValueError, match=r"max_ratio must be at least 1 .* got 0\.5"):
        Cleaning(max_ratio=0.5)
    with pytest.raises(ValueError, match=r"source_unit: unknown value 'char'; expected one of word, character"):
        Cleaning(source_unit="char")


def test_split_off_needs_pairs_to_train_on():
    with pytest.raises(ValueError, match=r"less than the 1 pairs there are, got 1"):
        split_off(at([("a", "b")]), num_valid=1, seed=0)


def test_existing_files_are_not_overwritten(tmp_path):
    path = write(tmp_path / "a", "")
    with pytest.raises(FileExistsError, match=r"Already exists: .*a; choose another output or pass --overwrite"):
        check_absent([path, tmp_path / "b"], overwrite=False)
    check_absent([path], overwrite=True)
