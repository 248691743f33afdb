"""The prompt of a training as text: the block's own, or LLaMA-Factory's chat template around it."""

from __future__ import annotations

import copy
from typing import Any

from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.text.prompts import Prompt, escape, plain_prompt

SENTINEL = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Placeholder for the user's text while a chat template is parsed."""


def trained_settings(config: SimulMaskConfig, template: Any, tokenizer: Any, *, name: str | None) -> ModelSettings:
    """Return what streaming needs to know about a training.

    The template may have changed the tokenizer's end of sentence; ``name`` is LLaMA-Factory's key, None if not set.
    """
    prompt = resolve_prompt(config, template, tokenizer)
    return ModelSettings(config, prompt, template=name, end_of_sentence=tokenizer.eos_token)


def resolve_prompt(config: SimulMaskConfig, template: Any, tokenizer: Any) -> Prompt:
    """Return the prompt as text: the block's own (plain), or LLaMA-Factory's chat template around it.

    Raises:
        ValueError: if the template does not keep the text of a user turn in one piece.
    """
    layout = config.layout
    if config.prompt == "plain":
        bos = tokenizer.bos_token if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""
        next_header = config.next_header if layout.has_next_header else ""
        return layout.prompt(plain_prompt(config.instruction, config.header, bos, next_header))
    first, answer, second = rendered_turns(template, tokenizer)
    before, sentinel, header = first.partition(SENTINEL)
    if not sentinel or SENTINEL in header or not header:
        raise ValueError(
            f"The chat template does not leave a header between the user's text and the answer ({first!r}); "
            "use prompt: plain or another template."
        )
    next_header = ""
    if layout.has_next_header:
        next_header = (answer.partition(SENTINEL)[2] + second).partition(SENTINEL)[0]
    prompt = Prompt(escape(before) + config.instruction, escape(header), escape(next_header))
    return layout.prompt(prompt, of_template=True)


def rendered_turns(template: Any, tokenizer: Any) -> tuple[str, str, str]:
    """The texts that LLaMA-Factory would encode for two turns: the first user's, its answer, and the second user's.

    Sentinels replace what user and assistant say. The template itself composes the turns, with the system
    message and, if thinking is disabled, an empty thought before each answer; only its last step, the encoding,
    is skipped.
    """
    written = copy.copy(template)
    written._convert_elements_to_ids = lambda tokenizer, elements: list(elements)
    written.get_thought_word_ids = lambda tokenizer: [template.add_thought()]
    messages = [{"role": role, "content": SENTINEL} for role in ("user", "assistant")] * 2
    (first, answer), (second, _) = written.encode_multiturn(tokenizer, messages)
    first, answer, second = ("".join(_element_text(e, tokenizer) for e in turn) for turn in (first, answer, second))
    return first, answer, second


def _element_text(element: Any, tokenizer: Any) -> str:
    if isinstance(element, str):
        return element
    if isinstance(element, dict):
        return element["token"]
    if "bos_token" in element and tokenizer.bos_token:
        return tokenizer.bos_token
    return (tokenizer.eos_token or "") if "eos_token" in element else ""  # it knows no other names
