"""Sentences a second of one model: one sentence after the other, and many at once in a pool; prints a Markdown table.

python benchmarks/pool.py                     on a GPU the shape of Llama 3.1 8B in bf16; else a Falcon of 4.7 M
python benchmarks/pool.py --lanes 32 64 128   sentences at once

Weights and sentences are random: 8 to 20 words of one token, wait-3, each translated into 24 tokens.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import tiny_config
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.corpora.bpe import train_tokenizer
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import Lane, Steps
from simulmask_plugin.streaming.options import Decision, Opener, session_opener
from simulmask_plugin.streaming.pool import Pool
from simulmask_plugin.streaming.simulation import simulate
from simulmask_plugin.text.prompts import Prompt

NUM_TARGET_TOKENS = 24


class Shape(NamedTuple):
    """A model to measure."""

    name: str
    family: str
    positions: str
    vocabulary: int
    dtype: torch.dtype
    config: dict[str, int]


LLAMA = Shape(
    *("Llama 3.1 8B, bf16", "llama", "group", 128256, torch.bfloat16),
    {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
    },
)
FALCON = Shape(
    *("Falcon 4.7 M, fp32", "falcon", "modified_alibi", 6000, torch.float32),
    {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 32},
)


def random_model(shape: Shape, device: str) -> PreTrainedModel:
    """A model with random weights, made where it runs."""
    torch.manual_seed(0)
    with torch.device(device):
        config = tiny_config(shape.family, shape.vocabulary, **shape.config)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=shape.dtype)
    prepare(model)
    return model.eval()


def jobs(
    model: PreTrainedModel, positions: str, words: list[str], num_sentences: int
) -> Iterator[Callable[[Lane], Steps[Any]]]:
    """What translates so many random sentences."""
    config = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3, "positions": positions})
    encoder = ExampleEncoder(train_tokenizer(words, 6000), ModelSettings(config, Prompt("", "->")))
    opener = session_opener(model, encoder, Decision(), max_target_tokens=NUM_TARGET_TOKENS)
    random = np.random.default_rng(0)
    for length in random.integers(8, 21, num_sentences):
        source = list(random.choice([word.strip() for word in words], length))
        yield partial(_stream, opener, source)


def _stream(opener: Opener, source: list[str], lane: Lane) -> Steps[Any]:
    return simulate(opener(lane, None), source, "", "word")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--alone", type=int, default=16, help="sentences of the first measurement")
    args = parser.parse_args()
    is_on_gpu = torch.cuda.is_available()
    shape = LLAMA if is_on_gpu else FALCON
    device = torch.cuda.get_device_name() if is_on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{shape.name}; torch {torch.__version__}, transformers {transformers.__version__}, {device}\n", flush=True)
    model = random_model(shape, "cuda" if is_on_gpu else "cpu")
    words = [" " + "".join(letters) for letters in product("abcdefgh", repeat=3)]

    def sentences_per_second(num_sentences: int, lanes: int | None) -> float:
        start = time.perf_counter()
        if lanes is None:
            for job in jobs(model, shape.positions, words, num_sentences):
                lane = Lane()
                Feeder(model, lane).run(job(lane))
        else:
            num_done = sum(1 for _ in Pool(model, lanes).run(jobs(model, shape.positions, words, num_sentences)))
            assert num_done == num_sentences
        return num_sentences / (time.perf_counter() - start)

    sentences_per_second(2, None)  # warm up
    alone = sentences_per_second(args.alone, None)
    print(f"| at once | sentences a second | times |\n| --- | --- | --- |\n| 1 | {alone:.2f} | 1.0 |", flush=True)
    for lanes in args.lanes:
        rate = sentences_per_second(4 * lanes, lanes)
        print(f"| {lanes} | {rate:.1f} | {rate / alone:.1f} |", flush=True)


if __name__ == "__main__":
    main()
