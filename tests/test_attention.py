"""`simulmask attention`: what rows attend to in training and in streaming, where it is equal and where it is not."""

import json

import pytest
import torch
from reference import encoder_of

from simulmask_plugin.attention import compare_attention
from simulmask_plugin.cli import main
from simulmask_plugin.config import ModelSettings, SimulMaskConfig
from simulmask_plugin.families import tiny_model
from simulmask_plugin.features import Row
from simulmask_plugin.matrix import byte_tokenizer
from simulmask_plugin.picture import picture_of
from simulmask_plugin.policies import make_policy
from simulmask_plugin.prompts import Prompt

VOCAB = 320
SOURCE, TARGET = "ein haus am see", "a house by it"
TEXTS = ["--source", SOURCE, "--target", TARGET]
ROW = Row("the dog abc xyz", "cat abcde xyz", "English", "German")
WAIT_1 = {"policy": "wait_k", "k": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a tiny model with its simulmask.json; returns the folder."""

    def save(name, **block):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = byte_tokenizer()
        tiny_model(name, len(tokenizer), 0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ModelSettings(SimulMaskConfig.from_dict(WAIT_1 | block), Prompt("T:", "\nA:", "\nU:")).save(folder)
        return str(folder)

    return save


def compared(capsys, folder, *options):
    """The exit code and the numbers of a command."""
    capsys.readouterr()  # saving a model may have printed
    code = main(["attention", folder, *TEXTS, "--json", *options])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name, positions", [("llama", "group"), ("falcon", "group"), ("falcon", "modified_alibi")])
def test_look_ahead_rows_pay_the_same_attention_in_training_and_streaming(saved, capsys, name, positions):
    code, result = compared(capsys, saved(name, positions=positions))
    assert code == 0
    assert result["promised"]
    assert result["holds"]
    assert result["max_abs_diff"] < 1e-4
    assert any(result["look_ahead"])
    assert [row is None for row in result["streaming"]] == [False] * (len(result["tokens"]) - 1) + [True]
    for row in (*result["training"], *result["streaming"][:-1]):
        assert sum(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_query_unit_rows_of_long_words_pay_another(saved, capsys, name):
    """Their inner tokens see one source unit more in training; that is no failure, since it is not promised."""
    code, result = compared(capsys, saved(name, rows="query_unit"))
    assert (code, result["promised"], result["holds"]) == (0, False, False)
    assert result["max_abs_diff"] > 1e-3


def test_another_policy_may_break_or_keep_the_promise(saved, capsys):
    """Contiguous positions agree only where all of the source is read first."""
    folder = saved("llama", positions="contiguous")
    whole, one = compared(capsys, folder, "--policy", "offline")[1], compared(capsys, folder, "--k", "1")[1]
    assert (whole["promised"], whole["holds"]) == (True, True)
    assert (one["promised"], one["holds"]) == (False, False)


@pytest.mark.parametrize("name", ["llama", "falcon", "bloom", "gemma2"])
def test_masked_key_has_probability_zero(model_of, byte_level, name):
    """And every other key a probability; streaming has no entry for what it has not read."""
    encoder = encoder_of(byte_level, **WAIT_1)
    attention = compare_attention(model_of(name, VOCAB, 0, "eager"), encoder, ROW, make_policy("wait_k", k=1))
    mask = torch.from_numpy(picture_of(byte_level, encoder.settings, attention.layout, attention.schedule).mask)
    assert not mask.tril().equal(torch.ones_like(mask).tril())
    assert attention.training[:, :, ~mask].eq(0).all()
    assert attention.training[:, :, mask].gt(0).all()
    assert attention.streaming[:, :, :-1][:, :, ~mask[:-1]].eq(0).all()
    assert attention.streaming[:, :, -1].isnan().all()
    assert attention.max_abs_diff < 1e-4


def test_layer_and_head_are_picked(model_of, byte_level):
    encoder = encoder_of(byte_level, **WAIT_1)
    model = model_of("llama", VOCAB, 0, "eager")
    attention = compare_attention(model, encoder, ROW, make_policy("wait_k", k=1))
    one = attention.select(1, 3)
    assert one.training.shape[:2] == (1, 1)
    assert torch.equal(one.training[0, 0], attention.training[1, 3])
    assert not model.config.output_attentions
    assert not model._forward_hooks


def test_broken_promise_exits_with_1_and_is_drawn(saved, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("simulmask_plugin.attention.TOLERANCE", -1.0)
    png = tmp_path / "attention.png"
    folder = saved("llama")
    capsys.readouterr()
    assert main(["attention", folder, *TEXTS, "--layer", "0", "--head", "2", "--png", str(png)]) == 1
    output = capsys.readouterr().out
    assert output.startswith("layer 0, head 2 | largest difference")
    assert "FAILED" in output
    assert f"Drawn into {png}" in output
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def refused(capsys, folder, *options):
    assert main(["attention", folder, *TEXTS, *options]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(saved, capsys, tmp_path):
    assert "mpt returns no attention under our mask" in refused(capsys, saved("mpt"))
    slots = saved("llama", layout="slots")
    assert "models of layout: prefix, but this one has layout: slots" in refused(capsys, slots)
    assert f"{tmp_path} has no simulmask.json" in refused(capsys, str(tmp_path))
    llama = saved("llama")
    assert "--head must lie in 0..3, got 4: the model has 4 heads" in refused(capsys, llama, "--head", "4")
    assert "--layer must lie in 0..1, got -1" in refused(capsys, llama, "--layer", "-1")
