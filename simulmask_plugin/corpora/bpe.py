"""A tokenizer trained on the spot: byte-level BPE, as GPT-2 and Falcon have it."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
"""Of a tokenizer's special tokens the first, which begins and ends a text, and the second."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the texts; it has every byte, so no <unk>.

    Raises:
        ValueError: if the vocabulary has no room for the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + 2
    if vocab_size < smallest:
        raise ValueError(f"The vocabulary needs at least {smallest} entries (256 bytes, 2 special), got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    # Behind a prompt every word has a space before it, the first one too.
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
