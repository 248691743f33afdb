r"""Writes a small random model and its tokenizer, into a folder for LLaMA-Factory's model_name_or_path.

    python data/make_model.py --text output/big_toy/pairs/train.jsonl --output output/big_toy/model
    python data/make_model.py --text train.de train.en --output output/llama_5m --family llama \
        --vocab-size 6000 --layers 4 --hidden 256 --heads 8

The tokenizer is a byte-level BPE trained on the texts, with <|endoftext|> (first and last token) and <|pad|>.
`falcon` has ALiBi positions and the layout of falcon-rw-1b, `llama` rotary positions; both tie embeddings.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import (
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from simulmask_plugin.corpora.bpe import train_tokenizer
from simulmask_plugin.corpora.parallel_text import read_json, read_lines

FAMILIES = ("falcon", "llama")


def make_model(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    layers: int,
    hidden: int,
    heads: int,
    max_positions: int,
    seed: int,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Returns a model with random weights and the vocabulary of the tokenizer."""
    if family == "llama" and dropout:
        raise ValueError("Llama has no dropout of its hidden states in transformers; use --dropout 0.")
    if hidden % heads:
        raise ValueError(f"The hidden size must be a multiple of the number of heads, got {hidden} and {heads}.")
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": max_positions,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    set_seed(seed)
    if family == "falcon":
        shape |= {
            "alibi": True,
            "multi_query": False,
            "new_decoder_architecture": False,
            "parallel_attn": False,
            "bias": True,
            "hidden_dropout": dropout,
        }
        return FalconForCausalLM(FalconConfig(**shape))
    if family == "llama":
        # Three matrices of 8/3 d make the feed-forward layer as large as the usual two of 4 d.
        shape["intermediate_size"] = hidden * 8 // 3
        return LlamaForCausalLM(LlamaConfig(**shape))
    raise ValueError(f"Unknown family {family!r}; expected one of {', '.join(FAMILIES)}.")


def read_texts(files: Iterable[Path]) -> Iterator[str]:
    """Yields the lines of text files, and both sides of .json and .jsonl files (keys source and target)."""
    for file in files:
        if file.suffix in (".json", ".jsonl"):
            for pair in read_json(file):
                yield pair.source
                yield pair.target
        else:
            yield from read_lines(file)


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training text of the tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="folder, empty or new")
    parser.add_argument("--family", choices=FAMILIES, default="falcon", help="default: %(default)s")
    parser.add_argument("--vocab-size", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--hidden", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--heads", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--max-positions", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--dropout", type=float, default=0.0, help="falcon: of hidden states (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    options = parser.parse_args()
    try:
        print(write_model(options))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def write_model(options: argparse.Namespace) -> str:
    """Writes the folder and returns a description of its content."""
    output = options.output
    if output.exists() and any(output.iterdir()) and not options.overwrite:
        raise FileExistsError(f"{output} is not empty; choose another --output or pass --overwrite.")
    tokenizer = train_tokenizer(read_texts(options.text), options.vocab_size)
    tokenizer.model_max_length = options.max_positions
    model = make_model(
        options.family,
        tokenizer,
        layers=options.layers,
        hidden=options.hidden,
        heads=options.heads,
        max_positions=options.max_positions,
        seed=options.seed,
        dropout=options.dropout,
    )
    tokenizer.save_pretrained(output)
    model.save_pretrained(output)
    return f"{output}: {options.family}, {model.num_parameters():,} parameters, {len(tokenizer):,} tokens"


if __name__ == "__main__":
    main()
