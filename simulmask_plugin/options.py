"""YAML files with ``key=value`` overrides, and dataclasses made from what users write in them.

The annotation of a field says what its key may hold, and `read` checks it: texts, booleans, integers, finite numbers,
choices, lists (``tuple[X, ...]``, ``tuple[X, Y]``), mappings and other dataclasses, each of them ``| None``, and what
they must beside::

    k: Annotated[int, between(1, MOST_UNITS, "source units")]
    look_ahead_rate: Annotated[float, Must("lie in 0..1", lambda rate: 0 <= rate <= 1)] = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from simulmask_plugin.files.texts import read_text

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

NAME = re.compile(r"\w[\w.+-]*(?: [\w.+-]+)*")
"""Names of files and folders, which may also be listed with commas between them."""

MOST_UNITS = 10_000
"""Source units of a k, an n or a document: more than any sentence has."""
MOST_AT_ONCE = 1_024
"""Jobs, threads and hypotheses of a beam."""
MOST_TOKENS = 1_000_000
"""Of a slot, an offset or what a sentence may write: the longest context that any model has."""


@dataclass(frozen=True, slots=True)
class Must:
    """What a value must, beside being of its type.

    Attributes:
        expected: in words, e.g. "lie in 0..1".
        holds: whether a value of the type does.
    """

    expected: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: object) -> None:
        """Raise a ValueError that names the value unless it does."""
        if not self.holds(value):
            raise ValueError(f"{name} must {self.expected}, got {value!r}.")


def between(least: int, most: int | None = None, unit: str = "") -> Must:
    """Of an integer: the smallest and the largest that make sense (None: there is none), and what it counts."""
    end = "" if most is None else f" and at most {most}"
    counted = f" ({unit})" if unit else ""
    return Must(
        f"be an integer of at least {least}{end}{counted}",
        lambda value: value >= least and (most is None or value <= most),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


KINDS: Mapping[Any, Must] = {
    Any: Must("hold something", lambda value: True),
    str: Must("be a text", lambda value: isinstance(value, str)),
    bool: Must("be true or false", lambda value: isinstance(value, bool)),
    int: Must("be an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: Must("be a number", _is_number),
    tuple: Must("be a list", lambda value: isinstance(value, list | tuple)),
    Mapping: Must("be a mapping of keys to values", lambda value: isinstance(value, Mapping)),
}
"""By type, what every value of it must."""


def read(cls: type[T], values: object, where: str, *, empty_is_default: bool = False) -> T:
    """Make a dataclass from a mapping, as its annotations say.

    Args:
        cls: the dataclass; its fields are the keys.
        values: the mapping.
        where: what precedes a key in messages: "simulmask.", or "eval.yaml: ".
        empty_is_default: whether a key that holds nothing, an empty text, list or mapping counts as left out.

    Raises:
        ValueError: naming the key that is unknown, is missing or holds what it must not, and what was expected.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where.rstrip('.: ')} must {KINDS[Mapping].expected}, got {values!r}.")
    hints = _hints(cls)
    check_known(values, hints, where)
    if empty_is_default:
        values = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    for field in fields(cls):
        is_required = field.default is MISSING and field.default_factory is MISSING
        if is_required and values.get(field.name) is None:
            _, must = _rule(hints[field.name])
            raise ValueError(f"{where}{field.name} is missing or empty; it must {must.expected}.")
    return cls(**{key: _read_value(hints[key], value, f"{where}{key}") for key, value in values.items()})


def check_fields(instance: DataclassInstance, where: str) -> None:
    """Check a dataclass that was made in Python as `read` checks one; for its ``__post_init__``.

    Raises:
        ValueError: naming the field that holds what it must not, and what was expected.
    """
    for name, hint in _hints(type(instance)).items():
        _read_value(hint, getattr(instance, name), f"{where}{name}")


def check_known(values: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raise a ValueError that lists the known keys if one of a mapping is unknown; where: as `read`."""
    known = list(known)
    for key in values:
        if key not in known:
            place = where.rstrip(".: ")
            unknown = f"unknown key {key!r}; known keys: {', '.join(known)}."
            raise ValueError(f"{place}: {unknown}" if place else unknown)


def check_choice(name: str, value: object, known: Iterable[object]) -> None:
    """Raise a ValueError that lists the known values if a value is none of them."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name}: unknown value {value!r}; expected one of {', '.join(map(str, known))}.")


def choices_of(cls: type[DataclassInstance], name: str) -> tuple[str, ...]:
    """The values that a field of a dataclass may have, as its Literal lists them; none of any other field."""
    bare = type_of(cls, name)
    return get_args(bare) if get_origin(bare) is Literal else ()


def type_of(cls: type[DataclassInstance], name: str) -> Any:
    """The type of a field of a dataclass, without None and what its values must beside."""
    return _rule(_hints(cls)[name])[0]


