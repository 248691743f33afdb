"""Units of source and target: text to units to tokens, the same way in training and while streaming."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

WORD, CHARACTER, TOKEN = "word", "character", "token"
UNITS = (WORD, CHARACTER, TOKEN)

ANCHOR = "\n"
"""Text that never merges with what follows; unit tokens are what encoding adds behind it."""

SPACE_MARKS = ("Ġ", "▁", " ", "Ċ", "\n", "ĉ", "\t")
"""How the pieces of byte-level BPE and SentencePiece vocabularies begin where white space stood."""


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the token that ends a sentence; None where there is none."""

    def encode(self, text: Any, *, add_special_tokens: bool = ..., split_special_tokens: bool = ...) -> Any:
        """Token ids of a text; split: the name of a special token is text."""

    def decode(self, token_ids: Any) -> Any:
        """Text of token ids."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Vocabulary pieces of token ids."""

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""


def split_units(text: str, unit: str) -> list[str]:
    """Cut a text into its units: words (or tokens, word by word) at white space, or single characters.

    White space itself is never a unit: characters are cut from the text without it.
    """
    words = text.split()
    return list("".join(words)) if unit == CHARACTER else words


def join_units(units: Sequence[str], unit: str) -> str:
    """Inverse of :func:`split_units`, up to the amount of white space."""
    return ("" if unit == CHARACTER else " ").join(units)


class UnitTokenizer:
    """Tokenizes one side unit by unit, so that a token boundary is always a unit boundary.

    Args:
        tokenizer: a Hugging Face tokenizer.
        unit: ``word``, ``character`` or ``token``.

    Raises:
        ValueError: if the tokenizer merges the text of a unit with what stands before it.
    """

    def __init__(self, tokenizer: Tokenizer, unit: str) -> None:
        if unit not in UNITS:
            raise ValueError(f"Unknown unit {unit!r}; expected one of {', '.join(UNITS)}.")
        self.tokenizer = tokenizer
        self.unit = unit
        self._anchor = tokenizer.encode(ANCHOR, add_special_tokens=False)
        self._encode = lru_cache(maxsize=1 << 17)(self._encode_uncached)
        self._opens_word: list[bool] | None = None

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        # "</s>" in a text of the web is text, and must not end the sentence.
        ids = self.tokenizer.encode(ANCHOR + text, add_special_tokens=False, split_special_tokens=True)
        if ids[: len(self._anchor)] != self._anchor or len(ids) == len(self._anchor):
            raise ValueError(
                f"The tokenizer merges {text!r} with the line break before it or has no token for it; units need "
                "a tokenizer that cuts at white space (byte-level BPE or SentencePiece)."
            )
        return tuple(ids[len(self._anchor) :])

    def encode(self, piece: str, *, spaced: bool) -> list[list[int]]:
        """Token ids of one piece of text that arrives whole, a list per unit.

        Args:
            piece: a word or a character, as :func:`split_units` gives it.
            spaced: whether white space stands before it (only words and tokens carry it).
        """
        ids = self._encode(" " + piece if spaced and self.unit != CHARACTER else piece)
        return [[i] for i in ids] if self.unit == TOKEN else [list(ids)]

    def encode_all(self, text: str, *, spaced: bool) -> list[list[int]]:
        """Token ids of a whole side, a list per unit; ``spaced`` is for the first unit only."""
        pieces = split_units(text, self.unit)
        return [ids for i, piece in enumerate(pieces) for ids in self.encode(piece, spaced=spaced or i > 0)]

    def ends_unit(self, unit_ids: Sequence[int], next_id: int) -> bool:
        """Whether the unit is complete, given the token that follows it."""
        if self.unit == TOKEN or next_id == self.tokenizer.eos_token_id:
            return True
        if self.unit == CHARACTER:
            return not self._breaks_character(unit_ids)
        return self.opens_word[next_id]

    def num_complete(self, ids: Sequence[int], counted_in: str) -> int:
        """How many of these written tokens make whole words (or characters), while more may come.

        Args:
            ids: tokens behind the last whole word or character.
            counted_in: ``word`` or ``character``.
        """
        if counted_in == CHARACTER:
            ends = (i for i in range(len(ids), 0, -1) if not self._breaks_character(ids[:i]))
        else:
            ends = (i for i in range(len(ids) - 1, 0, -1) if self.opens_word[ids[i]])
        return next(ends, 0)

    def _breaks_character(self, ids: Sequence[int]) -> bool:
        """Whether bytes are missing at the end."""
        return self.tokenizer.decode(ids).endswith("\N{REPLACEMENT CHARACTER}")

    @property
    def opens_word(self) -> list[bool]:
        """For every token id, whether it opens a new word: white space before it, or the end of sentence."""
        if self._opens_word is None:
            pieces = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
            self._opens_word = [piece is not None and piece.startswith(SPACE_MARKS) for piece in pieces]
            self._opens_word[self.tokenizer.eos_token_id] = True
        return self._opens_word

    def text(self, unit_ids: Sequence[int]) -> str:
        """Text of one written unit, without the white space around it."""
        return self.tokenizer.decode(unit_ids).strip()
