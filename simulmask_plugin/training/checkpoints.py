"""Checkpoints of the trainer: the newest that a training can resume from, since a kill may have truncated the last."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from simulmask_plugin.files.json_files import read_json

TRAINER_STATE = "trainer_state.json"
"""The trainer writes it last."""
WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
"""From one process, FSDP (a file or a folder), and DeepSpeed, which also keeps the weights there."""


def newest_whole(output: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint with all that a training needs to resume, and why newer ones were skipped."""
    faults: list[str] = []
    steps = [int(path.name[11:]) for path in output.glob("checkpoint-*") if path.name[11:].isdecimal()]
    for step in sorted(steps, reverse=True):
        checkpoint = output / f"checkpoint-{step}"
        if not (fault := fault_of(checkpoint)):
            return checkpoint, faults
        faults.append(f"{checkpoint.name} is not whole ({fault})")
    return None, faults


def fault_of(checkpoint: Path) -> str:
    """What a checkpoint lacks to be resumed from; empty if it is complete."""
    state = checkpoint / TRAINER_STATE
    if not state.is_file():
        return f"no {TRAINER_STATE}"
    try:
        read_json(state)
    except ValueError:
        return f"{TRAINER_STATE} is cut"
    if not has_optimizer(checkpoint):
        return "no optimizer"
    of_deepspeed = any(checkpoint.glob("global_step*"))
    weights = [path for pattern in WEIGHTS for path in checkpoint.glob(pattern)]
    if not weights and not of_deepspeed:
        return "no weights"
    for index in checkpoint.glob("*.index.json"):
        try:
            missing = {name for name in read_json(index)["weight_map"].values() if not (checkpoint / name).is_file()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is cut"
        if missing:
            return f"no {min(missing)}"
    for path in (*weights, *checkpoint.glob("optimizer.pt"), *checkpoint.glob("scheduler.pt")):
        if not (_is_whole_safetensors(path) if path.suffix == ".safetensors" else zipfile.is_zipfile(path)):
            return f"{path.name} is cut"
    return ""


def has_optimizer(checkpoint: Path) -> bool:
    """Whether a checkpoint has the state of its optimizer, without which a training restarts its learning rate."""
    return any(any(checkpoint.glob(pattern)) for pattern in OPTIMIZERS)


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says; https://github.com/huggingface/safetensors#format."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 0 < length < path.stat().st_size else {}
        except ValueError:
            return False
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return bool(ends) and path.stat().st_size == 8 + length + max(ends)
