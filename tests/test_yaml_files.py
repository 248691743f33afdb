"""YAML of which nothing can be made, and the place that the message names."""

import pytest

from simulmask_plugin.options import read_yaml

FAULTS = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", r"y is no valid YAML: .*duplicate key a"),
    "nan": ("a: {b: .nan}\n", r"y: a\.b: expected a number, got nan"),
    "infinity": ("a: [1, -.inf]\n", r"y: a, entry 2: expected a number, got -inf"),
    "interpolation": ("a: '${nope}/x'\n", r"y: a: nothing fills in '\$\{nope\}/x'; write what it stands for"),
    "interpolation of an environment": (
        "a: {b: '${oc.env:HOME}'}\n",
        r"y: a\.b: nothing fills in '\$\{oc\.env:HOME\}'",
    ),
    "broken interpolation": ("a: '${'\n", r"is no valid YAML|nothing fills in"),
    "NUL": ('a: "b\\0"\n', r"y: a: expected a text, got NUL in 'b\\x00'"),
    "NUL in the file": (b"a: b\0\n", r"y:1: expected text, got NUL at character 5"),
    "Latin-1": (b"a: 1\nb: \xfc\n", r"y:2: expected UTF-8, got byte 0xfc"),
    "deep": ("a: " + "[" * 2000 + "]" * 2000, r"y is no valid YAML: brackets within brackets without end"),
    "broken": ("a: [1\n", r"y is no valid YAML: .*line 2, column 1"),
    "list": ("- a\n", r"y: expected a mapping of keys to values"),
    "code": (
        "a: !!python/object/apply:os.system ['touch pwned']\n",
        r"y is no valid YAML: could not determine a construc",
    ),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_yaml_is_named_with_its_place(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "y"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_yaml(path, [])
    assert [file.name for file in tmp_path.iterdir()] == ["y"], "no code of a YAML is run"


@pytest.mark.parametrize("override", ["a=[1", "a=.nan", "a=${nope}", "a=!!python/name:os.system x"])
def test_override_that_is_no_value_is_named(tmp_path, override):
    (tmp_path / "y").write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"is no valid YAML|a: expected a number, got nan|a: nothing fills in"):
        read_yaml(tmp_path / "y", [override])


def test_values_are_those_of_the_file_and_the_overrides(tmp_path):
    (tmp_path / "y").write_text("a: {b: 1, c: ü}\nd: [1.5, null]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "y", ["a.b=x y", "e=1-9"]) == {
        "a": {"b": "x y", "c": "ü"},
        "d": [1.5, None],
        "e": "1-9",
    }
