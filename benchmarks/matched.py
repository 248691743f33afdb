"""What a run gains over the line between other runs at the same latency; with a paired bootstrap over sentences.

python benchmarks/matched.py RESULTS --line wait_k-1 wait_k-2 wait_k-3 --runs stability-most3-laal2 ...

Of every run: LAAL, BLEU, how much that is above the line at this LAAL, and how many words of LAAL earlier it comes than
the line has this BLEU; in brackets what 95 % of the samples lie between, p: share of the samples that gain nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU

from simulmask_plugin.streaming.simulation import laal

SAMPLES = 1000


class Run(NamedTuple):
    """Per sentence: the counts that BLEU sums up, and LAAL in words."""

    counts: np.ndarray
    lags: np.ndarray


def load(bleu: BLEU, folder: Path) -> Run:
    """Read the instances.log of a run; a sentence of which nothing was written lags by its length."""
    lines = (folder / "instances.log").read_text(encoding="utf-8").splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["index"])
    references = [record["reference"].strip() for record in records]
    counts = bleu._extract_corpus_statistics([record["prediction"] for record in records], [references])
    lags = [laal(record, "word") if record["delays"] else record["source_length"] for record in records]
    return Run(np.array(counts, dtype=float), np.array(lags))


def gains(bleu: BLEU, line: list[Run], runs: list[Run], rows: np.ndarray) -> np.ndarray:
    """(runs, 4) of some sentences: LAAL, BLEU, BLEU above the line, LAAL before it."""

    def point(run: Run) -> tuple[float, float]:
        score = bleu._compute_score_from_stats([int(count) for count in run.counts[rows].sum(0)]).score
        return float(run.lags[rows].mean()), score

    lags, scores = zip(*sorted(map(point, line)), strict=True)
    points = [point(run) for run in runs]
    return np.array(
        [(lag, bleu, bleu - np.interp(lag, lags, scores), np.interp(bleu, scores, lags) - lag) for lag, bleu in points]
    )


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of an evaluation")
    parser.add_argument("--line", nargs="+", required=True, metavar="RUN")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    args = parser.parse_args()
    bleu = BLEU()
    line, runs = ([load(bleu, args.results / name) for name in names] for names in (args.line, args.runs))
    num_sentences = len(runs[0].lags)
    rng = np.random.default_rng(0)
    real = gains(bleu, line, runs, np.arange(num_sentences))
    samples = np.array([gains(bleu, line, runs, rng.integers(0, num_sentences, num_sentences)) for _ in range(SAMPLES)])
    for name, (lag, score, above, earlier), of_run in zip(args.runs, real, samples.swapaxes(0, 1), strict=True):
        least, most = np.percentile(of_run[:, 2:], (2.5, 97.5), axis=0)
        p = (np.sum(of_run[:, 2] <= 0) + 1) / (SAMPLES + 1)
        print(
            f"{name}: BLEU {score:.2f} at LAAL {lag:.2f}; {above:+.2f} [{least[0]:+.2f}, {most[0]:+.2f}] BLEU, "
            f"p = {p:.3f}; {earlier:+.2f} [{least[1]:+.2f}, {most[1]:+.2f}] words earlier"
        )


if __name__ == "__main__":
    main()
