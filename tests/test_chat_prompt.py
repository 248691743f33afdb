"""The prompt around a chat template is the text that LLaMA-Factory itself would encode."""

import copy
from types import SimpleNamespace

import pytest
from driving import llama_factory

from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.text.prompts import READ_END
from simulmask_plugin.training.chat_prompt import SENTINEL, rendered_turns, resolve_prompt, trained_settings

pytestmark = llama_factory

SOURCE, ANSWER = "Quelle", "answer"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def templates():
    """All of LLaMA-Factory's, by name."""
    from llamafactory.data.template import TEMPLATES

    return TEMPLATES


@pytest.fixture(scope="module")
def tokenizer(templates):
    """One that knows the tokens that templates name."""
    tokenizer = byte_tokenizer()
    formatters = [value for one in templates.values() for value in vars(one).values() if hasattr(value, "slots")]
    named = {slot["token"] for one in formatters for slot in one.slots if isinstance(slot, dict)}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(named)}, replace_extra_special_tokens=False)
    return tokenizer


def fixed(templates, name, **arguments):
    """A template as LLaMA-Factory prepares it for these data arguments."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    template = copy.deepcopy(templates[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(templates, name, template)
        return get_template_and_fix_tokenizer(byte_tokenizer(), DataArguments(template=name, **arguments))


@pytest.mark.parametrize("thinking", [True, False])
def test_turns_are_the_text_of_what_llama_factory_encodes(templates, tokenizer, thinking):
    """Of every template that it has; what stands for the texts is put in afterwards."""
    messages = [{"role": role, "content": content} for role, content in (("user", SOURCE), ("assistant", ANSWER))] * 2
    checked = 0
    for name in templates:
        template = fixed(templates, name, enable_thinking=thinking)
        (first, answer), (second, _) = template.encode_multiturn(tokenizer, messages)
        rendered = rendered_turns(template, tokenizer)
        texts = [text.replace(SENTINEL, word) for text, word in zip(rendered, (SOURCE, ANSWER, SOURCE), strict=True)]
        assert texts == [tokenizer.decode(ids) for ids in (first, answer, second)], name
        checked += 1
    assert checked > 50


def prompt_of(templates, tokenizer, name, layout="prefix", **arguments):
    block = {"layout": layout, "prompt": "template", "instruction": "I:"}
    block |= {} if layout == "interleaved" else {"policy": "offline"}
    return resolve_prompt(SimulMaskConfig.from_dict(block), fixed(templates, name, **arguments), tokenizer)


def test_thinking_switched_off_ends_the_prompt_with_an_empty_thought(templates, tokenizer):
    header = "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(templates, tokenizer, "qwen3").header == header
    assert prompt_of(templates, tokenizer, "qwen3", enable_thinking=False).header == header + EMPTY_THOUGHT
    assert prompt_of(templates, tokenizer, "qwen3_nothink", enable_thinking=False).header == header


def test_the_empty_thought_stands_before_the_source_where_all_that_follows_is_the_answer(templates, tokenizer):
    prompt = prompt_of(templates, tokenizer, "qwen3", "interleaved", enable_thinking=False)
    assert prompt.header == READ_END
    assert prompt.before == "<|im_start|>user\nI:<|im_end|>\n<|im_start|>assistant\n" + EMPTY_THOUGHT


def test_every_turn_has_its_empty_thought(templates, tokenizer):
    prompt = prompt_of(templates, tokenizer, "qwen3", "turns", enable_thinking=False)
    assert prompt.next_header == "<|im_end|>\n<|im_start|>user\n"
    assert prompt.header.endswith(EMPTY_THOUGHT)


def test_system_message_stands_where_the_template_puts_it(templates, tokenizer):
    """Llama 2's inside the user's turn."""
    prompt = prompt_of(templates, tokenizer, "llama2", default_system="S")
    assert prompt.before == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nI:"
    assert prompt_of(templates, tokenizer, "qwen", default_system="S").before.startswith(
        "<|im_start|>system\nS<|im_end|>"
    )


@pytest.mark.parametrize("name, next_header", [("glm4", "<|user|>\n"), ("llama2", "</s><s>[INST]")])
def test_chat_template_brings_its_own_header_before_further_source(templates, tokenizer, name, next_header):
    """Without the space at its end, which every word but the first brings itself."""
    prompt = prompt_of(templates, tokenizer, name, "slots")
    assert prompt.next_header == prompt.render("A", "B")[2] == next_header


def test_template_that_leaves_no_header_is_refused(templates, tokenizer):
    with pytest.raises(ValueError, match=r"does not leave a header .*; use prompt: plain or another template"):
        prompt_of(templates, tokenizer, "empty")


def test_settings_hold_template_and_end_of_sentence():
    config = SimulMaskConfig.from_dict({"policy": "offline"})
    tokenizer = byte_tokenizer()
    settings = trained_settings(config, SimpleNamespace(), tokenizer, name="empty")
    assert (settings.template, settings.end_of_sentence) == ("empty", "</s>")
