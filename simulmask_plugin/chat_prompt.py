"""The prompt of a training as text: the block's own, or LLaMA-Factory's chat template around it."""

from __future__ import annotations

from typing import Any

from simulmask_plugin.config import SimulMaskConfig
from simulmask_plugin.prompts import Prompt, escape, interleaved_prompt, plain_prompt

SENTINEL = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the user's text while a chat template is taken apart."""


def resolve_prompt(config: SimulMaskConfig, template: Any, tokenizer: Any) -> Prompt:
    """Return the prompt as text: the block's own (plain), or LLaMA-Factory's chat template around it.

    Raises:
        ValueError: if the template does not keep the text of a user turn in one piece.
    """
    has_turns = config.layout in ("turns", "slots")
    if config.prompt == "plain":
        bos = tokenizer.bos_token if tokenizer.bos_token and _adds_bos(tokenizer) else ""
        prompt = plain_prompt(config.instruction, config.header, bos, config.next_header if has_turns else "")
        return interleaved_prompt(prompt) if config.layout == "interleaved" else prompt
    elements: list[Any] = list(template.format_prefix.apply())
    if template.default_system:
        elements += template.format_system.apply(content=template.default_system)
    elements += template.format_user.apply(content=SENTINEL, idx="0")
    text = "".join(_element_text(element, tokenizer) for element in elements)
    before, sentinel, header = text.partition(SENTINEL)
    if not sentinel or SENTINEL in header or not header:
        raise ValueError(
            f"The chat template does not leave a header between the user's text and the answer ({text!r}); "
            "use prompt: plain or another template."
        )
    if config.layout == "interleaved":
        return interleaved_prompt(Prompt(escape(before) + config.instruction, escape(header)))
    next_header = ""
    if has_turns:
        turn = template.format_assistant.apply(content="") + template.format_user.apply(content=SENTINEL, idx="1")
        next_header = "".join(_element_text(element, tokenizer) for element in turn).partition(SENTINEL)[0]
    if config.layout == "slots":
        next_header = next_header.rstrip(" ")  # every word of the source but the first brings its own space
    return Prompt(escape(before) + config.instruction, escape(header), escape(next_header))


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _element_text(element: Any, tokenizer: Any) -> str:
    if isinstance(element, str):
        return element
    if isinstance(element, dict):
        return element["token"]
    return (tokenizer.bos_token or "") if "bos_token" in element else (tokenizer.eos_token or "")
