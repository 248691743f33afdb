"""A model that does not take our mask is refused before a run, whatever the reason."""

from functools import wraps
from importlib import import_module

import pytest
from driving import error, llama_factory, write_setup
from reference import settings_of
from stock_modeling import put_back
from transformers import AutoConfig
from transformers.models.llama import modeling_llama

from simulmask_plugin.attention.alibi import SEAMS, _mpt_attention
from simulmask_plugin.attention.families import FAMILIES, tiny_config
from simulmask_plugin.commands.training_yaml import load_training
from simulmask_plugin.files.loading import load_config
from simulmask_plugin.streaming import self_test
from simulmask_plugin.streaming.options import streaming_attention
from simulmask_plugin.streaming.self_test import check_takes_mask, whole_models


@pytest.fixture(autouse=True)
def measured_anew():
    """What one test measures is no other's."""
    self_test.measure.cache_clear()
    yield
    self_test.measure.cache_clear()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_the_mask(name, caplog):
    check_takes_mask(tiny_config(name, 50), FAMILIES[name].attention)
    assert not any("simulmask" in message for message in caplog.messages)


@pytest.fixture
def stock_modeling(monkeypatch):
    """Nothing of transformers is replaced."""
    put_back(monkeypatch)


@pytest.mark.parametrize("name, seam", [(name, seam) for name, seams in SEAMS.items() for seam in seams])
def test_a_family_whose_seam_has_no_effect_is_refused(stock_modeling, name, seam, monkeypatch):
    """As where transformers has moved the code that is replaced, and left its name."""
    monkeypatch.setitem(SEAMS, name, {other: wrap for other, wrap in SEAMS[name].items() if other != seam})
    with pytest.raises(ValueError, match=rf"^{name} with attention .* does not take our mask.*Install a version"):
        check_takes_mask(tiny_config(name, 50), FAMILIES[name].attention)


def test_a_family_that_loses_its_cache_is_refused(stock_modeling, monkeypatch):
    """transformers 5.24 calls MPT's cache by another name; training was right, and streaming wrong by 8 logits."""

    def without_cache(stock, *args, past_key_values=None, **options):
        return _mpt_attention(stock, *args, past_key_values=None, **options)

    monkeypatch.setitem(SEAMS, "mpt", SEAMS["mpt"] | {"MptAttention.forward": without_cache})
    with pytest.raises(ValueError, match="mpt with attention eager .* does not take our mask: "):
        check_takes_mask(tiny_config("mpt", 50), "eager")


@pytest.fixture
def llama_without_mask(monkeypatch):
    """A Llama that has a causal mask of its own whatever it is given."""
    stock = modeling_llama.create_causal_mask

    @wraps(stock)
    def create_causal_mask(*, attention_mask, **inputs):
        return stock(attention_mask=None, **inputs)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", create_causal_mask)


REFUSAL = "llama with attention sdpa .* does not take our mask.*training and streaming would be wrong without an error"


@llama_factory
def test_training_and_validation_refuse_it_before_weights_are_loaded(llama_without_mask, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
    training = write_setup(tmp_path, bf16=False)
    (tmp_path / "model" / "model.safetensors").unlink()
    setup = load_training(str(training), [])
    run_sft = import_module("llamafactory.train.sft.workflow").run_sft
    with pytest.raises(ValueError, match=REFUSAL) as refused:
        run_sft(setup.model_args, setup.data_args, setup.training_args, setup.finetuning_args, None)
    for command in ("validate", "parity"):
        assert error(capsys, command, training) == str(refused.value)


def test_streaming_refuses_it_before_weights_are_loaded(llama_without_mask, tmp_path, capsys):
    tiny_config("llama", 50).save_pretrained(tmp_path)
    settings_of(policy="wait_k", k=3).save(tmp_path)
    with pytest.raises(ValueError, match=REFUSAL) as refused:
        streaming_attention(load_config(tmp_path), None)
    assert error(capsys, "parity", "--model", tmp_path) == str(refused.value)


def test_an_untried_family_that_takes_the_mask_is_used_with_a_warning(caplog):
    check_takes_mask(AutoConfig.for_model("olmoe"), "sdpa")
    (warning,) = [message for message in caplog.messages if "simulmask" in message]
    assert "model type olmoe is not in the table of families; a tiny random model of its kind took our mask" in warning


def test_an_untried_family_that_does_not_take_it_is_refused():
    problem = "logits that should be equal differ by"
    with pytest.raises(ValueError, match=f"^vaultgemma with .* does not take our mask.*{problem}.*not in the table"):
        check_takes_mask(AutoConfig.for_model("vaultgemma"), "sdpa")


def test_a_training_with_zero_3_asks_whole_models():
    """There transformers would have every model built in the parts of several processes."""
    from transformers.integrations import HfDeepSpeedConfig, deepspeed, is_deepspeed_zero3_enabled

    running = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    try:
        assert is_deepspeed_zero3_enabled()
        with whole_models():
            assert not is_deepspeed_zero3_enabled()
        assert deepspeed.deepspeed_config() == running.config
        with pytest.raises(KeyError), whole_models():
            raise KeyError
        assert is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    with whole_models():
        assert not is_deepspeed_zero3_enabled()
