"""What `simulmask parity` says where a promise is broken, and beside the rounding of stock transformers."""

import json

from driving import write_model

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.training.chat_prompt import resolve_prompt


def test_broken_promise_exits_with_1_and_is_marked(capsys, monkeypatch):
    monkeypatch.setattr("simulmask_plugin.streaming.parity.TOLERANCE", 0.0)
    monkeypatch.setattr("simulmask_plugin.streaming.parity.STOCK_SHARE", 0.0)
    assert main(["parity", "--family", "bloom", "--examples", "1"]) == 1
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert "4 of 4 cells promise parity" in output


def test_parity_of_a_model_is_shown_beside_what_stock_does_to_itself(tmp_path, capsys):
    tokenizer, block = byte_tokenizer(), SimulMaskConfig.from_dict({"policy": "offline"})
    settings = ModelSettings(block, resolve_prompt(block, None, tokenizer))
    write_model(tmp_path, tiny_model("llama", len(tokenizer), 0), tokenizer, settings)
    options = ["parity", "--model", str(tmp_path), "--examples", "1", "--length", "64", "--json"]
    assert main([*options, "--float64"]) == 0
    printed = capsys.readouterr().out
    exact = json.loads(printed[printed.index("[\n") :])  # DeepSpeed may have greeted
    assert all(cell["max_abs_diff"] < 1e-12 for cell in exact)
    assert main(options) == 0
    assert all(0 <= cell["stock_diff"] < 1e-4 for cell in json.loads(capsys.readouterr().out))
