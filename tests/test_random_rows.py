"""What parity is measured on."""

import numpy as np
import pytest
from driving import encoder_of
from tokenizer_kinds import KINDS, tokenizer_of

from simulmask_plugin.commands.random_rows import long_row, random_row, random_text
from simulmask_plugin.policies import ModelDriven
from simulmask_plugin.text.units import CHARACTER, WORD, split_units


def test_words_are_real_ones_with_numbers_punctuation_capitals_and_other_scripts():
    text = random_text(500, WORD, np.random.default_rng(0))
    assert len(split_units(text, WORD)) == 500
    words = text.split()
    assert {"30", "10,000", "-", "Straße", "we've", "нет"} - set(words) == {"нет"}
    for kind in (str.isdigit, str.isupper, str.islower, lambda c: not c.isalnum(), lambda c: ord(c) > 0x3000):
        assert any(any(map(kind, word)) for word in words)


@pytest.mark.parametrize("unit", [WORD, CHARACTER])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_encodes_them(kind, unit):
    encoder = encoder_of(tokenizer_of(kind), policy="wait_k", k=1, source_units=unit, target_units=unit)
    for seed in range(20):
        encoder.encode(random_row(encoder, 20, 20, np.random.default_rng(seed)))


BLOCKS = {
    "prefix": {"policy": "wait_k", "k": 3},
    "slots": {"layout": "slots", "policy": "schedule"},
    "turns": {"layout": "turns", "policy": "wait_k", "k": 3},
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("num_tokens", [128, 512])
def test_a_long_row_is_about_so_long(byte_level, block, num_tokens):
    encoder = encoder_of(byte_level, **block)
    for seed in range(5):
        example = encoder.encode(long_row(encoder, num_tokens, np.random.default_rng(seed)))
        assert 0.7 * num_tokens < len(example.input_ids) < 1.3 * num_tokens


def test_schedule_of_a_long_row_follows_the_diagonal(with_ends):
    encoder = encoder_of(with_ends, layout="interleaved")
    assert encoder.settings.config.policy is ModelDriven
    row = long_row(encoder, 400, np.random.default_rng(0))
    example = encoder.encode(row)
    num_source, num_target = len(example.source_lengths), len(example.target_lengths)
    assert len(row.schedule) == num_target
    assert (row.schedule[0] >= 1, row.schedule[-1]) == (True, num_source)
    assert all(abs(g - t * num_source / num_target) <= 1 for t, g in enumerate(row.schedule, start=1))
