"""What the plugin costs, as ratios within one run; prints the Markdown of docs/benchmarks.md.

python benchmarks/run.py                  everything that this machine can measure
python benchmarks/run.py --only collate   one of: rows, collate, step, default, look-ahead, gpu
python benchmarks/run.py --no-bars        exit with 0 whatever it costs; else with 1 above one of `BARS`
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.families import tiny_config
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import to_feature
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.corpora.bpe import train_tokenizer
from simulmask_plugin.layouts.base import IGNORE_INDEX, Example
from simulmask_plugin.text.prompts import Prompt

VOCABULARY = 6000
Step = Callable[[], Any]


class Bar(NamedTuple):
    """What a benchmark may cost at most."""

    most: float
    unit: str


STEP_BAR = Bar(1.10, "times a step of plain fine-tuning")
BARS: Mapping[str, Bar] = {
    "rows": Bar(1.4, "times the tokenization of the text"),
    "collate": Bar(5.0, "ms a batch"),
    "step": STEP_BAR,
    "default": STEP_BAR,
    "gpu": STEP_BAR,
}


class Result(NamedTuple):
    """Lines of a Markdown table, and what is held against the benchmark's bar."""

    rows: list[str]
    costs: list[float]


def settings(positions: str, **block: Any) -> ModelSettings:
    """Settings of a wait-3 model."""
    config = SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3, "positions": positions} | block)
    return ModelSettings(config, Prompt("", "->"))


