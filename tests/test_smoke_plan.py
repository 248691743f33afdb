"""What `simulmask smoke` would replace in every YAML that trains, without running any of them."""

from pathlib import Path

import pytest
import yaml

from simulmask_plugin.commands.smoke_plan import FOR_GPUS, Machine, apply, plan
from simulmask_plugin.training import machine

FOLDER = Path(__file__).parents[1] / "yaml_configs"
YAMLS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yaml")}
TRAININGS = {name: keys for name, keys in sorted(YAMLS.items()) if "stage" in keys}

CPU, GPU = Machine(gpu=False, flash_attention=False), Machine(gpu=True, flash_attention=True)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


@pytest.mark.parametrize("name", TRAININGS)
def test_every_recipe_has_a_plan_that_a_cpu_can_run(no_gpu, name):
    values = TRAININGS[name]
    replaced = plan(values, CPU, steps=3)
    result = apply(values, replaced)
    machine.check_training(result)  # raises where a GPU is needed
    assert not {*FOR_GPUS} & {*result}
    assert result["flash_attn"] != "fa2"
    assert not result.get("optim", "").startswith("paged")
    assert result["max_steps"] == 3
    assert (result["save_strategy"], result["report_to"]) == ("no", "none")
    assert all(one.why for one in replaced)


@pytest.mark.parametrize("name", TRAININGS)
def test_what_is_said_to_be_replaced_is_all_that_is(name):
    values = TRAININGS[name]
    replaced = plan(values, CPU, steps=3)
    result = apply(values, replaced)
    changed = {key for key in {*values, *result} if values.get(key) != result.get(key)}
    assert sorted(one.key for one in replaced) == sorted(changed)
    for key in ("simulmask", "model_name_or_path", "dataset", "template", "cutoff_len", "lora_target", "lora_rank"):
        assert key not in changed


@pytest.mark.parametrize("name", TRAININGS)
def test_gpu_keeps_what_is_for_gpus(name):
    replaced = {one.key for one in plan(TRAININGS[name], GPU, steps=3)}
    assert not replaced & {*FOR_GPUS, "flash_attn", "optim"}


def test_flash_attention_is_replaced_where_it_is_not_installed():
    replaced = plan({"flash_attn": "fa2"}, Machine(gpu=True, flash_attention=False), steps=3)
    assert ("flash_attn", "auto") in {(one.key, one.value) for one in replaced}


def test_smaller_sizes_of_the_yaml_are_kept():
    values = {"max_samples": 5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    assert not {one.key for one in plan(values, CPU, steps=3)} & {*values}


def test_evaluating_while_training_is_left_out():
    values = {"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": True}
    block = {"policy": "wait_k", "k": 3}
    stream = {"simulmask": {**block, "stream_eval": {"policies": [{"policy": "wait_k", "k": 3}]}}}
    left = apply(values | stream, plan(values | stream, CPU, steps=3))
    assert not {*left} & {*values}
    assert left["simulmask"] == block
