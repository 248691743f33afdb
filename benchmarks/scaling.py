"""Memory and time of the recipes for real models, calculated, not measured; prints the tables of docs/scaling.md.

python benchmarks/scaling.py

The models are built without weights (on the meta device), so their sizes are exact; everything else is the formulas of
that page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig, PretrainedConfig, Qwen2Config

from simulmask_plugin.attention.families import family_of

RECIPES = Path(__file__).parents[1] / "yaml_configs"
GIB = 2**30
NF4 = (4 + 0.127) / 8
"""Bytes of a 4-bit weight with its doubly quantized constants (Dettmers et al., 2023, section 3)."""
RANK = 64
"""Of the adapters, in all of the recipes."""
LENGTHS = (512, 2048)
GPUS = (1, 8)
CARDS = {"A100": 312e12, "H100": 989e12}
"""Dense bf16 operations a second, from the data sheets."""
UTILIZATION = 0.4
"""Share of these that a training reaches; an assumption."""


def config_of(kind: type[PretrainedConfig], **shape: Any) -> PretrainedConfig:
    """A configuration with the numbers of the published config.json."""
    return kind(**shape)


CONFIGS = {
    "Llama-3.1-8B": config_of(
        LlamaConfig,
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128256},
    ),
    "Qwen2.5-7B": config_of(
        Qwen2Config,
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        **{"num_key_value_heads": 4, "vocab_size": 152064},
    ),
    "falcon-rw-1b": config_of(
        FalconConfig,
        **{"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "vocab_size": 50304},
        **{"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False},
    ),
}
MODELS = {"llama": "Llama-3.1-8B", "qwen_2_5_7b": "Qwen2.5-7B", "falcon_rw_1b": "falcon-rw-1b"}
"""What the names of the recipes begin with."""


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of a model that determine memory and time.

    Attributes:
        parameters: all.
        matrices: those that are multiplied with every token: linear layers and output head.
        linear: those in linear layers that an adapter goes to, and that quantization_bit takes.
        sides: sum of inputs and outputs of these layers.
        outputs: sum of their outputs alone, in one layer of the model.
        layers, hidden, heads, vocabulary: as in its config.json.
        mask_heads: heads of the mask: 1, or all with ALiBi, whose bias is in it.
    """

    parameters: int
    matrices: int
    linear: int
    sides: int
    outputs: int
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    mask_heads: int

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on every linear layer."""
        return rank * self.sides


def size_of(config: PretrainedConfig) -> Size:
    """Measure a model that has no weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        matrices=sum(m.weight.numel() for m in [*linear, head]),
        linear=sum(m.weight.numel() for m in linear),
        sides=sum(m.in_features + m.out_features for m in linear),
        outputs=sum(m.out_features for m in linear) // config.num_hidden_layers,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        mask_heads=config.num_attention_heads if family_of(config).position == "alibi" else 1,
    )


def states(size: Size, *, rank: int | None, four_bit: bool, stage: int, gpus: int) -> float:
    """Return bytes of weights, gradients and Adam on one GPU.

    Args:
        size: of the model.
        rank: of the LoRA adapter; None: all weights are trained.
        four_bit: whether the frozen linear layers are nf4.
        stage: of ZeRO: 0 cuts nothing, 2 gradients and Adam, 3 the weights, too.
        gpus: over how many.
    """
    trained = size.parameters if rank is None else size.adapter(rank)
    frozen = 0.0 if rank is None else 2.0 * size.parameters
    if four_bit:
        frozen -= (2 - NF4) * size.linear
    weights, gradients, adam = frozen + 2.0 * trained, 2.0 * trained, 12.0 * trained
    return weights / (gpus if stage == 3 else 1) + (gradients + adam) / (gpus if stage >= 2 else 1)


def activations(size: Size, *, batch: int, length: int) -> dict[str, float]:
    """Return the bytes that grow with the batch, by part, with checkpointing in bf16."""
    tokens = batch * length
    return {
        "checkpoints": 2.0 * tokens * size.hidden * size.layers,
        "one layer": 2.0 * tokens * 2 * size.outputs,
        "logits": 12.0 * tokens * size.vocabulary,
        "mask": 2.0 * batch * size.mask_heads * length**2,
        "eager scores": 8.0 * batch * size.heads * length**2,
    }


def operations(size: Size, *, rank: int | None, length: int) -> float:
    """Return the floating-point operations of one training token with checkpointing."""
    passes = 4 if rank is None else 3  # forward, forward again, backward to inputs, and to weights where these learn
    return passes * 2.0 * size.matrices + 4 * 4.0 * length * size.hidden * size.layers


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def gib(number: float) -> str:
    """Bytes as GiB."""
    return f"{number / GIB:.1f}"


