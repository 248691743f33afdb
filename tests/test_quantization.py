"""Quantized training: of every family layers are really quantized, and a run in which none is ends."""

from importlib import import_module

import pytest
from driving import llama_factory
from in_process import load, losses
from torch import nn

from simulmask_plugin.attention.families import FAMILIES, tiny_model
from simulmask_plugin.commands.verify_merge import verify_merge
from simulmask_plugin.training import quantization
from simulmask_plugin.training.quantization import check_quantized, num_quantized, quantizable

pytestmark = llama_factory

FOUR_BITS = {"quantization_bit": 4}


ALIBI = {"policy": "wait_k", "k": 2, "positions": "modified_alibi"}


@pytest.mark.parametrize("name", FAMILIES)
def test_all_linear_layers_of_every_family_are_quantized_but_the_head(tmp_path, name):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = tiny_model(name, 50, 0)
    plain.save_pretrained(tmp_path)
    with quantizable():
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        )
    assert num_quantized(model) == sum(isinstance(one, nn.Linear) for one in plain.modules()) - 1


def test_quantized_falcon_trains_on_other_weights_and_says_how_many_layers_are_quantized(bench, monkeypatch):
    messages = []
    loader = import_module("llamafactory.data.loader")
    monkeypatch.setattr(loader.logger, "info_rank0", messages.append, raising=False)
    model = bench.model("falcon", "falcon")
    quantized = losses(bench.train("quantized", model, simulmask=ALIBI, **FOUR_BITS))
    assert "simulmask: 8 layers are quantized to 4 bits." in messages
    plain = losses(bench.train("plain", model, simulmask=ALIBI))
    assert quantized[0] != pytest.approx(plain[0], abs=1e-4)
    assert quantized[0] == pytest.approx(plain[0], abs=1.0)
    assert quantized[1] < quantized[0]


def test_falcon_is_as_ever_afterwards(bench):
    from transformers.models.falcon.modeling_falcon import FalconLinear

    assert FalconLinear is not nn.Linear
    assert num_quantized(tiny_model("falcon", 50, 0)) == 0


def test_adapter_of_a_quantized_falcon_merges_into_the_base(bench):
    model = bench.model("falcon base", "falcon")
    adapter = bench.train("falcon adapter", model, simulmask=ALIBI, **FOUR_BITS)
    merged = bench.export("falcon merged", model, adapter)
    assert all(check.passed for check in verify_merge(model, str(adapter), str(merged)))
    assert num_quantized(load(merged)[0]) == 0


def test_a_model_without_quantized_layers_ends_the_run():
    message = "quantization_bit: 4 has quantized no layer of falcon: .* remove the key, or take another model"
    with pytest.raises(ValueError, match=message):
        check_quantized(tiny_model("falcon", 50, 0), "quantization_bit: 4")


@pytest.mark.parametrize("keys", [FOUR_BITS, {"optim": "paged_adamw_32bit"}, {"optim": "adamw_8bit"}])
def test_missing_bitsandbytes_is_said_before_anything_is_loaded(bench, monkeypatch, keys):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    key, value = next(iter(keys.items()))
    with pytest.raises(ValueError, match=f"{key}: {value} needs bitsandbytes, .* pip install bitsandbytes"):
        bench.train("missing", "nowhere", **keys)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_8bit", "adafactor"])
def test_optimizers_of_others_need_no_bitsandbytes(bench, monkeypatch, optim):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="couldn't connect"):  # the model
        bench.train("not needed", "nowhere", optim=optim)
