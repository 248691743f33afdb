"""benchmarks/scaling.py: sizes, formulas, and that the page has its tables."""

import runpy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from simulmask_plugin.attention.families import tiny_config
from simulmask_plugin.attention.mask import training_inputs

ROOT = Path(__file__).parents[1]
SCALING = runpy.run_path(str(ROOT / "benchmarks" / "scaling.py"))


@pytest.fixture(scope="module")
def sizes():
    return {name: SCALING["size_of"](config) for name, config in SCALING["CONFIGS"].items()}


def test_parameters_are_those_that_were_published(sizes):
    assert {name: size.parameters for name, size in sizes.items()} == {
        "Llama-3.1-8B": 8_030_261_248,
        "Qwen2.5-7B": 7_615_616_512,
        "falcon-rw-1b": 1_311_625_216,
    }


@pytest.mark.parametrize("table", SCALING["TABLES"], ids=lambda table: table.__name__)
def test_page_has_the_tables_of_the_script(sizes, table):
    assert table(sizes) in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["llama", "qwen2", "falcon"])
def test_adapter_has_as_many_parameters_as_peft_makes(family):
    config = tiny_config(family, 100)
    model = AutoModelForCausalLM.from_config(config)
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert SCALING["size_of"](config).adapter(3) == adapted.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_mask_has_as_many_bytes_as_the_model_gets(family):
    config, length = tiny_config(family, 100), 8
    names = ("input_ids", "source_unit", "num_read", "num_hidden", "position_ids", "after_source")
    batch = dict.fromkeys(names, torch.zeros((3, length), dtype=torch.long))
    mask = training_inputs(batch, config, torch.bfloat16)["attention_mask"]
    assert SCALING["activations"](SCALING["size_of"](config), batch=3, length=length)["mask"] == mask.nbytes


def test_weights_gradients_and_adam_take_sixteen_bytes_cut_by_zero(sizes):
    size, states = sizes["falcon-rw-1b"], SCALING["states"]
    count, full = size.parameters, {"rank": None, "four_bit": False}
    assert states(size, **full, stage=0, gpus=8) == 16 * count
    assert states(size, **full, stage=2, gpus=8) == pytest.approx((2 + 14 / 8) * count)
    assert states(size, **full, stage=3, gpus=8) == pytest.approx(2 * count)
    adapter = size.adapter(64)
    assert states(size, rank=64, four_bit=False, stage=2, gpus=2) == 2 * count + (2 + 7) * adapter
    saved = 2 - (4 + 0.127) / 8
    expected = 2 * count - saved * size.linear + 16 * adapter
    assert states(size, rank=64, four_bit=True, stage=0, gpus=1) == pytest.approx(expected)
