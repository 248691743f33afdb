"""Position schemes of the layout ``prefix``: where RoPE turns a token to, or the place from which ALiBi measures.

Prompt and source count from 0. A scheme says where header and target count from, for all rows of a training sequence at
once and for one row while streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # the block knows the schemes, and needs no arrays
    import numpy as np

Count = TypeVar("Count", int, "np.ndarray")
"""Of one row, or of many."""


class Scheme(Protocol):
    """Where header and target stand."""

    def behind_source(self, num_source: int | None, num_visible: Count) -> tuple[int | Count, Count | None]:
        """Return the position of the first header token, and what rows take away from it when they measure.

        Both are what a row knows of them, the first counted from the end of the prompt; see `key_rank` for the second,
        which is None where nothing is taken away.

        Args:
            num_source: source tokens of the sequence; None while streaming, when they are not known.
            num_visible: source tokens that the row may see.
        """
        ...


@dataclass(frozen=True, slots=True)
class Contiguous:
    """0..n-1, what plain fine-tuning does; while streaming, what has arrived counts: the scheme's known mismatch."""

    def behind_source(self, num_source: int | None, num_visible: Count) -> tuple[int | Count, Count | None]:
        """Count the whole source."""
        return num_visible if num_source is None else num_source, None


@dataclass(frozen=True, slots=True)
class ModifiedAlibi:
    """The same numbers, from which `key_rank` takes the unread source away, row by row (SimulMask, section 4.3)."""

    def behind_source(self, num_source: int | None, num_visible: Count) -> tuple[int | Count, Count | None]:
        """Count the same source for all rows, none while streaming; less what the row sees, that is taken away."""
        counted = num_source or 0
        return counted, counted - num_visible


@dataclass(frozen=True, slots=True)
class Group:
    """Header and target count from the end of the prompt, so that they do not depend on the length of the source."""

    group_offset: int = 0
    """Position of the first header token, counted from the end of the prompt."""

    def behind_source(self, num_source: int | None, num_visible: Count) -> tuple[int | Count, Count | None]:
        """Count no source."""
        return self.group_offset, None


def scheme_of(name: str, *, group_offset: int = 0) -> Scheme:
    """Return the scheme of that name; ``group_offset`` belongs to `Group` alone."""
    return Group(group_offset) if name == "group" else SCHEMES[name]()


SCHEMES: Mapping[str, type[Scheme]] = {"contiguous": Contiguous, "modified_alibi": ModifiedAlibi, "group": Group}