def mib(number: float) -> str:
    """Bytes as MiB."""
    value = number / 2**20
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def sizes_table(sizes: Mapping[str, Size]) -> str:
    """The models."""
    rows = (
        [name, f"{s.parameters / 1e9:.2f}", s.layers, s.hidden, s.heads, s.vocabulary, f"{s.adapter(RANK) / 1e6:.0f}"]
        for name, s in sizes.items()
    )
    columns = ("model", "parameters (10^9)", "layers", "hidden", "heads", "vocabulary", "adapter, rank 64 (10^6)")
    return table(columns, rows)


def states_table(sizes: Mapping[str, Size]) -> str:
    """Weights, gradients and Adam."""
    rows = []
    for name, size in sizes.items():
        for method, rank, four_bit in (("full", None, False), ("LoRA", RANK, False), ("LoRA, nf4", RANK, True)):
            stages = ((0, 1), (2, 8), (3, 8))
            cells = [gib(states(size, rank=rank, four_bit=four_bit, stage=s, gpus=gpus)) for s, gpus in stages]
            rows.append([name, method, *(cells if not four_bit else [*cells[:2], "no"])])
    return table(("model", "trained", "ZeRO 0, or one GPU", "ZeRO 2, 8 GPUs", "ZeRO 3, 8 GPUs"), rows)


def activations_table(sizes: Mapping[str, Size]) -> str:
    """The memory of one more sentence in the batch."""
    rows = []
    for name, size in sizes.items():
        for length in LENGTHS:
            parts = activations(size, batch=1, length=length)
            eager = parts.pop("eager scores")
            cells = map(mib, (*parts.values(), sum(parts.values()), eager))
            rows.append([name, length, *cells])
    return table(
        ("model", "length", "checkpoints", "one layer", "logits", "mask", "total", "plus scores, if eager"), rows
    )


def time_table(sizes: Mapping[str, Size]) -> str:
    """Minutes for a million tokens on one GPU."""
    rows = []
    for name, size in sizes.items():
        for method, rank in (("full", None), ("LoRA", RANK)):
            for length in LENGTHS:
                work = operations(size, rank=rank, length=length)
                minutes = (1e6 * work / (UTILIZATION * peak) / 60 for peak in CARDS.values())
                rows.append([name, method, length, f"{work / 1e9:.0f}", *(f"{one:.1f}" for one in minutes)])
    return table(("model", "trained", "length", "GFLOPs / token", *(f"{card}, minutes" for card in CARDS)), rows)


def recipes() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield name, model and keys of every training YAML for a model of this page."""
    for path in sorted(RECIPES.glob("*.yaml")):
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        models = [model for prefix, model in MODELS.items() if path.stem.startswith(prefix)]
        if models and keys.get("do_train"):
            yield path.stem, models[0], keys


def recipes_table(sizes: Mapping[str, Size]) -> str:
    """The memory of a recipe without changes."""
    rows = []
    for name, model, keys in recipes():
        rank = keys["lora_rank"] if keys["finetuning_type"] == "lora" else None
        stage = int(re.sub(r".*ds_z(\d)_config.*", r"\1", keys.get("deepspeed", "ds_z0_config")))
        batch, length = keys["per_device_train_batch_size"], keys["cutoff_len"]
        parts = activations(sizes[model], batch=batch, length=length)
        grows = sum(parts.values()) - parts["eager scores"]
        if keys["simulmask"].get("layout") in ("interleaved", "turns") and keys["flash_attn"] == "fa2":
            grows -= parts["mask"]
        four_bit = "quantization_bit" in keys
        fixed = [states(sizes[model], rank=rank, four_bit=four_bit, stage=stage, gpus=gpus) for gpus in GPUS]
        kind = "full" if rank is None else f"LoRA {rank}" + ", nf4" * four_bit
        rows.append([name, kind, stage, f"{batch} x {length}", gib(grows), *(gib(one + grows) for one in fixed)])
    columns = ("recipe", "trained", "ZeRO", "batch x length", "activations", *(f"{n} GPU{'s' * (n > 1)}" for n in GPUS))
    return table(columns, rows)


TABLES = (sizes_table, states_table, activations_table, recipes_table, time_table)


def main() -> None:
    """Print every table."""
    sizes = {name: size_of(config) for name, config in CONFIGS.items()}
    print("\n\n".join(make(sizes) for make in TABLES))


if __name__ == "__main__":
    main()
