"""Units of source and target: text to units to tokens, the same way in training and while streaming."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from simulmask_plugin.text.characters import ends_character, kind_of, needs_space, split_characters
from simulmask_plugin.text.pieces import BYTE_LEVEL, SENTENCE_PIECE, opens_word, piece_bytes, whole_characters

WORD, CHARACTER, TOKEN = "word", "character", "token"
UNITS = (WORD, CHARACTER, TOKEN)

LETTER = "x"
"""Text after which a space and a word get the tokens that they have inside a sentence.

After a line break they would not: if digits or punctuation are split off first (SmolLM2, StarCoder, Falcon), the
line break and the space before "30" become one piece.
"""

LINE_BREAK = "\n"
"""Text after which a word without a leading space gets the tokens that it has at the start of a line."""

HALVES = re.compile("[\ud800-\udfff]")
"""Halves of a character, which Python puts for bytes that are not UTF-8; no tokenizer takes them."""


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the token that ends a sentence; None if there is none."""

    def encode(self, text: Any, *, add_special_tokens: bool = ..., split_special_tokens: bool = ...) -> Any:
        """Token ids of a text; split: names of special tokens are plain text."""

    def decode(self, token_ids: Any, *, clean_up_tokenization_spaces: bool = ...) -> Any:
        """Text of token ids; clean up: remove spaces before punctuation, the default of some tokenizers."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Vocabulary pieces of token ids."""

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""


class NotEncodable(ValueError):
    """A text that the tokenizer cannot encode unit by unit."""


