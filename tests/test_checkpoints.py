"""Checkpoints that a kill has cut, and the newest that is whole."""

import json
import shutil

import pytest
import torch
from driving import write_checkpoint
from safetensors.torch import save_file

from simulmask_plugin.training.checkpoints import fault_of, has_optimizer, newest_whole


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint-20")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def shard(folder, present=("1", "2")):
    (folder / "model.safetensors").unlink()
    names = {number: f"model-0000{number}-of-00002.safetensors" for number in "12"}
    for number in present:
        save_file({number: torch.zeros(3)}, folder / names[number])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def deepspeed(folder):
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).unlink()
    (folder / "global_step20").mkdir()


WHOLE = {
    "as the trainer writes it": lambda f: None,
    "shards": shard,
    "an adapter": lambda f: (f / "model.safetensors").rename(f / "adapter_model.safetensors"),
    "weights of torch": lambda f: (
        torch.save({"a": torch.zeros(3)}, f / "pytorch_model.bin"),
        (f / "model.safetensors").unlink(),
    ),
    "DeepSpeed, which keeps weights and optimizer elsewhere": deepspeed,
}


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE)
def test_whole_checkpoint_is_known(checkpoint, change):
    change(checkpoint)
    assert fault_of(checkpoint) == "" and has_optimizer(checkpoint)


FAULTS = {
    "no state": (lambda f: (f / "trainer_state.json").unlink(), "no trainer_state.json"),
    "cut state": (lambda f: cut(f / "trainer_state.json"), "trainer_state.json is cut"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "model.safetensors is cut"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is cut"),
    "weights that are none": (
        lambda f: (f / "model.safetensors").write_bytes(b"\3" + b"\0" * 9),
        "model.safetensors is",
    ),
    "no optimizer": (lambda f: (f / "optimizer.pt").unlink(), "no optimizer"),
    "cut optimizer": (lambda f: cut(f / "optimizer.pt"), "optimizer.pt is cut"),
    "cut scheduler": (lambda f: cut(f / "scheduler.pt"), "scheduler.pt is cut"),
    "missing shard": (lambda f: shard(f, "1"), "no model-00002-of-00002.safetensors"),
    "cut index": (lambda f: (shard(f), cut(f / "model.safetensors.index.json")), "model.safetensors.index.json is cut"),
    "nothing": (lambda f: (shutil.rmtree(f), f.mkdir()), "no trainer_state.json"),
}


@pytest.mark.parametrize(("damage", "fault"), FAULTS.values(), ids=FAULTS)
def test_checkpoint_that_a_kill_has_cut_is_told_and_the_one_before_is_taken(checkpoint, tmp_path, damage, fault):
    for name in ("checkpoint-9", "checkpoint-10"):
        write_checkpoint(tmp_path / name)
    (tmp_path / "checkpoint-best").mkdir()
    damage(checkpoint)
    assert fault_of(checkpoint).startswith(fault)
    found, faults = newest_whole(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    assert len(faults) == 1 and faults[0].startswith(f"checkpoint-20 is not whole ({fault}")


def test_without_a_whole_checkpoint_there_is_none(checkpoint, tmp_path):
    cut(checkpoint / "optimizer.pt")
    assert newest_whole(tmp_path) == (None, ["checkpoint-20 is not whole (optimizer.pt is cut)"])
    assert newest_whole(tmp_path / "nowhere") == (None, [])
