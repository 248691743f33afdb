"""The pieces of a vocabulary: their bytes, and whether they begin with white space.

Byte-level BPE writes every byte as a letter (a space as "Ġ"), SentencePiece a space as "▁" and a single byte as
"<0x0A>". "Ġ" is also a letter of Maltese and may be in a SentencePiece vocabulary, so the two are never mixed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

BYTE_LEVEL, SENTENCE_PIECE = "Ġ", "▁"
"""The first letter of a piece with a leading space; it distinguishes the two kinds of vocabularies."""

_AS_THEMSELVES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTES = {chr(byte): byte for byte in _AS_THEMSELVES} | {
    chr(0x100 + i): byte for i, byte in enumerate(sorted(set(range(0x100)) - set(_AS_THEMSELVES)))
}
"""Letter of a byte-level vocabulary -> byte (GPT-2)."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def piece_bytes(piece: str, mark: str) -> bytes:
    """Bytes of a piece; ``mark`` is BYTE_LEVEL or SENTENCE_PIECE. Added tokens are plain text."""
    if mark == BYTE_LEVEL:
        if all(letter in _BYTES for letter in piece):
            return bytes(_BYTES[letter] for letter in piece)
    elif match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match[1])
    else:
        piece = piece.replace(SENTENCE_PIECE, " ")
    return piece.encode("utf-8", "replace")


def opens_word(pieces: Iterable[str | None], mark: str) -> list[bool]:
    """For every piece, whether it begins with white space; False for None, an id without a piece."""
    texts = (b"" if piece is None else piece_bytes(piece, mark) for piece in pieces)
    return [text.decode("utf-8", "replace")[:1].isspace() for text in texts]


def whole_characters(text: bytes) -> tuple[str, bytes]:
    """The complete characters of UTF-8 text that may be cut anywhere, and the bytes of an incomplete last one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(text), decoder.getstate()[0]
