"""What all sessions share: READ appends source, WRITE appends target, and the model is somebody else's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.policies import Action, Evidence, Policy
from simulmask_plugin.streaming.aids import Aids
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import Counters, FedRow, Lane, Request, Steps, T
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.text.prompts import OFFLINE_LATENCY


@dataclass(kw_only=True)
class Session(ABC):
    """Simultaneous decoding of one sentence with a kept cache.

    The integers of every token are those of its training layout, so that the logits are those of training, too.
    A typical loop::

        while not session.finished:
            if session.action() is Action.READ:
                session.read(next_word)      # and session.finish_source() with the last one
            else:
                text = session.write()

    A session never calls the model. `deciding` and `writing` yield what is to be fed to its lane, and are sent the
    logits; `action` and `write` have the session's own feeder do it. What stays in the lane the session decides itself.

    Args:
        model: a causal language model in evaluation mode.
        encoder: tokenizer and settings, see :class:`~simulmask_plugin.batches.features.ExampleEncoder`.
        policy: decides READ or WRITE; may be another one than in training.
        source_lang: for the prompt; None: that of the only pair that was trained, see `ModelSettings.pair`.
        target_lang: the same for the target.
        latency: for the prompt (interleaved), see prompts.LATENCIES.
        max_target_tokens: the session ends when it has written so many.
        trace: receives what identifies a row that predicts, and its logits.
        lane: where its rows go.
        recorder: of READs and WRITEs; None: nobody wants to know them.
        aids: what has been fitted to the model for policies that ask it.

    Attributes:
        num_read: source units.
        num_written: target units.
        truncated: whether it has ended at max_target_tokens.
    """

    model: PreTrainedModel
    encoder: ExampleEncoder
    policy: Policy
    source_lang: str | None = None
    target_lang: str | None = None
    latency: str = OFFLINE_LATENCY
    max_target_tokens: int = 512
    trace: Callable[..., None] | None = None
    lane: Lane = field(default_factory=Lane)
    recorder: Recorder | None = None
    aids: Aids = field(default_factory=Aids)

    num_read: int = field(default=0, init=False)
    num_written: int = field(default=0, init=False)
    source_finished: bool = field(default=False, init=False)
    finished: bool = field(default=False, init=False)
    truncated: bool = field(default=False, init=False)
    target_ids: list[int] = field(default_factory=list, init=False)

    _last_read: str = field(default="", init=False)  # empty if only the prompt comes before
    _pending: list[FedRow] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Encode the prompt; the model is first called when something has to be predicted."""
        self._prompt, self._header, self._next_header = self.encoder.frame(
            self.source_lang, self.target_lang, self.latency
        )

    def read(self, text: str) -> None:
        """Take one more word or character of the source; it reaches the model when something is predicted next.

        Raises:
            ValueError: if the source has been declared finished.
        """
        if self.source_finished:
            raise ValueError(f"The source is finished, but {text!r} was read; start a new session per sentence.")
        for ids in self.encoder.source_units(text, before=self._last_read):
            self._last_read = text
            self._take(ids)
            self.num_read += 1
        if self.recorder is not None:
            self.recorder.read(text, self.num_read)

    @abstractmethod
    def _take(self, ids: list[int]) -> None:
        """Take one source unit."""

    def finish_source(self) -> None:
        """Declare that no more source will come; what has been read is written."""
        self.source_finished = True

    @cached_property
    def _feeder(self) -> Feeder:
        return Feeder(self.model, self.lane)

    def run(self, steps: Steps[T]) -> T:
        """Have the session's own feeder answer what it asks for."""
        return self._feeder.run(steps)

    def action(self) -> Action:
        """READ or WRITE."""
        return self.run(self.deciding())

    @abstractmethod
    def deciding(self) -> Steps[Action]:
        """READ or WRITE, by the policy; at the end of the source always WRITE."""

    def write(self) -> str | None:
        """Write one target unit or chunk; None if it is empty, the session has ended, or READ comes first after all."""
        return self.run(self.writing())

    def writing(self) -> Steps[str | None]:
        """What `write` does.

        Raises:
            ValueError: if the session is finished.
        """
        if self.finished:
            raise ValueError("The session is finished; start a new one per sentence.")
        return self._writing() if self.recorder is None else self._recorded(self.recorder)

    def _recorded(self, recorder: Recorder) -> Steps[str | None]:
        text = yield from self._writing()
        recorder.write(self.encoder.target, self.num_read)
        return text

    @abstractmethod
    def _writing(self) -> Steps[str | None]:
        """WRITE, in a session that goes on."""

    def _wrote(self, token: int, logits: Tensor) -> None:
        """Tell the recorder of a token that is written, and of the logits (vocabulary,) that it was chosen from."""
        if self.recorder is not None:
            log_probabilities = logits[: self.encoder.num_tokens].log_softmax(dim=-1)
            self.recorder.tokens.append((token, float(log_probabilities[token])))

    @property
    def counters(self) -> Counters:
        """What the session has cost."""
        return self.lane.counters

    def _accepts(
        self,
        num_read: int,
        t: int,
        logits: Tensor,
        *,
        read_end: int | None = None,
        fewer: Tensor | None = None,
        attention: Tensor | None = None,
    ) -> bool:
        """Whether the policy WRITEs target unit t, given the logits (vocabulary,) of the row that opens it.

        That row sees ``num_read`` units; ``fewer`` are those of one that sees `Policy.fewer` less. ``attention`` is
        what the row pays to each unit, where the policy looks at that.
        """
        if not self.policy.asks_model or num_read >= self.policy.latest(t):
            return True
        num_tokens = self.encoder.num_tokens  # a model may have more rows (its vocabulary padded)
        less = None if fewer is None else fewer[:num_tokens]
        return self.policy.accepts(Evidence(logits[:num_tokens], read_end, less, self.aids.probe, attention))

    def _request(self, *rows: FedRow) -> Request:
        """What is pending and these rows, in one call; they predict, or else the last one that is pending does."""
        batch, self._pending = [*self._pending, *rows], []
        return Request(batch, max(1, len(rows)), heads=self.aids.heads if self.policy.needs_heads else ())

    def _record(self, *row: int | str, logits: Tensor) -> None:
        if self.trace is not None:
            self.trace(*row, logits)
