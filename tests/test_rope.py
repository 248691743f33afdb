"""RoPE whose frequencies depend on the length of the text is refused, in training and in streaming, and no other is."""

import numpy as np
import pytest
from driving import encoder_of, error, llama_factory

from simulmask_plugin.attention.families import check_rope, rope_types, tiny_config, tiny_model
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.random_rows import random_row
from simulmask_plugin.files.loading import load_config
from simulmask_plugin.streaming.options import Decision, open_session, streaming_attention
from simulmask_plugin.streaming.parity import ParityResult, compare

LENGTH = 64
LONG_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": LENGTH}
CHANGING = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, **LONG_FACTORS},
}
FIXED = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": LENGTH},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": LENGTH,
    },
}


def scaled(parameters):
    """A tiny Llama of this RoPE."""
    length = LENGTH if parameters["rope_type"] == "dynamic" else 4 * LENGTH
    keys = {"max_position_embeddings": length, "rope_parameters": {"rope_theta": 1e4, **parameters}}
    return tiny_model("llama", len(byte_tokenizer()), 0, **keys)


def difference(model):
    """Between training and streaming, over a sentence that is longer than the model was made for."""
    encoder = encoder_of(byte_tokenizer(), policy="wait_k", k=3, positions="group")
    result = ParityResult()
    compare(model, encoder, random_row(encoder, 40, 40, np.random.default_rng(0)), result)
    return result.max_abs_diff


@pytest.mark.parametrize("kind", CHANGING)
def test_what_is_refused_would_miss_parity_beyond_its_length(monkeypatch, kind):
    monkeypatch.setattr("simulmask_plugin.streaming.feeder.check_rope", lambda config: None)
    assert difference(scaled(CHANGING[kind])) > 1e-2


@pytest.mark.parametrize("kind", FIXED)
def test_other_types_hold_parity_beyond_the_length_that_they_scale(kind):
    assert difference(scaled(FIXED[kind])) < 1e-4


@pytest.mark.parametrize("kind", CHANGING)
def test_streaming_refuses_what_changes_with_the_length(tmp_path, kind):
    model = scaled(CHANGING[kind])
    message = f"rope_type: {kind}, whose frequencies change with the length .* set another type in the rope_parameters"
    with pytest.raises(ValueError, match=message):
        open_session(model, encoder_of(byte_tokenizer(), policy="wait_k", k=3), Decision())
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        streaming_attention(load_config(tmp_path), None)


def test_parity_names_what_it_cannot_promise(tmp_path, capsys):
    scaled(CHANGING["dynamic"]).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    encoder_of(byte_tokenizer(), policy="wait_k", k=3).settings.save(tmp_path)
    assert "rope_type: dynamic, whose frequencies change with the length" in error(
        capsys, "parity", "--model", tmp_path
    )


def test_types_are_found_in_every_kind_of_layer():
    config = tiny_config("gemma3", 50)
    assert list(rope_types(config)) == ["default", "default"]
    config.rope_parameters["full_attention"] = {**CHANGING["dynamic"], "rope_theta": 1e4}
    with pytest.raises(ValueError, match="rope_type: dynamic"):
        check_rope(config)
    assert list(rope_types(tiny_config("mpt", 50))) == []


@llama_factory
def test_training_refuses_what_changes_with_the_length(bench):
    parameters = {"rope_theta": 1e4, **CHANGING["dynamic"]}
    model = bench.model("dynamic", rope_parameters=parameters)
    with pytest.raises(ValueError, match="rope_type: dynamic, whose frequencies change"):
        bench.train("refused", model)
