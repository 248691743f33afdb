"""The options of a command from a dataclass: its fields are the options, and their annotations say how they look."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

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

    def add(self, parser: ArgumentParser, cls: type[DataclassInstance], field: Field[Any]) -> None:
        """Add the option of a field of this dataclass."""
        flag, kind = f"--{field.name.replace('_', '-')}", type_of(cls, field.name)
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=self.help)
            return
        choices = self.choices() if self.choices else choices_of(cls, field.name)
        parser.add_argument(
            flag,
            type=kind if kind in (int, float) else str,
            nargs="+" if get_origin(kind) is list else None,
            choices=tuple(choices) or None,
            default=_default(field),
            required=_default(field) is MISSING,
            metavar=self.metavar,
            help=self.help,
        )

    def value(self, name: str, values: Mapping[str, Any]) -> Any:
        """The value of the field, from those of the options."""
        return values[name]


class Argument(Option):
    """A field that a word without a flag sets: one, at most one where it may be None, or a list of them."""

    def add(self, parser: ArgumentParser, cls: type[DataclassInstance], field: Field[Any]) -> None:
        """Add the argument of a field of this dataclass."""
        is_list, is_required = get_origin(type_of(cls, field.name)) is list, _default(field) is MISSING
        nargs = ("+" if is_required else "*") if is_list else (None if is_required else "?")
        parser.add_argument(field.name, metavar=self.metavar, nargs=nargs, help=self.help)


@dataclass(frozen=True, slots=True)
class Keys:
    """A field that holds, by name, which keys of policies and layouts somebody has given.

    Attributes:
        owners: returns the classes that have a key, by key.
        drawn: whether a parameter of a policy may be a list or a range, too.
    """

    owners: Callable[[], Mapping[str, Sequence[type[Any]]]]
    drawn: bool = False

    def add(self, parser: ArgumentParser, cls: type[DataclassInstance], field: Field[Any]) -> None:
        """Add an option for every key."""
        for key, owners in self.owners().items():
            several = self.drawn and issubclass(owners[0], Policy)
            about = "of " + ", ".join(owner.name for owner in owners)
            add_option(parser, key.replace("_", "-"), owners, key, about, several=several)

    def value(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that were given, from the values of all options."""
        return {key: values[key] for key in self.owners() if values[key] is not None}


def add_fields(parser: ArgumentParser, cls: type[DataclassInstance]) -> None:
    """Add the options of a dataclass to a parser."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hints[field.name].__metadata__[0].add(parser, cls, field)


def made(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass with the values that such a parser has read.

    Raises:
        ValueError: if they contradict each other.
    """
    hints = get_type_hints(cls, include_extras=True)
    return cls(**{field.name: hints[field.name].__metadata__[0].value(field.name, values) for field in fields(cls)})


def _default(field: Field[Any]) -> Any:
    """The default of a field; MISSING: it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()
