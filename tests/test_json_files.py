"""JSON that is none, and the place that the message names."""

import json

import pytest

from simulmask_plugin.files.json_files import parse_json, read_json

FAULTS = {
    "trailing comma": ('{\n"a": 1,\n}', r"f:3: expected JSON, got: .* at column 1; remove the comma before it\."),
    "trailing comma in a list": ("[1,\n 2, ]", r"f:2: expected JSON, got: .* column 5; remove the comma before it"),
    "not JSON": ("{\n a}", r"f:2: expected JSON, got: Expecting property name enclosed in double quotes at column 2\."),
    "cut": ('{"a": [1', r"f:1: expected JSON, got: "),
    "empty": ("", r"f:1: expected JSON, got: Expecting value at column 1"),
    "duplicate key": ('{"a": {"b": 1, "b": 2}}', r"f: the key 'b' occurs twice in one object; remove one"),
    "NaN": ('{"a": NaN}', r"f: expected a number, got NaN, which JSON does not have"),
    "infinity": ("[-Infinity]", r"f: expected a number, got -Infinity"),
    "too large": ("[1e999]", r"f: expected a number, got 1e999, which is too large"),
    "deep": ("[" * 100_000, r"f: expected JSON with a few levels, got too deeply nested brackets"),
    "byte order mark": ("\ufeff{}", r"f: expected JSON, got a byte order mark; save the file as UTF-8 without one"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_json_is_named_with_its_place(tmp_path, text, message):
    path = tmp_path / "f"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_json(path)


def test_line_of_a_file_is_named():
    with pytest.raises(ValueError, match=r"^f:7: expected JSON, got: Expecting value at column 5\."):
        parse_json("[1, ", "f", line=7)


def test_json_is_what_python_makes_of_it(tmp_path):
    text = '{"a": [1, 2.5, null, true, {"b": "ü"}], "c": -1e-3}'
    (tmp_path / "f").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "f") == json.loads(text)
