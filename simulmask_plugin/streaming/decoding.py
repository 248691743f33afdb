"""Which target token a session takes from the logits; greedy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.text.units import TOKEN, WORD, UnitTokenizer


class Chooser:
    """Picks the next target token, with units that can only begin where one may begin.

    Args:
        encoder: of the model.
        written: the target tokens so far; grows as the session writes.
    """

    def __init__(self, encoder: ExampleEncoder, written: Sequence[int]) -> None:
        self._target, self._written = encoder.target, written
        self._num_tokens = encoder.num_tokens

    def __call__(self, logits: Float[Tensor, " vocabulary"], index: int, opening: bool) -> int:
        """Return the id of target token ``index``; ``opening``: the look-ahead row has ended the unit before."""
        logits = logits[: self._num_tokens]  # a model may have more rows (its vocabulary padded), which are no tokens
        if opening and index and self._target.unit != TOKEN:
            # a tokenizer may have more tokens than the model has rows: those can never be chosen
            forbidden = _inside_unit(self._target, self._target.kind_of(self._written), logits.device)
            logits = logits.masked_fill(forbidden[: len(logits)], -torch.inf)
        return int(logits.argmax())


@lru_cache(maxsize=32)
def _inside_unit(target: UnitTokenizer, kind: str, device: torch.device) -> Bool[Tensor, " tokens"]:
    """True for the tokens that cannot open a unit after what is written; the same for all sentences."""
    return ~torch.tensor(target.opens_unit(kind), device=device)


class ChunkChooser:
    """Picks target tokens in the layouts of chunks.

    Args:
        encoder: of the model.
        device: of the logits.
        read_end: id of the end of read, which is never written; None in the layout ``turns``.
        ends: ids that end a WRITE.
    """

    def __init__(
        self, encoder: ExampleEncoder, device: torch.device, *, read_end: int | None, ends: Sequence[int]
    ) -> None:
        # of the length of the tokenizer: a model may have more rows (its vocabulary padded), which are no tokens
        self._never = torch.zeros(encoder.num_tokens, dtype=torch.bool, device=device)
        self._not_at_start = self._never.clone()
        if encoder.target.unit == WORD:
            self._not_at_start = _inside_unit(encoder.target, WORD, device).clone()
        self._not_at_start[list(ends)] = False
        if read_end is not None:
            self._never[read_end] = self._not_at_start[read_end] = True

    def scores(self, logits: Tensor, *, opens_word: bool) -> Tensor:
        """Log-probabilities (..., tokens) of the next target token; -inf where it cannot stand."""
        forbidden = (self._not_at_start if opens_word else self._never)[: logits.shape[-1]]
        return logits[..., : len(forbidden)].log_softmax(dim=-1).masked_fill(forbidden, -torch.inf)

    def next_token(self, logits: Tensor, *, opens_word: bool) -> int:
        """The likeliest next target token."""
        return int(self.scores(logits, opens_word=opens_word).argmax())
