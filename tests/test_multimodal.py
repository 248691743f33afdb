"""Gemma 3 and 4 as they are published, multimodal, are trained and streamed as their text part would be by itself."""

import pytest
from driving import assert_holds, error, llama_factory, parity, sentence_pairs, write_setup
from in_process import losses
from transformers import AutoConfig

from simulmask_plugin.attention.families import random_model
from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.lane import Counters
from simulmask_plugin.streaming.self_test import check_takes_mask, shrink

pytestmark = llama_factory

WHOLE = {
    "gemma3": {},
    "gemma4": {},
    "gemma4 with images seen both ways": {"use_bidirectional_attention": "vision"},
}
"""Published shapes, by what their text part says."""


def whole_model(model_type, text, num_tokens):
    """A tiny multimodal model, as the published one but for its sizes."""
    values = shrink(AutoConfig.for_model(model_type, text_config=text).to_dict())
    values["text_config"] |= {"vocab_size": num_tokens, "vocab_size_per_layer_input": num_tokens}
    return random_model(AutoConfig.for_model(model_type, **values), 0, "sdpa")


def text_model(whole):
    """The text part of a multimodal model, as a model of its own."""
    model = random_model(whole.config.text_config, 0, "sdpa")
    weights = {name.replace("model.language_model.", "model."): value for name, value in whole.state_dict().items()}
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_model_has_parity_and_the_logits_of_its_text_part(with_ends, name):
    model = whole_model(name.split()[0], WHOLE[name], len(with_ends))
    check_takes_mask(model.config, "sdpa")
    results = []
    for one in (model, text_model(model)):
        result = parity(one, with_ends, sentence_pairs(), {"policy": "schedule"})
        assert_holds(result)
        results.append(result.max_logit)
    assert results[0] == results[1]
    one, other = (session_flops(each, Counters(fed_tokens=5, predicting_rows=3)) for each in (model, text_model(model)))
    assert one == other


def saved(bench, model_type):
    """A multimodal model and its text part, as folders."""
    tokenizer = byte_tokenizer()
    model = whole_model(model_type, {}, len(tokenizer))
    for kind, one in (("whole", model), ("text", text_model(model))):
        folder = bench.folder / f"{model_type}_{kind}"
        one.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder


@pytest.mark.parametrize("model_type, finetuning_type", [("gemma3", "lora"), ("gemma4", "full")])
def test_training_has_the_losses_of_the_text_part(bench, capsys, model_type, finetuning_type):
    """With several examples a step and checkpointing, as LLaMA-Factory trains where nothing is said."""
    steps = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "finetuning_type": finetuning_type}
    folders = list(saved(bench, model_type))
    outputs = [bench.train(f"{folder.name}_trained", folder, **steps) for folder in folders]
    whole, text = map(losses, outputs)
    assert len(whole) == 2
    assert whole == pytest.approx(text, abs=1e-5)
    if finetuning_type == "lora":
        outputs[0] = bench.export(f"{model_type}_merged", folders[0], outputs[0], template="empty")
    capsys.readouterr()
    assert main(["parity", "--json", "--model", str(outputs[0]), "--examples", "1"]) == 0


def test_batches_of_llama_factory_are_refused(tmp_path, capsys):
    whole_model("gemma3", {}, len(byte_tokenizer())).config.save_pretrained(tmp_path / "whole")
    byte_tokenizer().save_pretrained(tmp_path / "whole")
    training = write_setup(tmp_path, simulmask={"layout": "interleaved"}, template="empty", bf16=False)
    overrides = (f"model_name_or_path={tmp_path / 'whole'}", "packing=true")
    message = "flash_attn: fa2 and packing do not work with the multimodal gemma3"
    assert message in error(capsys, "validate", training, *overrides)
