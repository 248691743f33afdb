"""What in a file of sentences is no text, and the line that says so."""

import pytest

from simulmask_plugin.files.texts import check_sentences, is_blank, numbered_lines, read_text


@pytest.mark.parametrize("text", ["", " \t", "\u200b", "\ufeff", "\u00a0\u2028", "\u200d\u00ad\x07"])
def test_text_that_nobody_sees_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", ".", "\u200ba", "我", "🙂", "\u0301"])
def test_text_with_one_visible_character_is_not(text):
    assert not is_blank(text)


LINES = {
    "empty": (b"a\n\nb\n", r"source: .*s:2: the line is empty, got '\\n'; remove it here and in the other file"),
    "empty at the end": (b"a\n\n", r"s:2: the line is empty"),
    "white space": ("a\n\u00a0 \n".encode(), r"s:2: the line is empty"),
    "zero-width space": ("\u200b\n".encode(), r"s:1: the line is empty, got '\\u200b\\n'"),
    "byte order mark": (b"\xef\xbb\xbfa\n", r"s:1: a byte order mark, which would be part of the first word; save"),
    "Latin-1": (b"a\nT\xfcr\n", r"s:2: expected UTF-8, got byte 0xfc at byte 2 of the line; convert the file, for in"),
    "NUL": (b"a\nb\0c\n", r"s:2: expected text, got NUL at character 2 of the line"),
    "UTF-16": ("ab\n".encode("utf-16-le"), r"s:1: expected text, got NUL .*or UTF-16: convert it with iconv"),
    "carriage return": (b"a\rb\n", r"s:1: a carriage return inside the line would cut it in two"),
}


@pytest.mark.parametrize(("content", "message"), LINES.values(), ids=LINES)
def test_line_that_is_no_sentence_is_named(tmp_path, content, message):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_sentences(path, what="source")


def test_sentences_are_counted_as_python_reads_lines(tmp_path):
    path = tmp_path / "s"
    path.write_bytes("a\u2028b\u200b\ufeff\r\n我\x85c\nd".encode())
    assert check_sentences(path, what="source") == 3
    with path.open(encoding="utf-8") as file:
        assert len(file.readlines()) == 3


def test_byte_order_mark_is_left_out_where_text_is_converted(tmp_path):
    path = tmp_path / "s"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert list(numbered_lines(path)) == [("a", f"{path}:1"), ("b", f"{path}:2")]
    path.write_bytes(b"a\nb\xff")
    with pytest.raises(ValueError, match=r"s:2: expected UTF-8, got byte 0xff at byte 2"):
        read_text(path)
