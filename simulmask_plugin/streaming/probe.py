"""A probe says how likely it is that the next source unit would hardly change what a model is about to write.

It is a logistic regression on what the row that opens a target unit predicts: the logits, which are a linear map of the
model's last hidden state; three numbers that describe the distribution; and how much the last unit read has changed it.
So it needs no call of its own. DaP-SiMT (https://arxiv.org/abs/2310.14853, section 3.2) trains a few layers on a frozen
model to predict the divergence from the whole source; what one unit more would do is the better question, since a unit
more is what a READ buys.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from pandas import Series
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE_NAME = "simulmask_probe.safetensors"
CALM = 0.03
"""Nats of Kullback-Leibler divergence up to which a prediction has hardly changed."""
UNKNOWN = 1.0
"""Nats, where no unit could be taken away, as before the second one."""
LEAST, MOST = 1e-4, 10.0
"""Bounds of a divergence as a feature."""
NUM_SHAPE = 5
PENALTY = 1e-3
"""Of the squared weights of standardized features."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights of the logistic regression.

    Attributes:
        tokens: (tokens,) of every logit.
        shape: (5,) of `shape_of`.
        bias: ().
    """

    tokens: Float[Tensor, " tokens"]
    shape: Float[Tensor, " 5"]
    bias: Float[Tensor, ""]

    def __call__(self, logits: Float[Tensor, " tokens"], fewer: Float[Tensor, " tokens"] | None) -> float:
        """The probability that the next source unit hardly changes these logits.

        ``fewer`` are those of a row that sees one unit less; None: there is none.
        """
        tokens, weights, bias = (part.to(logits.device) for part in (self.tokens, self.shape, self.bias))
        before = logits.new_tensor(UNKNOWN) if fewer is None else divergence(logits, fewer)
        return float((logits @ tokens + shape_of(logits, before) @ weights + bias).sigmoid())

    def save(self, folder: str | Path) -> None:
        """Write it beside the model."""
        save_file(
            {field.name: getattr(self, field.name).contiguous() for field in fields(self)}, Path(folder, FILE_NAME)
        )

    @classmethod
    def load(cls, folder: str | Path) -> Probe | None:
        """Read that of a model; None: it has none."""
        path = Path(folder, FILE_NAME)
        return cls(**load_file(path)) if path.is_file() else None


def divergence(now: Float[Tensor, "... tokens"], before: Float[Tensor, "... tokens"]) -> Float[Tensor, ...]:
    """Kullback-Leibler divergence of what is predicted now from what was predicted before, in nats."""
    log_now, log_before = now.log_softmax(dim=-1), before.log_softmax(dim=-1)
    return (log_now.exp() * (log_now - log_before)).sum(dim=-1)


def shape_of(logits: Float[Tensor, "... tokens"], before: Float[Tensor, ...]) -> Float[Tensor, "... 5"]:
    """What a prediction is like.

    Log-probability of the likeliest token, its lead over the second, the entropy, and the `divergence` from the one
    with a unit less, as it is and as a logarithm.
    """
    log_p = logits.log_softmax(dim=-1)
    first, second = log_p.topk(2, dim=-1).values.unbind(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return torch.stack([first, first - second, entropy, before.clamp(max=MOST), before.clamp(min=LEAST).log()], dim=-1)


def directions(head: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
    """An orthonormal basis of all logits that an output head can give."""
    basis: Tensor = torch.linalg.qr(head.float())[0]
    return basis


def fit(
    features: Float[Tensor, "rows features"], stays: Float[Tensor, " rows"], basis: Float[Tensor, "tokens hidden"]
) -> Probe:
    """Fit a probe.

    Args:
        features: of every row the logits along the `directions`, and its `shape_of`.
        stays: 1 where one unit more hardly changes the prediction, else 0.
        basis: the directions.
    """
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-6
    standard = (features - mean) / spread
    weights = torch.zeros(features.shape[1], requires_grad=True, device=features.device)
    bias = torch.zeros((), requires_grad=True, device=features.device)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(standard @ weights + bias, stays)
        (error + PENALTY * weights.square().sum()).backward()
        return error

    optimizer.step(loss)
    own = weights.detach() / spread
    return Probe(basis @ own[:-NUM_SHAPE], own[-NUM_SHAPE:], bias.detach() - mean @ own)


def area_under_curve(scores: Float[Tensor, " rows"], stays: Float[Tensor, " rows"]) -> float:
    """How often a row that stays has a higher score than one that does not: 1 always, 0.5 by chance (Mann-Whitney)."""
    ranks = torch.from_numpy(Series(scores.cpu().numpy()).rank().to_numpy())
    positive = int(stays.sum())
    above = float(ranks[stays.cpu() > 0].sum()) - positive * (positive + 1) / 2
    return above / max(1, positive * (len(stays) - positive))
