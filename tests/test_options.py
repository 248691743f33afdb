"""What users write becomes dataclasses, by their annotations; a YAML of which nothing can be made is refused."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.options import Must, between, check_fields, check_integer, check_name, read, read_yaml


@dataclass(frozen=True)
class Inner:
    width: Annotated[int, between(1, 9, "words")] = 2


@dataclass(frozen=True, kw_only=True)
class Keys:
    name: str
    count: Annotated[int, between(0)] | None = None
    rate: Annotated[float, Must("lie in 0..1", lambda rate: 0 <= rate <= 1)] = 1.0
    weight: float = 1.0
    kind: Literal["float32", "bfloat16"] = "float32"
    exact: bool = False
    inner: Inner = Inner()
    pairs: tuple[tuple[str, ...], ...] = ()
    span: tuple[int, bool] = (0, True)
    rows: Annotated[tuple[Mapping[str, Any], ...], Must("be a list such as [{a: 1}]", bool)] = ({},)
    by_name: Mapping[str, Inner] = field(default_factory=dict)

    def __post_init__(self):
        check_fields(self, "made.")


def test_lists_become_tuples_and_mappings_dataclasses():
    values = {
        "name": "x",
        "pairs": [["a", "b"], []],
        "span": [1, False],
        "inner": {"width": 3},
        "by_name": {"c": {}, "d": {"width": 9}},
    }
    expected = Keys(
        name="x", pairs=(("a", "b"), ()), span=(1, False), inner=Inner(3), by_name={"c": Inner(), "d": Inner(9)}
    )
    assert read(Keys, values, "y: ") == expected


REFUSED = {
    "unknown": (
        {"beams": 1},
        "y: unknown key 'beams'; known keys: name, count, rate, weight, kind, exact, inner, ",
    ),
    "missing": ({"name": None}, r"y: name is missing or empty; it must be a text\.$"),
    "text": ({"name": 3}, r"y: name must be a text, got 3\.$"),
    "integer": ({"count": -1}, r"y: count must be an integer of at least 0, got -1\.$"),
    "half an integer": ({"count": 1.0}, r"y: count must be an integer of at least 0, got 1\.0\.$"),
    "true is no integer": ({"count": True}, r"y: count must be an integer of at least 0, got True\.$"),
    "text is no integer": ({"count": "1"}, r"y: count must be an integer of at least 0, got '1'\.$"),
    "range": ({"rate": 1.5}, r"y: rate must lie in 0\.\.1, got 1\.5\.$"),
    "nan": ({"rate": float("nan")}, r"y: rate must lie in 0\.\.1, got nan\.$"),
    "not a number": ({"weight": float("nan")}, r"y: weight must be a number, got nan\.$"),
    "infinity": ({"weight": float("-inf")}, r"y: weight must be a number, got -inf\.$"),
    "text is no number": ({"rate": "1"}, r"y: rate must lie in 0\.\.1, got '1'\.$"),
    "true is no number": ({"rate": True}, r"y: rate must lie in 0\.\.1, got True\.$"),
    "empty": ({"rate": None}, r"y: rate must lie in 0\.\.1, got None\.$"),
    "choice": ({"kind": "int4"}, r"y: kind: unknown value 'int4'; expected one of float32, bfloat16\.$"),
    "choice that is a list": ({"kind": ["float32"]}, r"y: kind: unknown value \['float32'\]; expected one of float32"),
    "boolean": ({"exact": 1}, r"y: exact must be true or false, got 1\.$"),
    "mapping": ({"inner": 3}, r"y: inner must be a mapping of keys to values, got 3\.$"),
    "unknown within": ({"inner": {"beams": 1}}, r"y: inner: unknown key 'beams'; known keys: width\.$"),
    "value within": (
        {"inner": {"width": 10}},
        r"y: inner\.width must be an integer of at least 1 and at most 9 \(words\), got 10\.$",
    ),
    "value in a mapping": ({"by_name": {"c": {"width": 0}}}, r"y: by_name\.c\.width must be an integer of at least 1 "),
    "list": ({"pairs": "ab"}, r"y: pairs must be a list, got 'ab'\.$"),
    "value in lists": ({"pairs": [[], ["a", 3]]}, r"y: pairs, entry 2, entry 2 must be a text, got 3\.$"),
    "list of three": ({"span": [1, True, 2]}, r"y: span must be a list of 2, got \[1, True, 2\]\.$"),
    "value in a list of two": ({"span": [1, 2]}, r"y: span, entry 2 must be true or false, got 2\.$"),
    "list of its own words": ({"rows": {"a": 1}}, r"y: rows must be a list such as \[\{a: 1\}\], got \{'a': 1\}\.$"),
    "empty list": ({"rows": []}, r"y: rows must be a list such as \[\{a: 1\}\], got \[\]\.$"),
    "no mapping in a list": ({"rows": [3]}, r"y: rows, entry 1 must be a mapping of keys to values, got 3\.$"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_value_that_the_annotation_refuses_is_named_with_what_was_expected(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read(Keys, {"name": "x"} | changes, "y: ")


def test_python_is_refused_as_yaml_is():
    for changes, _ in REFUSED.values():
        key, value = next(iter(changes.items()))
        if key in ("beams", "inner", "by_name"):  # which in Python are no keys, or already made
            continue
        with pytest.raises(ValueError, match=rf"^made\.{key}\b"):
            Keys(**{"name": "x"} | {key: value})


def test_key_that_holds_nothing_may_be_a_default_but_not_an_unknown_one():
    empty = {"name": "x", "rate": None, "kind": "", "rows": [], "by_name": {}}
    assert read(Keys, empty, "", empty_is_default=True) == Keys(name="x")
    assert read(Keys, empty | {"exact": False, "count": 0}, "", empty_is_default=True) == Keys(name="x", count=0)
    for values, message in (({"name": ""}, "name is missing or empty"), ({"beams": None}, "unknown key 'beams'")):
        with pytest.raises(ValueError, match=message):
            read(Keys, {"name": "x"} | values, "", empty_is_default=True)


def test_message_names_the_whole_by_what_it_is_called():
    with pytest.raises(ValueError, match=r"^simulmask must be a mapping of keys to values, got 'wait_k'\.$"):
        read(Inner, "wait_k", "simulmask.")
    with pytest.raises(ValueError, match=r"^simulmask: unknown key 3; known keys: width\.$"):
        read(Inner, {3: 3}, "simulmask.")
    with pytest.raises(ValueError, match=r"^unknown key 'beams'; known keys: width\.$"):
        read(Inner, {"beams": 3}, "")
    with pytest.raises(ValueError, match=r"^simulmask\.width must be"):
        read(Inner, {"width": 0}, "simulmask.")


keys = st.builds(
    Keys,
    name=st.text(min_size=1),
    count=st.none() | st.integers(0),
    rate=st.floats(0, 1) | st.integers(0, 1),
    weight=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["float32", "bfloat16"]),
    exact=st.booleans(),
    inner=st.builds(Inner, st.integers(1, 9)),
    pairs=st.lists(st.lists(st.text()).map(tuple)).map(tuple),
    span=st.tuples(st.integers(), st.booleans()),
    by_name=st.dictionaries(st.text(), st.builds(Inner, st.integers(1, 9))),
)


@given(keys)
def test_what_is_read_from_its_own_keys_is_the_same(made):
    assert read(Keys, asdict(made), "") == made


def test_import_is_light():
    code = "import sys, simulmask_plugin.options; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"yaml", "omegaconf", "numpy", "torch"} & set(loaded)


def test_integer_of_no_dataclass_is_checked_alike():
    check_integer("k", 9, least=1, most=9)
    with pytest.raises(ValueError, match=r"^k must be an integer of at least 1 and at most 9 \(words\), got 10\.$"):
        check_integer("k", 10, least=1, most=9, unit="words")


@pytest.mark.parametrize("name", ["a", "wmt22_zh-en", "Qwen 2.5", "模型", "k1+k2"])
def test_name_of_a_file_is_accepted(name):
    check_name("--name", name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a,b", ".", "-x", " a", "a ", "a\n", "a  b", "\u200b", None])
def test_name_that_would_leave_its_folder_or_split_a_list_is_refused(name):
    with pytest.raises(ValueError, match=r"^--name: a name is made of letters, digits and single spaces, with"):
        check_name("--name", name)


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
