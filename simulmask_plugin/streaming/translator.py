"""The Python face: a trained model that streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.options import NO_AIDS, Aids, Decision, Session, open_session, streaming_attention
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.text.units import split_units


class Step(NamedTuple):
    """What happens next: READ and the source unit that was read, or WRITE and what was written."""

    action: Action
    text: str


@dataclass(frozen=True, slots=True)
class Translator:
    """A trained model with its tokenizer and its simulmask.json, see `load`.

    Attributes:
        model: in evaluation mode.
        encoder: tokenizer and settings.
        aids: what was fitted to it for policies that ask it.
    """

    model: PreTrainedModel
    encoder: ExampleEncoder
    aids: Aids = NO_AIDS

    def stream(
        self,
        words: str | Iterable[str],
        policy: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        max_target_tokens: int = 512,
        **options: Any,
    ) -> Iterator[Step]:
        """Translate one sentence while it arrives, and yield READ and WRITE as they happen.

        Args:
            words: source units; of an iterator the next one is taken when it is read. A text is cut into its units.
            policy: its name; None: that of the options, or the one trained with.
            source_lang: of a model that was trained on several language pairs.
            target_lang: the same for the target.
            max_target_tokens: the sentence ends when so many have been written.
            options: what an entry of an evaluation's ``policies`` may have, e.g. ``k=3``.

        Raises:
            ValueError: if the model cannot be streamed like this.
        """
        session = self._open(policy, options, source_lang, target_lang, max_target_tokens)
        if isinstance(words, str):
            words = split_units(words, self.encoder.source.unit)
        return _steps(session, words)

    def translate(
        self,
        text: str,
        policy: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        max_target_tokens: int = 512,
        **options: Any,
    ) -> str:
        """The whole translation of a sentence, see `stream`."""
        session = self._open(policy, options, source_lang, target_lang, max_target_tokens)
        for _ in _steps(session, split_units(text, self.encoder.source.unit)):
            pass
        return self.encoder.target.text(session.target_ids)

    def _open(
        self,
        policy: str | None,
        options: dict[str, Any],
        source_lang: str | None,
        target_lang: str | None,
        max_target_tokens: int,
    ) -> Session:
        return open_session(
            self.model,
            self.encoder,
            Decision.from_dict({"policy": policy, **options}),
            source_lang=source_lang,
            target_lang=target_lang,
            max_target_tokens=max_target_tokens,
            aids=self.aids,
        )


def _steps(session: Session, words: Iterable[str]) -> Iterator[Step]:
    """Drive a session over its source; of a list it is told with the last word that no more will come."""
    num_words = len(words) if isinstance(words, Sequence) else None
    source, num_taken = iter(words), 0  # of the words; the session counts units, which may be tokens
    if num_words == 0:
        session.finish_source()
    while not session.finished:
        if session.action() is Action.WRITE:
            text = session.write()
            if text:
                yield Step(Action.WRITE, text)
            continue
        word = next(source, None)
        if word is None:
            session.finish_source()
            continue
        session.read(word)
        num_taken += 1
        if num_taken == num_words:
            session.finish_source()
        yield Step(Action.READ, word)


def load(
    model: str,
    adapter: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str | None = None,
) -> Translator:
    """Load a trained model, see `Translator`.

    Args:
        model: folder, or name on the hub, of a whole model with its simulmask.json, or of the base of the adapter.
        adapter: the same of an adapter with its simulmask.json, which is merged in memory; of several, with commas
            between them.
        device: as torch names it.
        dtype: as torch names it, or auto, that of the weights.
        attn_implementation: sdpa or eager; None: as in training.

    Raises:
        ValueError: if there is no simulmask.json, the adapter does not fit, or the model cannot be streamed.
    """
    trained = TrainedModel.of(model, adapter)
    encoder = ExampleEncoder(trained.tokenizer(), trained.settings())
    attention = streaming_attention(trained.config(), attn_implementation)
    return Translator(trained.load(attention=attention, dtype=dtype).to(device), encoder, trained.aids())
