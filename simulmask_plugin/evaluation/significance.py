"""Whether one system is better than another: sacrebleu's paired bootstrap, which may draw trainings, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics import BLEU

SAMPLES, SEED = 1000, 12345
"""Of sacrebleu's own test."""


def bootstrap_p(
    bleu: BLEU, ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> float:
    """Return p of the difference in BLEU, each a mean over trainings.

    Every sample draws sentences, the same for both sides, and of each side as many trainings as it has. With one
    training a side, p is that of ``sacrebleu.significance.PairedTest`` (Koehn, 2004,
    https://aclanthology.org/W04-3250).

    Args:
        bleu: its tokenizer and smoothing.
        ours: the translations of all sentences by every training.
        theirs: the same of the other system.
        references: as sacrebleu has them.
    """
    rng = np.random.default_rng(SEED)
    num_sentences = len(references[0])
    sentences = rng.choice(num_sentences, size=(SAMPLES, num_sentences), replace=True)
    (real, resampled), (other, of_other) = (_scores(bleu, side, references, sentences, rng) for side in (ours, theirs))
    if real == other:
        return 1.0  # such as the same translations: no sample differs by more than nothing
    differences = np.abs(resampled - of_other)
    return float((np.sum(differences - differences.mean() > abs(real - other)) + 1) / (SAMPLES + 1))


def _scores(
    bleu: BLEU,
    trainings: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    sentences: Int[np.ndarray, "samples sentences"],
    rng: np.random.Generator,
) -> tuple[float, Float[np.ndarray, " samples"]]:
    """Return the mean BLEU of the trainings, and that of every sample."""

    def score(counts: Float[np.ndarray, "sentences counts"]) -> float:
        return bleu._compute_score_from_stats(counts.sum(0)).score

    counts = [np.array(bleu._extract_corpus_statistics(one, references), dtype="float32") for one in trainings]
    drawn = rng.choice(len(trainings), size=(len(sentences), len(trainings)), replace=True)
    samples = [np.mean([score(counts[one][rows]) for one in ones]) for rows, ones in zip(sentences, drawn, strict=True)]
    return float(np.mean([score(one) for one in counts])), np.array(samples)
