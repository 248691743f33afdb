"""What SimulEval is sent of a session: after every source word all that the policy allows, in units that it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.lane import Steps
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.text.characters import needs_space
from simulmask_plugin.text.units import CHARACTER, TOKEN, WORD, join_units, split_units

COUNTED_IN = {"word": WORD, "char": CHARACTER, "spm": WORD}
"""SimulEval's --eval-latency-unit -> what the target is counted in."""

TAIL = 32
"""Characters of the text sent last that are kept to join more text to it."""


@dataclass(slots=True)
class Writer:
    """Turns what a session writes into the text that SimulEval is sent.

    Args:
        session: of one sentence.
        latency_unit: word, char or spm, as SimulEval has it.
    """

    session: Session
    latency_unit: str
    _num_sent: int = field(default=0, init=False)  # target tokens, of a model that writes tokens
    _sent: str = field(default="", init=False)  # the end of what was sent
    _opens: bool = field(init=False)  # whether white space may stand before what is sent next

    def __post_init__(self) -> None:
        """Begin a sentence."""
        self._opens = self.session.encoder.target.unit != TOKEN

    def write(self) -> Steps[str | None]:
        """All that the policy allows before one more word is sent; None: nothing, and the sentence goes on."""
        units: list[str] = []
        session = self.session
        while not session.finished and (yield from session.deciding()) is Action.WRITE:
            text = yield from session.writing()
            if text:
                units.append(text)
        if session.encoder.target.unit == TOKEN:
            units = self._whole_words()
        if not units and not session.finished:
            return None
        text = join_units(units, session.encoder.target.unit)
        return self._with_spaces(text) if COUNTED_IN[self.latency_unit] == CHARACTER else text

    def _with_spaces(self, text: str) -> str:
        """The text with no-break spaces, as in "iPhone 15": plain ones SimulEval deletes where it counts characters."""
        if not text:
            return text
        text = join_units(split_units(text, CHARACTER), CHARACTER)
        space = " " * (bool(self._sent) and self._opens and needs_space(self._sent, text))
        self._sent = (self._sent + space + text)[-TAIL:]
        self._opens = self.session.encoder.target.unit != TOKEN
        return (space + text).replace(" ", "\N{NO-BREAK SPACE}")

    def _whole_words(self) -> list[str]:
        """Of a model that writes tokens, send words (or characters), which is what SimulEval counts and joins."""
        target, ids = self.session.encoder.target, self.session.target_ids[self._num_sent :]
        if not self.session.finished:
            ids = ids[: target.num_complete(ids, COUNTED_IN[self.latency_unit])]
        self._num_sent += len(ids)
        self._opens |= bool(ids) and target.opens_word[ids[0]]  # perhaps the space alone
        return target.text(ids).split()
