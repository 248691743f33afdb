"""The one place that renders a prompt; training and streaming both call it."""

from __future__ import annotations

import string
from dataclasses import dataclass

PLACEHOLDERS = ("source_lang", "target_lang")

PLAIN_INSTRUCTION = "Translate the following sentence from {source_lang} to {target_lang}:"
PLAIN_HEADER = "\nAssistant:"
PLAIN_NEXT_HEADER = "\nUser:"


@dataclass(frozen=True, slots=True)
class Prompt:
    r"""What stands around the source: ``before`` | source | ``header`` | target | end of sentence.

    Attributes:
        before: text before the source; special tokens (a template's, or BOS) stand in it as text.
        header: text between source and target, e.g. ``"\nAssistant:"``; never empty, since the first target
            token is predicted from its last token.
        next_header: text between target and further source, in the layouts that have such a place.

    All may hold the placeholders ``{source_lang}`` and ``{target_lang}``.
    """

    before: str
    header: str
    next_header: str = ""

    def __post_init__(self) -> None:
        """Refuse an empty header and placeholders that nothing fills."""
        if not self.header:
            raise ValueError("The prompt's header is empty; the first target token is predicted from it.")
        for text in (self.before, self.header, self.next_header):
            for name in _placeholders(text):
                if name not in PLACEHOLDERS:
                    raise ValueError(
                        f"Unknown placeholder {{{name}}} in the prompt {text!r}; expected "
                        f"{' or '.join('{' + p + '}' for p in PLACEHOLDERS)}; write {{{{ and }}}} for braces."
                    )

    def render(self, source_lang: str, target_lang: str) -> tuple[str, str, str]:
        """Return the text before the source, the header and the next header for one example."""
        languages = {"source_lang": source_lang, "target_lang": target_lang}
        before, header, next_header = (t.format(**languages) for t in (self.before, self.header, self.next_header))
        return before, header, next_header

    @property
    def source_is_spaced(self) -> bool:
        """Whether white space stands before the first source unit (not after a line break or at the start)."""
        return _wants_space(self.before)

    @property
    def target_is_spaced(self) -> bool:
        """Whether white space stands before the first target unit."""
        return _wants_space(self.header)


def _placeholders(text: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"The prompt {text!r} is damaged ({error}); write {{{{ and }}}} for braces.") from error


def _wants_space(text: str) -> bool:
    return bool(text) and not text[-1].isspace()


def plain_prompt(instruction: str, header: str, bos: str, next_header: str = PLAIN_NEXT_HEADER) -> Prompt:
    """A prompt without a chat template: BOS (where the tokenizer adds one), instruction, source, header."""
    return Prompt(escape(bos) + instruction, header, next_header)


def escape(text: str) -> str:
    """Double the braces of a text that is no template."""
    return text.replace("{", "{{").replace("}", "}}")