def add_option(
    parser: ArgumentParser,
    flag: str,
    owners: Sequence[type[DataclassInstance]],
    name: str,
    about: str,
    *,
    several: bool = False,
) -> None:
    """Add an option with the type, the choices and the help of a field.

    Args:
        parser: of a command.
        flag: without dashes in front.
        owners: dataclasses that have the field.
        name: of the field; it is the option's destination, which is None where nothing is given.
        about: whose it is, for the help.
        several: whether an integer may be a range, too, and is left a text.
    """
    kind, must = _rule(_hints(owners[0])[name])
    choices = dict.fromkeys(choice for owner in owners for choice in choices_of(owner, name))
    if kind is bool:
        parser.add_argument(f"--{flag}", dest=name, action="store_const", const=True, help=about)
    elif choices:
        parser.add_argument(f"--{flag}", dest=name, choices=tuple(choices), help=about)
    else:
        number = kind if kind is float or kind is int and not several else str
        parser.add_argument(f"--{flag}", dest=name, type=number, metavar="N", help=f"{about}: must {must.expected}")


@cache
def _hints(cls: type[DataclassInstance]) -> dict[str, Any]:
    """The annotations of the fields, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _rule(hint: Any) -> tuple[Any, Must]:
    """The bare type of an annotation, and all that a value must."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        (hint,) = (one for one in inner if one is not NoneType)
        return _rule(hint)
    if kind is Annotated:
        bare, of_type = _rule(inner[0])
        must = inner[1]
        if not isinstance(must, Must):  # how a command line shows it
            return bare, of_type
        return bare, Must(must.expected, lambda value: of_type.holds(value) and must.holds(value))
    if kind is Literal:
        return hint, Must(f"be one of {', '.join(inner)}", lambda value: value in inner)
    if kind is tuple and inner[-1] is not Ellipsis:
        a_list = KINDS[tuple]
        return hint, Must(f"be a list of {len(inner)}", lambda value: a_list.holds(value) and len(value) == len(inner))
    if (kind or hint) in KINDS:
        return hint, KINDS[kind or hint]
    return hint, Must(KINDS[Mapping].expected, lambda value: isinstance(value, Mapping | hint))


def _read_value(hint: Any, value: Any, name: str) -> Any:
    """A value as its annotation has it: of a list the tuple, of a mapping the dataclass."""
    if value is None and NoneType in get_args(hint):
        return None
    bare, must = _rule(hint)
    kind, inner = get_origin(bare), get_args(bare)
    if kind is Literal:
        check_choice(name, value, inner)
    must.check(name, value)
    if bare is float:
        return float(value)
    if kind is tuple:
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        entries = enumerate(zip(hints, value, strict=True), 1)
        return tuple(_read_value(of_entry, one, f"{name}, entry {number}") for number, (of_entry, one) in entries)
    if kind is Mapping:
        return {key: _read_value(inner[1], one, f"{name}.{key}") for key, one in value.items()}
    if isinstance(value, Mapping) and bare not in KINDS:
        return read(bare, value, f"{name}.")
    return value


def check_integer(what: str, value: object, *, least: int, most: int | None = None, unit: str = "") -> None:
    """Raise a ValueError unless value, the key ``what``, is such an integer, see `between`."""
    _read_value(Annotated[int, between(least, most, unit)], value, what)


def check_name(what: str, value: object) -> None:
    """Raise a ValueError unless value can be the name of a file or folder, and stays where it belongs."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(
            f"{what}: a name is made of letters, digits and single spaces, with . + _ and - inside, got {value!r}."
        )


def read_yaml(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Read a YAML file; an override such as ``simulmask.k=5`` replaces one key, however deep.

    Raises:
        ValueError: if there is no such file, it is no mapping of keys to values, or as `check_values`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not Path(path).is_file():
        remedy = "; name the YAML before the keys that you replace" if "=" in str(path) else ""
        raise ValueError(f"{path}: no such file{remedy}.")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"Overrides have the form key=value, got {override!r}.")
    where = str(path)
    try:
        content = OmegaConf.load(io.StringIO(read_text(path)))
        where = " ".join(overrides) or where
        if not OmegaConf.is_dict(content):
            raise ValueError(f"{path}: expected a mapping of keys to values.")
        values = OmegaConf.to_container(OmegaConf.merge(content, OmegaConf.from_cli(overrides)))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from error
    except TypeError as error:  # of OmegaConf, for a list in place of a mapping
        raise ValueError(f"{where} does not go with {path}: {error}; replace such a key in the file.") from error
    except RecursionError as error:
        raise ValueError(f"{where} is no valid YAML: brackets within brackets without end.") from error
    assert isinstance(values, dict)
    check_values(values, where=str(path))
    return {str(key): value for key, value in values.items()}


def check_values(values: Mapping[Any, Any], *, where: str) -> None:
    """Refuse values that nothing can be made of.

    Raises:
        ValueError: naming the key of a number that is not finite, of NUL, or of ``${...}``, which LLaMA-Factory leaves
            as it is.
    """
    for key, fault in _faults(values):
        raise ValueError(f"{where}: {key}: {fault}.")


def _faults(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and the fault of every value that nothing can be made of."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _faults(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from _faults(inner, f"{key}, entry {number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"expected a number, got {value}"
    elif isinstance(value, str) and "\0" in value:
        yield key, f"expected a text, got NUL in {value!r}"
    elif isinstance(value, str) and "${" in value:
        yield key, f"nothing fills in {value!r}; write what it stands for"


def yaml_text(value: Any) -> str:
    """A value as one would write it into a YAML, on one line."""
    if isinstance(value, str) and value and value == value.strip() and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)
