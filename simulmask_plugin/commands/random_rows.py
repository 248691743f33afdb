"""Random rows for measuring parity: real words, numbers, punctuation and capitals, and sequences of letters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.text.units import CHARACTER, join_units

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    *("The", "house", "we've", "can't", "e-mail", "U.S.", "CO2", "naïve", "Straße", "Bäume", "l'homme", "œuvre"),
    *("30", "3.5", "10,000", "1990er", "2nd", "50%", "$9.99", "(2016)", "-", "–", ".", ",", "?", "'", "«oui»", "…"),
    *("“quoted”", "https://example.org/a_b?c=d", "Привет,", "नमस्ते", "مرحبا", "한국어", "你好。", "cafe\u0301"),
    *("👍🏽", "👩\u200d👧"),
)
CHARACTERS = (*"abcäßéжф你好世界。，データ", " 30", " iPhone", "कि", "วั", "か\u3099", "👍🏽", "👩\u200d👧")
"""For units of characters: scripts with and without spaces, of one byte to several code points."""


def random_row(encoder: ExampleEncoder, num_source: int, num_target: int, random: np.random.Generator) -> Row:
    """A row of random words or characters, with a random schedule if the policy needs one."""
    config, settings = encoder.settings.config, encoder.settings
    latencies = settings.trained_on.latencies
    row = Row(
        random_text(num_source, config.source_units, random),
        random_text(num_target, config.target_units, random),
        *settings.pair(),
        latency=str(random.choice(latencies)) if latencies else None,
    )
    return replace(row, schedule=_random_schedule(encoder, row, random)) if config.has_schedule_column else row


def long_row(encoder: ExampleEncoder, num_tokens: int, random: np.random.Generator) -> Row:
    """A row whose example has about this many tokens, half of them source; a schedule follows the diagonal."""
    config = encoder.settings.config
    many = encoder.encode(random_row(encoder, 100, 100, random))
    num_free = max(2, num_tokens - many.num_prompt - many.num_header)
    num_source, num_target = (
        max(1, int(num_free / 2 / lengths.mean())) for lengths in (many.source_lengths, many.target_lengths)
    )
    row = random_row(encoder, num_source, num_target, random)
    if not config.has_schedule_column:
        return row
    example = encoder.encode(row)
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    return replace(row, schedule=tuple(-(-t * num_source // num_target) for t in range(1, num_target + 1)))


def random_text(num_units: int, unit: str, random: np.random.Generator) -> str:
    """This many words, half of them random letters; or this many characters."""
    if unit == CHARACTER:
        return "".join(random.choice(CHARACTERS, num_units)).strip()
    return join_units([_random_word(random) for _ in range(num_units)], unit)


def _random_word(random: np.random.Generator) -> str:
    if random.random() < 0.5:
        return str(random.choice(WORDS))
    return "".join(random.choice(list(LETTERS), random.integers(1, 7)))


def _random_schedule(encoder: ExampleEncoder, row: Row, random: np.random.Generator) -> tuple[int, ...]:
    """Any g(1..T+1) that never decreases and lies in 0..S; a chunk has at least one source unit."""
    example = encoder.encode(row)
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    least = int(encoder.settings.config.layout.in_chunks)
    return tuple(sorted(random.integers(least, num_source + 1, num_target + 1).tolist()))
