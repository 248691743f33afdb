"""The hardware that a YAML needs, clear errors on a machine without a GPU, and the end of processes that use gloo.

Each check raises a ValueError that names the key and the remedy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PRECISIONS = ("bf16", "fp16", "pure_bf16", "tf32")
"""Keys of a training YAML that need a GPU, unless ``use_cpu: true`` is set."""
KERNELS = ("enable_liger_kernel", "use_unsloth_gc", "use_liger_kernel", "fp8")
"""Keys whose kernels need one in any case."""
ON_THE_CPU = {
    "bf16": ", or keep it and set use_cpu: true (faster on a CPU that computes in bf16: avx512_bf16, amx_bf16)"
}
"""What else may be done about such a key."""

RELEASE = 0.1
"""Seconds in which gloo's threads let go of the tensors of collectives that have ended."""

SMOKE = "`simulmask smoke YAML` tries a recipe on the hardware at hand"


def has_gpu() -> bool:
    """Whether torch sees any accelerator."""
    import torch
    from transformers.utils import is_torch_mps_available, is_torch_npu_available, is_torch_xpu_available

    others = (is_torch_xpu_available, is_torch_npu_available, is_torch_mps_available)
    return torch.cuda.is_available() or any(is_available() for is_available in others)


def check_training(values: Mapping[str, Any]) -> None:
    """Refuse a training YAML, with all overrides, that needs a GPU on a machine without one."""
    if values.get("use_cpu"):
        return
    check_kernels({key: values.get(key) for key in PRECISIONS})
    if values.get("deepspeed") is not None and "LOCAL_RANK" not in os.environ and not has_gpu():
        raise ValueError(
            f"deepspeed: {values['deepspeed']} is for GPUs, and torch sees none here. To train on the CPU, set "
            "deepspeed: null (on a command line deepspeed=null), or start two processes with FORCE_TORCHRUN=1 "
            f"NPROC_PER_NODE=2 DS_ACCELERATOR=cpu; {SMOKE}."
        )


def check_kernels(values: Mapping[str, Any]) -> None:
    """Refuse keys, with their values, whose kernels need a GPU on a machine without one."""
    for key, value in values.items():
        if value and not has_gpu():
            raise ValueError(
                f"{key}: {str(value).lower()} needs a GPU, and torch sees none here. To train on the CPU, set {key}: "
                f"false (on a command line {key}=false){ON_THE_CPU.get(key, '')}; {SMOKE}."
            )


def check_torchrun(num_devices: int) -> None:
    """Refuse FORCE_TORCHRUN if LLaMA-Factory would start zero processes, one per GPU."""
    if num_devices == 0 and "NPROC_PER_NODE" not in os.environ:
        raise ValueError(
            "FORCE_TORCHRUN=1 starts a process for every GPU, and torch sees none here. Unset it, or set with "
            f"NPROC_PER_NODE the number of processes to start on the CPU; {SMOKE}."
        )


def check_ray() -> None:
    """Refuse LLaMA-Factory's Ray mode on a machine without a GPU, where it never starts."""
    if not has_gpu():
        raise ValueError(
            "USE_RAY=1 needs a GPU on the machine that starts the training, and torch sees none here: LLaMA-Factory "
            "would ask Ray for ten CPUs for each of its CPUs, and wait for them without end. Unset it, and start "
            "the training on every machine with FORCE_TORCHRUN=1 NNODES=... (docs/scaling.md)."
        )


def leave_together() -> None:
    """Wait at the end of a run, if processes talk through gloo, until all have come here and its threads are idle.

    A thread of gloo keeps the tensors of its last collective a moment longer than `wait` waits, and needs the
    interpreter to release them. If the process ends in that moment, it is aborted ("terminate called without an active
    exception", https://github.com/pytorch/pytorch/issues/190489), torchrun kills the processes that are still saving,
    and a finished training is reported as failed. Destroying the group does not help, since DDP keeps it alive.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
        dist.barrier()  # waits for all collectives before it; its own has no tensor of Python
        time.sleep(RELEASE)  # a thread may have ended a collective and still be about to release its tensors


def device_of(name: str) -> torch.device:
    """The device named in an evaluation, if torch knows the name."""
    import torch

    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: unknown device {name!r}; expected cpu, cuda, cuda:1 or the like.") from None


def check_device(name: str) -> None:
    """Refuse a missing device of an evaluation, before a model is loaded."""
    import torch

    device, num_gpus = device_of(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(
            f"device: {name} is not there: torch sees {num_gpus or 'no'} GPUs (`simulmask env`). Set device: cpu, on a "
            f"command line device=cpu; {SMOKE}."
        )