def encode_inside(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids, including special tokens, of text inside a sequence.

    SentencePiece puts a space before the first word of a text, which would not belong to a header.
    """
    before = tokenizer.encode(LETTER, add_special_tokens=False)
    ids = tokenizer.encode(LETTER + text, add_special_tokens=False)
    if ids[: len(before)] == before:
        return ids[len(before) :]
    return tokenizer.encode(text, add_special_tokens=False)


def split_units(text: str, unit: str) -> list[str]:
    """Cut a text into its units: words (or tokens, word by word) at white space, or characters.

    ``character`` is a character of a script that puts no space between words (Chinese, Japanese, Thai, ...), or a whole
    run of others: "我用iPhone 15 Pro。" has the units 我 用 iPhone 15 Pro 。 A character keeps its combining marks, an
    emoji everything joined to it. White space is never a unit, nor is U+2581, SentencePiece's symbol for a space.
    """
    words = text.replace(SENTENCE_PIECE, " ").split()
    return [one for word in words for one in split_characters(word)] if unit == CHARACTER else words


def join_units(units: Sequence[str], unit: str) -> str:
    """Inverse of :func:`split_units`, up to white space; characters get a space only where they need one."""
    if unit != CHARACTER:
        return " ".join(units)
    return "".join(units[:1]) + "".join(" " * needs_space(*pair) + pair[1] for pair in pairwise(units))


class Arriving:
    """Cuts text that arrives in pieces into the units that it has as a whole, each as soon as it is complete.

    A word is complete where white space follows, a character where another one begins, the last unit at the end.
    """

    def __init__(self, unit: str) -> None:
        self.unit, self._begun = unit, ""

    @property
    def num_begun(self) -> int:
        """Characters of the unit that has begun."""
        return len(self._begun)

    def add(self, text: str) -> list[str]:
        """The units that this text completes."""
        text = (self._begun + text).replace(SENTENCE_PIECE, " ")
        units = split_units(text, self.unit)
        self._begun = units.pop() if units and not text[-1].isspace() else ""
        return units

    def end(self) -> list[str]:
        """The unit that had begun, if there is one."""
        return self.add(" ")


class UnitTokenizer:
    """Tokenizes one side unit by unit, so that a token boundary is always a unit boundary.

    Raises:
        ValueError: if the unit is unknown, or the tokenizer does not mark white space.
        NotEncodable: from the methods that encode, with the reason.
    """

    def __init__(self, tokenizer: Tokenizer, unit: str) -> None:
        if unit not in UNITS:
            raise ValueError(f"Unknown unit {unit!r}; expected one of {', '.join(UNITS)}.")
        self.tokenizer = tokenizer
        self.unit = unit
        self._mark = _mark_of(tokenizer)
        self._anchors = {
            spaced: (anchor, tokenizer.encode(anchor, add_special_tokens=False))
            for spaced, anchor in ((True, LETTER), (False, LINE_BREAK))
        }
        self._encode = lru_cache(maxsize=1 << 17)(self._encode_uncached)
        self._opens_after: dict[str, list[bool]] = {}

    def _encode_uncached(self, text: str, spaced: bool) -> tuple[int, ...]:
        if HALVES.search(text):
            raise NotEncodable(f"{text!r} is no text: a byte that was not UTF-8, or half of a character.")
        anchor, before = self._anchors[spaced]
        # "</s>" in a text from the web is text and must not end the sentence.
        text_after = anchor + " " * spaced + text
        ids = self.tokenizer.encode(text_after, add_special_tokens=False, split_special_tokens=True)
        if ids[: len(before)] != before:
            raise NotEncodable(f"The tokenizer merges {text!r} with the text before it ({anchor!r}).")
        if len(ids) == len(before):
            raise NotEncodable(f"The tokenizer has no token for {text!r}.")
        unit = tuple(ids[len(before) :])
        first, *inner = (self.opens_word[i] for i in unit)
        if self.unit == WORD and (any(inner) or (spaced and not first)):
            pieces = " ".join(self.tokenizer.convert_ids_to_tokens(list(unit)))
            raise NotEncodable(f"The tokens of the word {text!r} ({pieces}) do not show where it begins.")
        return unit

    def encode(self, piece: str, *, spaced: bool) -> list[list[int]]:
        """Token ids of one piece of :func:`split_units`, a list per unit; spaced: white space precedes it."""
        ids = self._encode(piece, spaced)
        return [[i] for i in ids] if self.unit == TOKEN else [list(ids)]

    def encode_all(self, text: str, *, spaced: bool, before: str = "") -> list[list[int]]:
        """Token ids of a whole side, or of its continuation, a list per unit.

        The first word or token is preceded by white space where it is ``spaced``; for characters, the one ``before``
        the first decides whether there is white space between them.
        """
        units: list[list[int]] = []
        for piece in split_units(text, self.unit):
            if self.unit == CHARACTER:
                spaced, before = bool(before) and needs_space(before, piece), piece
            units += self.encode(piece, spaced=spaced)
            spaced = True
        return units

    def cut(self, ids: Sequence[int]) -> list[list[int]]:
        """The units that a session finds in token ids that it has written one by one."""
        units: list[list[int]] = []
        for token in ids:
            if not units or self.ends_unit(units[-1], token):
                units.append([])
            units[-1].append(token)
        return units

    def ends_unit(self, unit_ids: Sequence[int], next_id: int) -> bool:
        """Whether the unit is complete, given the token that follows it."""
        if self.unit == TOKEN or next_id == self.tokenizer.eos_token_id:
            return True
        if self.unit == WORD:
            return self.opens_word[next_id]
        return ends_character(self._bytes(unit_ids), self._bytes([next_id]))

    def kind_of(self, written: Sequence[int]) -> str:
        """What decides which tokens may open the next unit; for characters, the script of the last one."""
        return kind_of(whole_characters(self._bytes(written[-16:]))[0]) if self.unit == CHARACTER else self.unit

    def opens_unit(self, kind: str) -> list[bool]:
        """For every token id, whether it begins a new word or character; ``kind`` is from `kind_of`."""
        if self.unit == WORD:
            return self.opens_word
        if kind not in self._opens_after:
            unit = kind.encode()
            texts = (None if piece is None else piece_bytes(piece, self._mark) for piece in self._pieces)
            opens = [text is not None and ends_character(unit, text) for text in texts]
            opens[self.tokenizer.eos_token_id] = True
            self._opens_after[kind] = opens
        return self._opens_after[kind]

    def num_complete(self, ids: Sequence[int], counted_in: str) -> int:
        """How many of the tokens after the last whole word (or character) form whole ones, while more may follow."""
        if counted_in == CHARACTER:
            ends = (i for i in range(len(ids), 0, -1) if not whole_characters(self._bytes(ids[:i]))[1])
        else:
            ends = (i for i in range(len(ids) - 1, 0, -1) if self.opens_word[ids[i]])
        return next(ends, 0)

    def count(self, ids: Sequence[int]) -> int:
        """Number of units in a written chunk; its end is the end of a unit."""
        if self.unit == CHARACTER:
            return len(split_units(whole_characters(self._bytes(ids))[0], CHARACTER))
        return len(ids) if self.unit == TOKEN else sum(i == 0 or self.opens_word[ids[i]] for i in range(len(ids)))

    @property
    def _pieces(self) -> Sequence[str | None]:
        return self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(piece_bytes(piece, self._mark) for piece in self.tokenizer.convert_ids_to_tokens(list(ids)))

    @cached_property
    def opens_word(self) -> list[bool]:
        """For every token id, whether it opens a new word: white space before it, or the end of sentence."""
        opens = opens_word(self._pieces, self._mark)
        opens[self.tokenizer.eos_token_id] = True
        return opens

    def text(self, unit_ids: Sequence[int]) -> str:
        """Text of written units, with plain spaces and without surrounding white space."""
        text = self.tokenizer.decode(unit_ids, clean_up_tokenization_spaces=False)
        return join_units(split_units(text, self.unit), self.unit)


def _mark_of(tokenizer: Tokenizer) -> str:
    """How the vocabulary marks a space before a piece."""
    before = tokenizer.encode(LETTER, add_special_tokens=False)
    ids = tokenizer.encode(f"{LETTER} {LETTER}", add_special_tokens=False)
    pieces = tokenizer.convert_ids_to_tokens(ids[len(before) :])
    mark = pieces[0][:1] if pieces else ""
    if mark not in (BYTE_LEVEL, SENTENCE_PIECE):
        raise ValueError(
            f"The tokenizer writes ' {LETTER}' as {pieces!r}, which does not show the space; units need a tokenizer "
            "that cuts at white space and marks it (byte-level BPE or SentencePiece)."
        )
    return mark
