"""The one place that renders a prompt; training and streaming both call it."""

from __future__ import annotations

import string
from dataclasses import dataclass

PLACEHOLDERS = ("source_lang", "target_lang", "latency")

PLAIN_INSTRUCTION = "Translate the following sentence from {source_lang} to {target_lang}:"
PLAIN_HEADER = "\nAssistant:"
PLAIN_NEXT_HEADER = "\nUser:"

READ_END = "<|end-of-read|>"
WRITE_END = "<|end-of-write|>"
INTERLEAVED_INSTRUCTION = (
    "You are a professional simultaneous interpreter, your task is to translate the following {source_lang} text into "
    "{target_lang} with {latency} latency."
)
"""The instruction of EAST (https://arxiv.org/abs/2504.09570), word for word, so that its models can be streamed."""

LATENCIES = ("low", "low-medium", "medium", "medium-high", "high")
"""The latency prompts of EAST; its data has low, medium and high, the two others are for inference."""

DEFAULT_LATENCY = "medium"
"""Default latency in the prompt while streaming."""

OFFLINE_LATENCY = "offline"
"""Latency in the prompt of a row without chunks: one source chunk, one target chunk."""

PROMPTED = (*LATENCIES, OFFLINE_LATENCY)
"""All that a prompt may name."""


@dataclass(frozen=True, slots=True)
class Prompt:
    r"""The text around source and target: ``before`` | source | ``header`` | target | end of sentence.

    Attributes:
        before: text before the source; it contains special tokens (a template's, or BOS) as text.
        header: text between source and target, e.g. ``"\nAssistant:"``; never empty, since the first target
            token is predicted from its last token.
        next_header: text between target and further source, in the layouts that have it.

    All may contain the placeholders ``{source_lang}``, ``{target_lang}`` and ``{latency}``.
    """

    before: str
    header: str
    next_header: str = ""

    def __post_init__(self) -> None:
        """Refuse an empty header and unknown placeholders."""
        if not self.header:
            raise ValueError("The prompt's header is empty; the first target token is predicted from it.")
        for text in (self.before, self.header, self.next_header):
            for name in placeholders(text):
                if name not in PLACEHOLDERS:
                    raise ValueError(
                        f"Unknown placeholder {{{name}}} in the prompt {text!r}; expected "
                        f"{', '.join('{' + p + '}' for p in PLACEHOLDERS)}; write {{{{ and }}}} for braces."
                    )

    def render(self, source_lang: str, target_lang: str, latency: str = "") -> tuple[str, str, str]:
        """Return the text before the source, the header and the next header for one example."""
        values = {"source_lang": source_lang, "target_lang": target_lang, "latency": latency}
        before, header, next_header = (t.format(**values) for t in (self.before, self.header, self.next_header))
        return before, header, next_header

    @property
    def source_is_spaced(self) -> bool:
        """Whether the first source unit is preceded by white space (not after a line break or at the start)."""
        return _wants_space(self.before)

    @property
    def target_is_spaced(self) -> bool:
        """Whether the first target unit is preceded by white space; after a special token, as for the source."""
        return self.source_is_spaced if self.header == READ_END else _wants_space(self.header)


def check_latency(value: str) -> None:
    """Raise a ValueError unless the value is a latency for the prompt."""
    if value not in PROMPTED:
        raise ValueError(f"Unknown latency {value!r}; expected one of {', '.join(PROMPTED)}.")


def placeholders(text: str) -> list[str]:
    """Names in braces; doubled braces are literal, and an open one is a ValueError."""
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"The text {text!r} is damaged ({error}); write {{{{ and }}}} for braces.") from error


def _wants_space(text: str) -> bool:
    return bool(text) and not text[-1].isspace()


def plain_prompt(instruction: str, header: str, bos: str, next_header: str = "") -> Prompt:
    """A prompt without a chat template: BOS (where the tokenizer adds one), instruction, source, header."""
    return Prompt(escape(bos) + instruction, header, next_header)


def interleaved_prompt(prompt: Prompt) -> Prompt:
    """The same prompt with its header before the source: the answer is everything after it, cut by special tokens."""
    return Prompt(prompt.before + prompt.header, READ_END, WRITE_END)


def escape(text: str) -> str:
    """Double the braces of a text that is not a template."""
    return text.replace("{", "{{").replace("}", "}}")
