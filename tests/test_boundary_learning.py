"""A small training: `next_unit` reads the end of a word off the mask, `look_ahead` learns it from the text.

A target word is one letter, written 1..4 times; its source word is the same, with 2..4 fillers behind it. At wait-1 a
row of `next_unit` that sees a new source word always opens a word, and one that sees none always goes on, so that
nothing has to be counted in training; while streaming, the row that asks whether the word is complete never sees one.
"""

import random

import jaxtyping
import pytest
import torch
from driving import drive, encoder_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import Row, to_feature
from simulmask_plugin.policies import WaitK
from simulmask_plugin.streaming.unit_session import StreamingSession

LETTERS, FILLER = "abcdefg", "z"
STEPS, BATCH_SIZE, LEARNING_RATE = 300, 32, 3e-3


@pytest.fixture(scope="module")
def letters():
    """A tokenizer with a token for every character, and one for each character at the start of a word."""
    characters = ["▁", "\n", *LETTERS, FILLER, *"Tr:As"]
    merges = [("▁", character) for character in characters[2:]]
    pieces = ["<pad>", "</s>", *characters, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


@pytest.fixture
def unchecked():
    """Without the type checks of conftest.py, which would take most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def sentence_pair(rng):
    target = [rng.choice(LETTERS) * rng.randint(1, 4) for _ in range(rng.randint(2, 5))]
    return [word + FILLER * rng.randint(2, 4) for word in target], target


def train(encoder):
    """Return a model trained at wait-1 on fresh examples."""
    rng = random.Random(0)
    model = tiny_model("llama", len(encoder.tokenizer), 0, initializer_range=0.05).train()
    collator = SimulMaskCollator(encoder.settings, pad_token_id=encoder.tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        pairs = [sentence_pair(rng) for _ in range(BATCH_SIZE)]
        rows = [Row(" ".join(source), " ".join(target), "", "") for source, target in pairs]
        batch = collator([to_feature(encoder.encode(row), None) for row in rows])
        model(**training_inputs(batch, model.config, model.dtype), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def word_error_rate(model, encoder):
    """Share of target words that streaming at wait-1 does not write at their place."""
    rng = random.Random(1)
    wrong = total = 0
    for _ in range(50):
        source, target = sentence_pair(rng)
        session = StreamingSession(
            model=model, encoder=encoder, policy=WaitK(k=1), max_target_tokens=40, max_unit_tokens=12
        )
        written = drive(session, source)
        total += len(target)
        wrong += sum(t >= len(written) or written[t] != word for t, word in enumerate(target))
    return wrong / total


@pytest.mark.slow
def test_next_unit_learns_the_word_boundary_from_the_mask_and_look_ahead_does_not(letters, unchecked):
    errors = {}
    for rows in ("look_ahead", "next_unit"):
        encoder = encoder_of(letters, policy="wait_k", k=1, rows=rows)
        errors[rows] = word_error_rate(train(encoder), encoder)
    assert errors["look_ahead"] < 0.1, errors
    assert errors["next_unit"] > 0.3, errors
