"""`simulmask attention`: what rows attend to in training and in streaming, where it is equal and where it is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from driving import encoder_of, write_model

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.batches.features import Row
from simulmask_plugin.cli import main
from simulmask_plugin.commands.attention import compare_attention
from simulmask_plugin.commands.parity import LENGTHS, byte_tokenizer
from simulmask_plugin.commands.random_rows import random_row
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.pictures.picture import picture_of
from simulmask_plugin.policies import WaitK
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.text.prompts import Prompt

VOCAB = 320
SOURCE, TARGET = "ein haus am see", "a house by it"
TEXTS = ["--source", SOURCE, "--target", TARGET]
ROW = Row("the dog abc xyz", "cat abcde xyz", "English", "German")
WAIT_1 = {"policy": "wait_k", "k": 1}
BLOCKS = {
    "prefix": WAIT_1,
    "slots": {"layout": "slots", "slot_length": 2, **WAIT_1},
    "turns": {"layout": "turns", **WAIT_1},
    "interleaved": {"layout": "interleaved"},
}
CHUNKS = {"interleaved": (1, 3, 3)}
"""g of ROW where no policy gives it."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a tiny model with its simulmask.json; returns the folder."""

    def save(name, **block):
        tokenizer = byte_tokenizer()
        config = SimulMaskConfig.from_dict({k: v for k, v in (WAIT_1 | block).items() if v is not None})
        settings = ModelSettings(config, config.layout.prompt(Prompt("T:", "\nA:", "\nU:")))
        model = tiny_model(name, len(tokenizer), 0)
        return str(write_model(tmp_path_factory.mktemp(name), model, tokenizer, settings))

    return save


def saved_in(saved, layout):
    """A tiny model of a layout, and the options that cut TEXTS into chunks where no policy does."""
    if layout == "interleaved":
        return saved("llama", policy=None, k=None, layout=layout), ["--schedule", "1,1,3,4"]
    return saved("llama", **BLOCKS[layout]), []


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
    attention = compare_attention(model_of(name, VOCAB, 0, "eager"), encoder, ROW, WaitK(k=1))
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
    attention = compare_attention(model, encoder, ROW, WaitK(k=1))
    one = attention.select(1, 3)
    assert one.training.shape[:2] == (1, 1)
    assert torch.equal(one.training[0, 0], attention.training[1, 3])
    assert not model.config.output_attentions
    assert not model._forward_hooks


@pytest.mark.parametrize("layout", BLOCKS)
@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_every_layout_pays_the_same_in_every_row_that_streaming_feeds(
    model_of, byte_level, with_ends, name, layout, monkeypatch
):
    tokenizer = with_ends if layout == "interleaved" else byte_level
    encoder = encoder_of(tokenizer, **BLOCKS[layout])
    model = model_of(name, VOCAB, 0, "eager")
    policy = None if layout == "interleaved" else WaitK(k=1)
    row = replace(ROW, schedule=CHUNKS.get(layout))
    attention = compare_attention(model, encoder, row, policy)
    num_left_out = 2 if layout == "interleaved" else 1  # the end of sentence, and a write end before it
    num_rows = len(attention.layout.input_ids)
    assert attention.fed.tolist() == [True] * (num_rows - num_left_out) + [False] * num_left_out
    assert attention.differences.shape[2] == num_rows - num_left_out
    assert attention.max_abs_diff < 1e-4
    picture = picture_of(tokenizer, encoder.settings, attention.layout, attention.schedule)
    mask = torch.from_numpy(picture.mask)
    for probabilities in (attention.training, attention.streaming):
        fed = probabilities[:, :, attention.fed]
        assert torch.equal(fed.gt(0), mask[attention.fed].expand_as(fed))
        assert torch.allclose(fed.sum(dim=-1), torch.ones(()), atol=1e-5)
    assert picture.has_look_ahead == (layout in ("prefix", "slots"))
    if layout == "slots":
        assert len(picture.slots) > 1
    if layout in ("turns", "interleaved"):
        assert picture.regions.count("header") > 2  # more than one chunk
    monkeypatch.setattr(Feeder, "feed", feed_elsewhere)
    assert compare_attention(model, encoder, row, policy).max_abs_diff > 1e-3