def random_feature(random: np.random.Generator, length: int) -> dict[str, Any]:
    """One example of exactly ``length`` tokens: half source, half target, units of 1 to 3 tokens."""
    free = length - 8 - 3 - 1
    return feature_of(random, 8, 3, random_lengths(random, free // 2), random_lengths(random, free - free // 2))


def feature_of(
    random: np.random.Generator, num_prompt: int, num_header: int, source: np.ndarray, target: np.ndarray
) -> dict[str, Any]:
    """One example with units of these lengths."""
    ids = random.integers(2, VOCABULARY, num_prompt + num_header + source.sum() + target.sum() + 1)
    return to_feature(Example(ids, num_prompt, source, num_header, target), None)


def random_lengths(random: np.random.Generator, total: int, most: int = 3) -> np.ndarray:
    """Unit lengths of 1 to ``most`` tokens that add up to ``total``."""
    ends = np.cumsum(random.integers(1, most + 1, total))
    ends = ends[ends < total]
    return np.diff(np.concatenate(([0], ends, [total])))


def paired(first: Step, second: Step, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of two steps run in turn, and the median of their ratios, first over second."""
    first(), second()
    times = np.asarray([(clock(first), clock(second)) for _ in range(rounds)])
    return median(times[:, 0]), median(times[:, 1]), median(times[:, 0] / times[:, 1])


def clock(step: Step) -> float:
    """Milliseconds of one step."""
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return 1000 * (time.perf_counter() - start)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bench_rows() -> Result:
    """The rows of an example of 126 tokens, against the tokenization of as long a text in one call; no batch yet."""
    words = [" " + "".join(letters) for letters in product("abcdefgh", repeat=3)]
    tokenizer = train_tokenizer(words, VOCABULARY)
    text = "".join(words[:126])
    assert len(tokenizer.encode(text)) == 126, "a word of the text is one token"
    feature = random_feature(np.random.default_rng(0), 126)
    costs: list[float] = []
    rows = ["| layout | microseconds | times tokenization (median of 500) |", "| --- | --- | --- |"]
    for layout, positions in (("prefix", "group"), ("slots", "slots")):
        collator = SimulMaskCollator(settings(positions, layout=layout), pad_token_id=0)
        ours, _, ratio = paired(partial(collator.lay_out, feature), partial(tokenizer.encode, text), rounds=500)
        costs.append(ratio)
        rows.append(f"| {layout} | {1000 * ours:.0f} | {ratio:.2f} |")
    return Result(rows, costs)


def bench_collate() -> Result:
    """Building a batch of 16 x 512 tokens: everything that the collator adds."""
    random = np.random.default_rng(0)
    features = [random_feature(random, 512) for _ in range(16)]
    costs: list[float] = []
    rows = ["| batch | rows | ms (median of 200) |", "| --- | --- | --- |"]
    for name in ("query_unit", "look_ahead"):
        collator = SimulMaskCollator(settings("modified_alibi", rows=name), pad_token_id=0, pad_to_multiple_of=8)
        costs.append(median(clock(partial(collator, features)) for _ in range(200)))
        rows.append(f"| 16 x 512 | {name} | {costs[-1]:.2f} |")
    return Result(rows, costs)


def model_of(
    family: str, shape: dict[str, int], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A random model in training mode."""
    config = tiny_config(family, VOCABULARY, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    prepare(model)
    return model.to(device).train()


def steps(model: PreTrainedModel, collator: SimulMaskCollator, features: list[dict[str, Any]]) -> tuple[Step, Step]:
    """One optimizer step with the plugin, and the same step of plain causal fine-tuning on the same tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.tensor([f["input_ids"] for f in features], device=model.device)
    labels = ids.clone()
    for row, feature in zip(labels, features, strict=True):  # as plain fine-tuning has them: the target, and its end
        row[: feature["num_prompt"] + sum(feature["source_lengths"]) + feature["num_header"]] = IGNORE_INDEX

    def update(inputs: dict[str, Any]) -> None:
        model(**inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def with_plugin() -> None:
        batch = {name: value.to(model.device) for name, value in collator(features).items()}
        update(training_inputs(batch, model.config, model.dtype))

    def plain() -> None:
        update({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})

    return with_plugin, plain


SHAPES = {
    "llama": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    "falcon": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8},
}


def bench_step() -> Result:
    """A training step against the same step of plain causal fine-tuning: 4 layers, d 512, length 256, sdpa."""
    random = np.random.default_rng(0)
    features = [random_feature(random, 256) for _ in range(8)]
    costs: list[float] = []
    rows = ["| family | positions | plugin ms | plain ms | ratio |", "| --- | --- | --- | --- | --- |"]
    for family, positions in (("llama", "group"), ("falcon", "modified_alibi")):
        collator = SimulMaskCollator(settings(positions, rows="query_unit"), pad_token_id=0, pad_to_multiple_of=8)
        ours, plain, ratio = paired(*steps(model_of(family, SHAPES[family]), collator, features), rounds=15)
        costs.append(ratio)
        rows.append(f"| {family} | {positions} | {ours:.0f} | {plain:.0f} | {ratio:.3f} |")
    return Result(rows, costs)


def bench_default() -> Result:
    """A step of the default block with one model for every k, at a real LLM's token counts, against plain fine-tuning.

    Those of SmolLM2 for a caption of Multi30k de-en: 27 of source, 17 of target, and 38 of its chat template.
    """
    random = np.random.default_rng(0)
    features = [
        feature_of(random, 30, 8, random_lengths(random, 27), random_lengths(random, 17, most=2)) for _ in range(16)
    ]
    costs: list[float] = []
    rows = ["| family | positions | rows of the batch | ratio |", "| --- | --- | --- | --- |"]
    for family, positions in (("llama", "group"), ("falcon", "modified_alibi")):
        collator = SimulMaskCollator(settings(positions, k=[1, 3, 5, 7, 9, 100]), pad_token_id=0)
        _, _, ratio = paired(*steps(model_of(family, SHAPES[family]), collator, features), rounds=25)
        costs.append(ratio)
        length = collator(features)["input_ids"].shape[1]
        rows.append(f"| {family} | {positions} | {length} (of {len(features[0]['input_ids'])}) | {ratio:.3f} |")
    return Result(rows, costs)


def bench_look_ahead() -> Result:
    """What the look-ahead rows add: tokens and time of a step, against query_unit rows."""
    random = np.random.default_rng(0)
    features = [random_feature(random, 256) for _ in range(8)]
    model = model_of("falcon", SHAPES["falcon"])
    base = SimulMaskCollator(settings("modified_alibi", rows="query_unit"), pad_token_id=0, pad_to_multiple_of=8)
    rows = ["| look_ahead_rate | rows of the batch | step / query_unit step |", "| --- | --- | --- |"]
    for rate in (1.0, 0.5, 0.25):
        block = {"rows": "look_ahead", "look_ahead_rate": rate}
        collator = SimulMaskCollator(settings("modified_alibi", **block), pad_token_id=0, pad_to_multiple_of=8)
        _, _, ratio = paired(steps(model, collator, features)[0], steps(model, base, features)[0], rounds=9)
        length = collator(features)["input_ids"].shape[1]
        rows.append(f"| {rate} | {length} (of 256) | {ratio:.2f} |")
    return Result(rows, [])


def bench_gpu() -> Result:
    """The step of the falcon-rw-1b shape in bf16 on an NVIDIA GPU."""
    costs: list[float] = []
    rows = ["| shape | length | plugin ms | plain ms | ratio |", "| --- | --- | --- | --- | --- |"]
    shape = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "max_position_embeddings": 2048}
    for length in (256, 512):
        if not torch.cuda.is_available():
            rows.append(f"| falcon-rw-1b, bf16 | {length} | not measured | not measured | not measured |")
            continue
        random = np.random.default_rng(0)
        features = [random_feature(random, length) for _ in range(16)]
        collator = SimulMaskCollator(
            settings("modified_alibi", rows="query_unit"), pad_token_id=0, pad_to_multiple_of=8
        )
        model = model_of("falcon", shape, "cuda", torch.bfloat16)
        ours, plain, ratio = paired(*steps(model, collator, features), rounds=15)
        costs.append(ratio)
        rows.append(f"| falcon-rw-1b, bf16 | {length} | {ours:.0f} | {plain:.0f} | {ratio:.3f} |")
    return Result(rows, costs)


BENCHMARKS = {
    "rows": bench_rows,
    "collate": bench_collate,
    "step": bench_step,
    "default": bench_default,
    "look-ahead": bench_look_ahead,
    "gpu": bench_gpu,
}


def main() -> int:
    """Run the benchmarks and print their tables; return 1 if one costs more than its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHMARKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-bars", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {device}, {args.threads} CPU threads\n")
    missed = []
    for name, benchmark in BENCHMARKS.items():
        if args.only not in (None, name):
            continue
        rows, costs = benchmark()
        print(f"## {name}\n\n{(benchmark.__doc__ or '').strip()}\n\n" + "\n".join(rows) + "\n", flush=True)
        if name in BARS and max(costs, default=0) > BARS[name].most:
            missed.append(f"{name}: {max(costs):.3f} {BARS[name].unit}, above the bar of {BARS[name].most:g}")
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed and not args.no_bars else 0


if __name__ == "__main__":
    sys.exit(main())
