"""What needs a GPU is refused where there is none, before anything is loaded, with what to set."""

import re
import subprocess
import sys

import pytest
import torch

from simulmask_plugin.training import machine
from simulmask_plugin.training.machine import (
    check_device,
    check_kernels,
    check_ray,
    check_torchrun,
    check_training,
    leave_together,
)

ZERO_2 = "yaml_configs/deepspeed/ds_z2_config.json"

FOR_GPUS = {
    "bf16": ({"bf16": True}, "^bf16: true needs a GPU.* set bf16: false .* set use_cpu: true .*avx512_bf16"),
    "fp16": ({"fp16": True, "bf16": False}, "^fp16: true needs a GPU(?!.*use_cpu)"),
    "pure_bf16": ({"pure_bf16": True}, "^pure_bf16: true needs a GPU"),
    "tf32": ({"tf32": True}, "^tf32: true needs a GPU"),
    "deepspeed": (
        {"deepspeed": ZERO_2},
        "^deepspeed: yaml_configs.* is for GPUs.* set deepspeed: null .*FORCE_TORCHRUN=1",
    ),
    "both": ({"deepspeed": ZERO_2, "bf16": True}, "^bf16: true needs a GPU"),
}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("LOCAL_RANK", "NPROC_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("values", "message"), FOR_GPUS.values(), ids=FOR_GPUS)
def test_training_for_gpus_is_refused_where_there_is_none(no_gpu, values, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check_training(values)
    assert "`simulmask smoke YAML`" in str(refusal.value)


@pytest.mark.parametrize(("values", "message"), FOR_GPUS.values(), ids=FOR_GPUS)
def test_training_for_gpus_is_accepted_where_there_is_one(monkeypatch, values, message):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    check_training(values)


@pytest.mark.parametrize("values", [{}, {"bf16": False, "deepspeed": None}, {"bf16": True, "use_cpu": True}])
def test_training_for_the_cpu_is_accepted(no_gpu, values):
    check_training(values)


def test_programs_for_gpus_are_refused_where_there_is_none(no_gpu):
    check_kernels({"enable_liger_kernel": False, "fp8": None})
    with pytest.raises(ValueError, match="^enable_liger_kernel: true needs a GPU.* set enable_liger_kernel: false"):
        check_kernels({"fp8": False, "enable_liger_kernel": True})


def test_programs_for_gpus_are_accepted_where_there_is_one(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    check_kernels({"enable_liger_kernel": True})


def test_deepspeed_is_accepted_in_a_process_of_torchrun(no_gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_training({"deepspeed": ZERO_2})


def test_torchrun_is_refused_where_it_would_start_no_process(no_gpu, monkeypatch):
    with pytest.raises(ValueError, match=r"FORCE_TORCHRUN=1 starts a process for every GPU.*NPROC_PER_NODE"):
        check_torchrun(0)
    check_torchrun(1)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    check_torchrun(0)


def test_ray_is_refused_where_it_would_wait_without_end(no_gpu, monkeypatch):
    with pytest.raises(ValueError, match=r"^USE_RAY=1 needs a GPU .* FORCE_TORCHRUN=1 NNODES"):
        check_ray()
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    check_ray()


@pytest.mark.parametrize(
    ("num_gpus", "device", "message"),
    [
        (0, "cuda", "device: cuda is not there: torch sees no GPUs (`simulmask env`). Set device: cpu"),
        (2, "cuda:2", "device: cuda:2 is not there: torch sees 2 GPUs"),
        (2, "gpu", "device: unknown device 'gpu'; expected cpu, cuda, cuda:1 or the like"),
    ],
)
def test_device_that_is_not_there_is_refused(monkeypatch, num_gpus, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_device(device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_device_that_is_there_is_accepted(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(device)


GLOO = """
import time, torch, torch.distributed as dist
from simulmask_plugin.training.machine import leave_together

dist.init_process_group("gloo", init_method="file://{path}", rank=0, world_size=1)
reduced = dist.all_reduce(torch.ones(3), async_op=True).get_future()
busy = reduced.then(lambda _: time.sleep(0.5))  # in the thread of gloo, which `wait` does not wait for
reduced.wait()
leave_together()
assert busy.done()
"""


def test_process_does_not_end_while_a_thread_of_gloo_needs_the_interpreter(tmp_path):
    """Without `leave_together` it is aborted (-6): "terminate called without an active exception"."""
    command = [sys.executable, "-c", GLOO.format(path=tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_single_process_leaves_alone():
    leave_together()
