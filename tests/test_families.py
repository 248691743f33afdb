"""Model families: recognition, refusals, tiny models."""

import copy

import pytest
import torch
from transformers import AutoConfig

from simulmask_plugin.attention.families import (
    FAMILIES,
    check_attention,
    check_length,
    family_of,
    is_multimodal,
    sliding_window,
    tiny_config,
    tiny_model,
)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_told_by_its_config(name):
    assert family_of(tiny_config(name, 50)) is FAMILIES[name]


@pytest.mark.parametrize(
    "model_type, problem",
    [
        ("gpt2", "it has no RoPE"),
        ("t5", "it has an encoder"),
        ("qwen3_5", "it has layers of linear_attention"),
        ("qwen3_5_text", "it has layers of linear_attention"),
        ("llama4_text", "it has layers of chunked_attention"),
    ],
)
def test_unsupported_family_is_refused(model_type, problem):
    message = rf"Model type '{model_type}' .* since {problem}.*; expected apertus, .*bloom, .* Remove the `simulmask:`"
    with pytest.raises(ValueError, match=message):
        family_of(AutoConfig.for_model(model_type))


@pytest.mark.parametrize("model_type", ["gemma3", "gemma4"])
def test_a_multimodal_model_has_the_family_of_its_text_part(model_type):
    config = AutoConfig.for_model(model_type)
    assert is_multimodal(config)
    assert family_of(config) is FAMILIES[model_type]
    assert sliding_window(config) == config.text_config.sliding_window


def test_a_family_that_is_not_in_the_table_is_known_as_untried():
    family = family_of(AutoConfig.for_model("olmoe"))
    assert (family.name, family.position, family.tried) == ("olmoe", "rope", False)
    assert all(family.tried for family in FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_check_attention_accepts_what_takes_a_float_mask(name):
    for implementation in FAMILIES[name].implementations:
        check_attention(tiny_config(name, 50), implementation)


@pytest.mark.parametrize("name", ["gemma2", "bloom", "mpt"])
def test_sdpa_is_refused_where_it_would_compute_something_else(name):
    with pytest.raises(ValueError, match=rf"'sdpa' cannot .* for {name}; expected eager\. Set `flash_attn: disabled`"):
        check_attention(tiny_config(name, 50), "sdpa")


def test_sdpa_drops_the_soft_capping_of_gemma_2():
    """The reason for it: two models of the same weights that differ in nothing else."""
    from transformers import AutoModelForCausalLM

    eager = tiny_model("gemma2", 50, 0, attn_logit_softcapping=0.5)
    sdpa = AutoModelForCausalLM.from_config(copy.deepcopy(eager.config), attn_implementation="sdpa").eval()
    sdpa.load_state_dict(eager.state_dict())
    ids = torch.tensor([[3, 4, 5, 6]])
    assert eager.config._attn_implementation == "eager"
    assert (eager(ids).logits - sdpa(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("implementation", ["fa2", "flash_attention_2", "flash_attention_3", "flex_attention"])
@pytest.mark.parametrize(
    "name, expected, flash_attn, own",
    [
        ("llama", "sdpa or eager", "sdpa", "sdpa"),
        ("mpt", "eager", "disabled", "eager"),
        ("gemma2", "eager", "disabled", "eager"),
    ],
)
def test_other_attention_is_refused(name, expected, flash_attn, own, implementation):
    claim = (
        rf"'{implementation}' cannot .* for {name}; expected {expected}\. Set `flash_attn: {flash_attn}` in a "
        rf"training YAML, `attn_implementation: {own}` in an evaluation YAML\.$"
    )
    with pytest.raises(ValueError, match=claim):
        check_attention(tiny_config(name, 50), implementation)


@pytest.mark.parametrize(
    "name, overrides, window",
    [
        ("falcon", {}, None),
        ("llama", {}, None),
        ("mistral", {"sliding_window": 8}, 8),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 8}, None),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, 8),
        ("qwen3", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}, None),
        ("gemma2", {"sliding_window": 8}, 8),
        ("gemma3", {"sliding_window": 8}, 8),
        ("gemma3", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}, None),
        ("phi3", {"sliding_window": 8}, 8),
        ("starcoder2", {"sliding_window": 8}, 8),
        ("qwen3_moe", {"sliding_window": 8}, None),
        ("qwen3_moe", {"sliding_window": 8, "use_sliding_window": True}, 8),
        ("ministral3", {"sliding_window": 8}, 8),
        ("cohere2", {"sliding_window": 8}, 8),
        ("exaone4", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_sliding_window_counts_where_a_layer_uses_it(name, overrides, window):
    assert sliding_window(tiny_config(name, 50, **overrides)) == window


def test_sequences_longer_than_the_window_are_refused():
    config = tiny_config("mistral", 50, sliding_window=8)
    check_length(config, 8)
    with pytest.raises(ValueError, match="mistral with a sliding window of 8 tokens .* 9 tokens.* cutoff_len to 8"):
        check_length(config, 9)


def test_models_without_window_take_any_length():
    check_length(tiny_config("llama", 50), 1_000_000)


def test_unknown_tiny_family_is_refused():
    with pytest.raises(ValueError, match="Unknown family 'gpt5'; expected one of falcon, bloom, mpt"):
        tiny_config("gpt5", 50)


@pytest.mark.parametrize("name", FAMILIES)
def test_tiny_model_depends_on_its_seed_alone(name):
    ids = torch.tensor([[3, 4, 5, 6]])
    state = torch.random.get_rng_state()
    one, same, other = (tiny_model(name, 50, seed)(ids).logits for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=0.1)
    assert torch.equal(state, torch.random.get_rng_state())
