"""A command's options from a dataclass: its fields are the options, and their annotations say how they are given."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from simulmask_plugin.options import add_option, choices_of, type_of
from simulmask_plugin.policies import Policy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Option:
    """A field that ``--name`` sets; its type and its default are those of the field.

    Attributes:
        help: what it is.
        metavar: what its value is called; None: the name of the field in capitals.
        choices: returns what it may be, where that is known only when the command runs.
    """

    help: str | None = None
    metavar: str | None = None
    choices: Callable[[], Iterable[str]] | None = None


class Argument(Option):
    """A field that words without a flag set: one, at most one if there is a default, or all of them for a list."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A field that holds, by name, which keys of policies and layouts were given, each of them an option.

    Attributes:
        owners: returns the classes that have a key, by key.
        ranges: whether a parameter of a policy may also be a range of integers.
    """

    owners: Callable[[], Mapping[str, Sequence[type[Any]]]]
    ranges: bool = False


def add_fields(parser: ArgumentParser, cls: type[DataclassInstance]) -> None:
    """Add the options of a dataclass to a parser."""
    for field, how in _described(cls):
        kind, flag = type_of(cls, field.name), f"--{field.name.replace('_', '-')}"
        of_one = get_args(kind)[0] if get_origin(kind) is list else kind
        is_required = field.default is MISSING and field.default_factory is MISSING
        if isinstance(how, Keys):
            for key, owners in how.owners().items():
                about = "of " + ", ".join(owner.name for owner in owners)
                several = how.ranges and issubclass(owners[0], Policy)
                add_option(parser, key.replace("_", "-"), owners, key, about, several=several)
        elif isinstance(how, Argument):
            nargs = ("+" if is_required else "*") if get_origin(kind) is list else (None if is_required else "?")
            parser.add_argument(
                field.name, type=int if kind is int else str, metavar=how.metavar, nargs=nargs, help=how.help
            )
        elif kind is bool:
            parser.add_argument(flag, action="store_true", help=how.help)
        else:
            parser.add_argument(
                flag,
                type=of_one if of_one in (int, float) else str,
                nargs="+" if get_origin(kind) is list else None,
                choices=tuple(how.choices() if how.choices else choices_of(cls, field.name)) or None,
                default=None if field.default is MISSING else field.default,
                required=is_required,
                metavar=how.metavar,
                help=how.help,
            )


def made(cls: type[T], parsed: Mapping[str, Any]) -> T:
    """The dataclass with the values that a parser with these options has read."""
    values = {}
    for field, how in _described(cls):
        if isinstance(how, Keys):
            values[field.name] = {key: parsed[key] for key in how.owners() if parsed[key] is not None}
        elif parsed[field.name] is not None:
            values[field.name] = parsed[field.name]
    return cls(**values)


def _described(cls: type[DataclassInstance]) -> Iterator[tuple[Field[Any], Option | Keys]]:
    """Yield the fields of a dataclass, each with how it is given."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        yield field, hints[field.name].__metadata__[0]
