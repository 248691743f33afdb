"""Adapters: their folders, and models with adapters merged into them in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.files.loading import weights_of

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
KINDS = ("LORA", "OFT")
"""Of PEFT, that LLaMA-Factory trains."""
PISSA_CONVERTED = "pissa_converted"
"""Folder in the output_dir of a PiSSA training: the adapter converted to plain LoRA."""


def check_whole(key: str, model: Path) -> None:
    """Refuse an adapter in the place of a model; the ValueError says what its base is, and how to merge the two."""
    if (model / CONFIG).is_file():
        base = base_of(model)
        raise ValueError(
            f"{key}: {model} is an adapter, trained on {base}. Set {key}: {base} and adapter: {model} (on a command "
            f"line {base} --adapter {model}); or merge it: llamafactory-cli export --model_name_or_path {base} "
            f"--adapter_name_or_path {model} --infer_dtype float32 --export_dir {model}_merged"
        )


def check_adapter(key: str, adapter: Path) -> None:
    """Refuse what is no adapter, or none that a merge can reproduce.

    Raises:
        ValueError: with the remedy.
    """
    if not (adapter / CONFIG).is_file():
        is_model = (adapter / "config.json").is_file()
        remedy = "it is a whole model, which needs none" if is_model else "expected the output_dir of a LoRA training"
        raise ValueError(f"{key}: {adapter} has no {CONFIG}; {remedy}.")
    kind = _config(adapter).get("peft_type")
    if kind not in KINDS:
        raise ValueError(
            f"{key}: {adapter / CONFIG}: peft_type is {kind!r}; expected {' or '.join(KINDS)}, as LLaMA-Factory trains "
            "them."
        )
    check_reproducible(adapter)


def check_reproducible(folder: Path) -> None:
    """Raise a ValueError with the folder to use instead of an adapter whose base weights cannot be reproduced."""
    if (folder / CONFIG).is_file() and str(_config(folder).get("init_lora_weights")).startswith("pissa_niter"):
        raise ValueError(
            f"{folder} is a PiSSA adapter over weights that were estimated by a random method; take {PISSA_CONVERTED} "
            "in the output_dir of its training, which pissa_convert: true writes."
        )


def make_room(model: Any, num_tokens: int) -> None:
    """Enlarge the embedding as LLaMA-Factory does for new tokens, if it has fewer rows than there are tokens."""
    if num_tokens > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(num_tokens, pad_to_multiple_of=64, mean_resizing=False)


def with_adapter(model: Any, adapter: Path) -> Any:
    """The model with an adapter merged into its weights, in memory and in their precision; beside them if quantized.

    Raises:
        ValueError: if the adapter is that of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    with weights_of(str(adapter)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys|Some weights of")  # compared below
        if not any((adapter / name).is_file() for name in WEIGHTS):
            raise ValueError(f"{adapter} has no weights; expected {' or '.join(WEIGHTS)}.")
        saved = load_peft_weights(str(adapter), device="cpu")
        try:
            adapted: Any = PeftModel.from_pretrained(
                model, str(adapter), torch_device=str(model.device), ignore_mismatched_sizes=True
            )
        except ValueError as error:  # no layer of the model is one of those that the adapter names
            raise ValueError(_misfit(model, adapter, str(error))) from error
    needed, known = (get_peft_model_state_dict(adapted, save_embedding_layers=also) for also in (False, True))
    expected, got = ({name: tuple(tensor.shape) for name, tensor in some.items()} for some in (known, saved))
    faults = [name for name in sorted(needed.keys() | got.keys()) if expected.get(name) != got.get(name)]
    if faults:
        shapes = f"expected {expected.get(faults[0], 'nothing')}, got {got.get(faults[0], 'nothing')}"
        raise ValueError(_misfit(model, adapter, f"{faults[0]} and {len(faults) - 1} more: {shapes}"))
    return adapted.get_base_model() if is_quantized(model) else adapted.merge_and_unload()


def is_quantized(model: Any) -> bool:
    """Whether a merge would round the weights to a few bits."""
    return bool(model.config.to_dict().get("quantization_config"))


def _misfit(model: Any, adapter: Path, reason: str) -> str:
    return (
        f"{adapter} does not fit {model.name_or_path}: {reason}. It was trained on {base_of(adapter)}; take that model."
    )


def base_of(adapter: Path) -> str:
    """What an adapter was trained on, as the training named it."""
    return str(_config(adapter).get("base_model_name_or_path") or "BASE")


def _config(adapter: Path) -> dict[str, Any]:
    content = read_json(adapter / CONFIG)
    if not isinstance(content, dict):
        raise ValueError(f"{adapter / CONFIG}: expected an object, got {content!r}.")
    return content
