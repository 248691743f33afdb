"""Beam search inside a WRITE with a kept cache: the hypotheses are branches of one sequence, and only one stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from simulmask_plugin.streaming.lane import ALL, FedRow, Lane, Request, Steps


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """A branch: its tokens, their entries in the cache, and after each the sum of the log-probabilities so far.

    One that has ended has one sum more, that with the end.
    """

    ids: tuple[int, ...]
    entries: tuple[int, ...]
    sums: tuple[float, ...] = (0.0,)

    @property
    def score(self) -> float:
        """The sum of all log-probabilities."""
        return self.sums[-1]

    @property
    def mean_score(self) -> float:
        """What finished hypotheses are compared by: the score per token, the end among them."""
        return self.score / (len(self.ids) + 1)


def beam_search(
    lane: Lane,
    logits: Tensor,
    scores: Callable[..., Tensor],
    *,
    width: int,
    limit: int,
    ends: Sequence[int],
    opens_word: bool,
    order: int,
    position: int,
) -> Steps[list[tuple[int, float]]]:
    """Search for the best continuation: tokens, each with its log-probability.

    The tokens are in the cache afterwards, as if they had been fed one by one.

    All live hypotheses are fed in one call. The search stops when ``width`` hypotheses have ended, or none that lives
    would be better than the best of them if it ended now. The tokens are returned without the end.

    Args:
        lane: holds the cache.
        logits: (vocabulary,) for the first token.
        scores: maps logits (..., vocabulary) to log-probabilities, -inf where a token cannot be; see `ChunkChooser`.
        width: live hypotheses.
        limit: largest number of tokens.
        ends: ids that end a hypothesis; they are not fed.
        opens_word: whether the first token has to open a word.
        order: place of the first token in the training sequence.
        position: of that token.
    """
    start, live, finished = lane.num_keys, [_Hypothesis((), ())], list[_Hypothesis]()
    next_scores = scores(logits, opens_word=opens_word)[None]
    for depth in range(limit):
        grown: list[_Hypothesis] = []
        for parent, token, score in _best(live, next_scores, width * (1 + len(ends))):
            if len(grown) == width:
                break
            if token in ends:
                finished.append(_Hypothesis(parent.ids, parent.entries, (*parent.sums, score)))
            else:
                entry = lane.num_keys + len(grown)
                grown.append(_Hypothesis((*parent.ids, token), (*parent.entries, entry), (*parent.sums, score)))
        best = max((h.mean_score for h in finished), default=-torch.inf)
        if len(finished) >= width or all(h.mean_score <= best for h in grown):
            break
        live = grown
        rows = [FedRow(h.ids[-1], order + depth, -1, ALL, position + depth) for h in live]
        visible = _own_branches(live, start, lane.num_keys).to(logits.device)
        next_scores = scores((yield Request(rows, len(rows), visible)), opens_word=False)
    winner = max(finished or live, key=lambda h: h.mean_score)
    lane.keep(start, winner.entries)
    return [(token, after - before) for token, (before, after) in zip(winner.ids, pairwise(winner.sums), strict=False)]


def _own_branches(live: Sequence[_Hypothesis], start: int, num_keys: int) -> Bool[Tensor, "1 1 live key"]:
    """True for what was there before the search, from ``start`` on for the entries of a row's own branch alone."""
    visible = torch.zeros((len(live), num_keys + len(live)), dtype=torch.bool)
    visible[:, :start] = True
    for row, hypothesis in enumerate(live):
        visible[row, list(hypothesis.entries)] = True
    return visible[None, None]


def _best(live: Sequence[_Hypothesis], scores: Tensor, count: int) -> Iterator[tuple[_Hypothesis, int, float]]:
    """Yield (hypothesis, next token, sum of log-probabilities) of the best continuations that are possible."""
    totals = scores + torch.tensor([[h.score] for h in live], device=scores.device)
    best = totals.flatten().topk(min(count, totals.numel()))
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if score > -torch.inf:
            yield live[index // totals.shape[1]], index % totals.shape[1], score
