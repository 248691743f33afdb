"""Checks that the lag of an evaluation rises with k, with the latency prompt, or with the read threshold."""

from dataclasses import dataclass
from pathlib import Path

import pandas

TIE = 0.01
"""Words of AL that a threshold may be below a lower one, since the toy grammar makes little difference between them."""


@dataclass(frozen=True, slots=True)
class Order:
    """Runs whose lag has to rise from one to the next.

    Attributes:
        claim: what that shows, e.g. "the lag rises with k".
        runs: their names in the file of scores.
        tie: words of AL that a run may be below the one before it; None: each must be higher.
    """

    claim: str
    runs: tuple[str, ...]
    tie: float | None = None


def check_order(scores: Path, order: Order) -> str:
    """Returns the result: that the lag rises, and whether BLEU never falls, which the reader has to judge.

    Raises:
        RuntimeError: the lag is out of order, or a run is missing.
    """
    frame = pandas.read_csv(scores, sep="\t", index_col="name")
    if missing := [run for run in order.runs if run not in frame.index]:
        raise RuntimeError(f"{scores} has no run {', '.join(missing)}, so nobody knows whether {order.claim}.")
    runs = frame.loc[list(order.runs)]
    values = ", ".join(f"{run} {lag:.2f}" for run, lag in runs["al"].items())
    steps = runs["al"].diff().iloc[1:]
    rises = steps > 0 if order.tie is None else steps >= -order.tie  # NaN does not rise
    if not rises.all():
        raise RuntimeError(f"It does not hold that {order.claim}: {rises.idxmin()} is out of order. AL: {values}.")
    quality = "never falls" if runs["bleu"].is_monotonic_increasing else "falls somewhere on the way"
    return f"{order.claim[0].upper()}{order.claim[1:]}. AL: {values}; BLEU {quality}."
