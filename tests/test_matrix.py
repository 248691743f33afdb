"""`simulmask parity` takes the model that a training YAML begins with."""

import json

import peft
import pytest
from driving import llama_factory, write_setup
from transformers import AutoModelForCausalLM

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.cli import main
from simulmask_plugin.text.prompts import READ_END, WRITE_END

pytestmark = llama_factory


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")


def cells_of(capsys, path):
    """The records of a training YAML, which all hold."""
    assert main(["parity", "--json", str(path), "--examples", "1"]) == 0
    output = capsys.readouterr().out
    cells = json.loads(output[output.index("[\n") :])  # DeepSpeed, where it is installed, logs once to standard output
    assert all(cell["promised"] and cell["holds"] and cell["max_logit"] > 1 for cell in cells)
    return cells


@pytest.mark.parametrize("flash_attn", ["auto", "fa2"])
def test_special_tokens_that_training_adds_have_their_rows(byte_level, tmp_path, capsys, flash_attn):
    """The model has none for them yet."""
    path = write_setup(
        tmp_path,
        simulmask={"layout": "interleaved"},
        add_special_tokens=f"{READ_END},{WRITE_END}",
        resize_vocab=True,
        flash_attn=flash_attn,
    )
    tiny_model("llama", len(byte_level), 0).save_pretrained(tmp_path / "model")
    byte_level.save_pretrained(tmp_path / "model")
    (cell,) = cells_of(capsys, path)
    assert (cell["layout"], cell["attention"]) == ("interleaved", "sdpa")


def test_adapters_of_the_yaml_are_part_of_the_model(tmp_path, capsys):
    """Each one more, in their order."""
    before, adapters = cells_of(capsys, write_setup(tmp_path)), []
    for name in ("first", "second"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(tmp_path / name)
        adapters.append(str(tmp_path / name))
        path = write_setup(tmp_path, finetuning_type="lora", adapter_name_or_path=",".join(adapters))
        after = cells_of(capsys, path)
        assert all(one["max_logit"] != other["max_logit"] for one, other in zip(before, after, strict=True))
        before = after
