"""``simulmask translate``: a trained model writes while it reads, from a text or from standard input."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, count

from simulmask_plugin.commands.arguments import TranslateOptions
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.translator import Translator, load
from simulmask_plugin.text.units import CHARACTER, Arriving, NotEncodable, split_units
from simulmask_plugin.training.machine import check_device


def run_translate(options: TranslateOptions) -> int:
    """Translate a text, or every line of standard input, and print what is written as soon as it is.

    Raises:
        ValueError: if the model cannot be streamed like this, or there is no text that it could translate.
    """
    if options.text is not None and not options.text.strip():
        raise ValueError("--text is empty; expected a sentence.")
    check_device(options.device)
    translator = load(options.model, options.adapter, device=options.device)
    unit = translator.encoder.source.unit
    if options.text is not None:
        _translate(translator, split_units(options.text, unit), options)
        return 0
    for number in count(1):
        line = Line(unit)
        try:
            if first := next(line, ""):
                _translate(translator, chain([first], line), options)
                deque(line, maxlen=0)  # what a sentence that was cut off has not read
            elif not line.is_last:
                _end_line(options)  # line in, line out
        except NotEncodable as error:
            raise ValueError(f"standard input, line {number}: {error}") from error
        if line.is_last:
            break
    return 0


class Line(Iterator[str]):
    """The units of one line of standard input, each as soon as it has arrived.

    Attributes:
        is_last: whether the input has ended with it; known once all of it has been taken.
    """

    def __init__(self, unit: str) -> None:
        self.is_last = False
        self._is_over, self._arriving = False, Arriving(unit)

    def __next__(self) -> str:
        """The next unit."""
        while not self._is_over:
            character = sys.stdin.read(1)
            self.is_last = not character
            self._is_over = character in ("", "\n")
            for unit in self._arriving.end() if self._is_over else self._arriving.add(character):
                return unit
        raise StopIteration


def _translate(translator: Translator, words: Iterable[str], options: TranslateOptions) -> None:
    """Print the translation of one sentence, unit by unit, and READ and WRITE if they are asked for."""
    steps = translator.stream(
        words,
        options.policy,
        source_lang=options.source_lang,
        target_lang=options.target_lang,
        max_target_tokens=options.max_target_tokens,
        **options.keys,
    )
    has_written = False
    for action, text in steps:
        if options.actions:
            print(f"{action.name} {text}", flush=True)
        elif action is Action.WRITE:
            space = " " * (has_written and translator.encoder.target.unit != CHARACTER)
            print(space + text, end="", flush=True)
            has_written = True
    _end_line(options)


def _end_line(options: TranslateOptions) -> None:
    """End the translation of a line; READ and WRITE have lines of their own."""
    if not options.actions:
        print(flush=True)