FEED = Feeder.feed


def feed_elsewhere(feeder, request):
    """Feed rows at other positions than those of training."""
    return FEED(feeder, replace(request, rows=[row._replace(position=2 * row.position) for row in request.rows]))


@pytest.mark.parametrize("layout", BLOCKS)
@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_any_schedule_pays_the_same_in_every_row_that_streaming_feeds(model_of, name, layout):
    """Also one that leaves source unread, and one that reads only for the end of sentence."""
    tokenizer, random = byte_tokenizer(), np.random.default_rng(0)
    block = {"layout": layout} if layout == "interleaved" else {"layout": layout, "policy": "schedule"}
    encoder = encoder_of(tokenizer, **block)
    model = model_of(name, len(tokenizer), 0, "eager")
    for lengths in LENGTHS:
        attention = compare_attention(model, encoder, random_row(encoder, *lengths, random))
        laid_out, schedule = attention.layout, attention.schedule
        is_source = (laid_out.source_unit >= 0) & (laid_out.source_unit < schedule.num_source)
        expected = ~is_source | (laid_out.source_unit < schedule.num_read[-1])
        expected[-2 if layout == "interleaved" else -1 :] = False
        assert attention.fed.tolist() == expected.tolist()
        assert attention.max_abs_diff < 1e-4


def test_a_model_that_decides_itself_reads_in_the_chunks_that_are_given(saved, capsys):
    folder, chunks = saved_in(saved, "interleaved")
    whole, three = compared(capsys, folder)[1], compared(capsys, folder, *chunks)[1]
    assert whole["schedule"] == [4, 4, 4, 4, 4]
    assert three["schedule"] == [1, 1, 3, 4, 4]
    assert [result["regions"].count("header") for result in (whole, three)] == [2, 6]
    assert all(result["promised"] and result["holds"] for result in (whole, three))


@pytest.mark.parametrize("layout", BLOCKS)
def test_broken_promise_exits_with_1_in_every_layout(saved, capsys, monkeypatch, layout):
    folder, options = saved_in(saved, layout)
    assert compared(capsys, folder, *options)[0] == 0
    monkeypatch.setattr(Feeder, "feed", feed_elsewhere)
    code, result = compared(capsys, folder, *options)
    assert (code, result["promised"], result["holds"]) == (1, True, False)


@pytest.mark.parametrize("layout", BLOCKS)
def test_failed_check_is_printed_and_drawn(saved, capsys, monkeypatch, tmp_path, layout):
    monkeypatch.setattr("simulmask_plugin.commands.attention.TOLERANCE", -1.0)
    png = tmp_path / "attention.png"
    folder, options = saved_in(saved, layout)
    capsys.readouterr()
    assert main(["attention", folder, *TEXTS, "--layer", "0", "--head", "2", "--png", str(png), *options]) == 1
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
    decides, chunks = saved_in(saved, "interleaved")
    assert "k has no meaning for a model of layout: interleaved" in refused(capsys, decides, "--k", "2")
    assert "a list of integers such as" in refused(capsys, decides, "--schedule", "1,x")
    assert "The schedule has 2 values; expected 4" in refused(capsys, decides, "--schedule", "1,2")
    assert "A chunk begins with source, but g(1) is 0" in refused(capsys, decides, "--schedule", "0,1,2,3")
    assert "Give --schedule, or a policy" in refused(capsys, saved("llama"), *chunks, "--k", "2")
    long = ["--target", "a " * 60]
    assert "The target of chunk 1 has 60 tokens, but a session ends it after 58" in refused(capsys, decides, *long)
    assert f"{tmp_path} has no simulmask.json" in refused(capsys, str(tmp_path))
    llama = saved("llama")
    assert "--head must lie in 0..3, got 4: the model has 4 heads" in refused(capsys, llama, "--head", "4")
    assert "--layer must lie in 0..1, got -1" in refused(capsys, llama, "--layer", "-1")
