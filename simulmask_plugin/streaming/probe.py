"""A probe says how likely it is that the whole source would not change what a model is about to write.

It is a logistic regression on the prediction of the row that opens a target unit: the logits, which are a linear map of
the model's last hidden state, and three numbers that describe the distribution. So it needs neither a call nor a hook.
DaP-SiMT (https://arxiv.org/abs/2310.14853, section 3.2) trains a few layers on a frozen model for the same purpose.
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
NUM_SHAPE = 3
PENALTY = 1e-3
"""Of the squared weights of standardized features."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights of the logistic regression.

    Attributes:
        tokens: (tokens,) of every logit.
        shape: (3,) of `shape_of`.
        bias: ().
    """

    tokens: Float[Tensor, " tokens"]
    shape: Float[Tensor, " 3"]
    bias: Float[Tensor, ""]

    def __call__(self, logits: Float[Tensor, " tokens"]) -> float:
        """The probability that the likeliest token stays the likeliest once the whole source has been read."""
        tokens, shape, bias = (weights.to(logits.device) for weights in (self.tokens, self.shape, self.bias))
        return float((logits @ tokens + shape_of(logits) @ shape + bias).sigmoid())

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


def shape_of(logits: Float[Tensor, "... tokens"]) -> Float[Tensor, "... 3"]:
    """Log-probability of the likeliest token, its lead over the second, and the entropy."""
    log_p = logits.log_softmax(dim=-1)
    first, second = log_p.topk(2, dim=-1).values.unbind(dim=-1)
    return torch.stack([first, first - second, -(log_p.exp() * log_p).sum(dim=-1)], dim=-1)


def directions(head: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
    """An orthonormal basis of all logits that an output head can give."""
    basis: Tensor = torch.linalg.qr(head.float())[0]
    return basis


def fit(
    inside: Float[Tensor, "rows hidden"],
    shape: Float[Tensor, "rows 3"],
    stays: Float[Tensor, " rows"],
    basis: Float[Tensor, "tokens hidden"],
) -> Probe:
    """Fit a probe.

    Args:
        inside: the logits of every row along the `directions`.
        shape: the same rows' `shape_of`.
        stays: 1 where the likeliest token is that of the whole source, else 0.
        basis: the directions.
    """
    features = torch.cat([inside, shape], dim=1)
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
