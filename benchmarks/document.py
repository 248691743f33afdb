"""Streams one long document through a tiny random model: memory and time per sentence must not grow.

    python benchmarks/document.py                      # 2,000 sentences, with and without context
    python benchmarks/document.py --sentences 200 --png document.png

Draws the picture of docs/benchmarks.md, into output/ unless told otherwise, and prints the medians of the first and of
the last tenth.
"""

import argparse
import random
import resource
import time
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from torch import Tensor

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.atomic import replacing
from simulmask_plugin.policies import Action, ModelDriven
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.decoding import ChunkChooser
from simulmask_plugin.streaming.document import Document
from simulmask_plugin.training.chat_prompt import resolve_prompt

WORDS, WRITTEN = 6, 7
"""Source words and target tokens of a sentence; it is written in one chunk, at its end."""

CONTEXTS = {"no context": 0, "2 sentences of context": 2}


class Steady(ChunkChooser):
    """Writes a fixed number of tokens at the end of every sentence: a random model would never stop by itself."""

    def __init__(self, token: int, end: int) -> None:
        self.token, self.end, self.count = token, end, 0

    def next_token(self, logits: Tensor, *, opens_word: bool) -> int:
        """The same token again and again, then the end."""
        self.count += 1
        return self.end if self.count % (WRITTEN + 1) == 0 else self.token


def measure(sentences: int, context: int) -> list[tuple[float, int, float]]:
    """Return (CPU milliseconds, entries of the cache, MB of the process) for every sentence."""
    tokenizer = byte_tokenizer()
    config = SimulMaskConfig.from_dict({"layout": "interleaved"})
    encoder = ExampleEncoder(tokenizer, ModelSettings(config, resolve_prompt(config, None, tokenizer)))
    _, _, (end,) = encoder.frame(None, None)
    session = ChunkedSession(
        model=tiny_model("llama", len(tokenizer), 0, "sdpa"),
        encoder=encoder,
        policy=ModelDriven(read_threshold=1 - 1e-9),  # it leaves the decision to the punctuation
        document=Document(min_units=WORDS, context_sentences=context),
        chooser=Steady(tokenizer.encode("a", add_special_tokens=False)[0], end),
    )
    draw = random.Random(0)
    points = []
    for _ in range(sentences):
        words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(WORDS)]
        start = time.process_time()  # what else runs on the machine does not count
        for word in [*words[:-1], f"{words[-1]}."]:
            session.read(word)
            if session.action() is Action.WRITE:
                session.write()
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        points.append((1000 * seconds, session.lane.num_keys, memory))
    return points


def draw(path: Path, curves: dict[str, list[tuple[float, int, float]]]) -> None:
    """Draw the three measures against the number of the sentence."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    for place, label in enumerate(("CPU ms / sentence", "cache entries", "peak memory (MB)")):
        axes = figure.add_subplot(3, 1, place + 1)
        for name, points in curves.items():
            axes.plot([point[place] for point in points], label=name, linewidth=0.8)
        axes.set(ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    axes.set(xlabel="sentence of the document")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--png", type=Path, default=Path("output/document.png"), help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = {name: measure(options.sentences, context) for name, context in CONTEXTS.items()}
    tenth = max(1, options.sentences // 10)
    for name, points in curves.items():
        for part, some in (("first", points[:tenth]), ("last", points[-tenth:])):
            columns = [median(column) for column in zip(*some, strict=True)]
            print(f"{name}, {part} tenth: {columns[0]:.1f} CPU ms, {columns[1]:.0f} entries, {columns[2]:.0f} MB")
    draw(options.png, curves)
    print(f"Drawn into {options.png}")


if __name__ == "__main__":
    main()
