r"""Turns parallel text into chunk pairs of several latency levels, for the interleaved layout of EAST.

Words are aligned by eflomal (pip install eflomal) or by any aligner that writes links i-j, and a sentence is cut where
no link crosses; a level then merges the smallest chunks up to a number of source words. It writes
OUTPUT/NAME.jsonl, one row per sentence and level (with --valid also OUTPUT/NAME_valid.jsonl, sentences that are held
out with all their levels), and their entries in a dataset_info.json::

    python east_scripts/make_chunks.py --source train.de --target train.en --name multi30k_chunks \
        --source-lang German --target-lang English
    python east_scripts/make_chunks.py --source train.de --target train.en --alignments train.links \
        --source-lang German --target-lang English --latencies low=2,high=8
    python east_scripts/make_chunks.py --pairs train.zh-en.jsonl --source-unit character --latencies low=2,high=12 \
        --source-lang Chinese --target-lang English

The chunks of a row join to the line as it was read, without the white space at its ends. The report has per level:
chunks per sentence, source units per chunk, average lagging (AL in source units) of writing each chunk as soon as it is
read, and the share of chunks that reordering ("crossed") or the length of the level ("lengthened") holds together.
eflomal samples without a seed, so two runs differ a little: keep the file that a model was trained on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from corpus_options import TOY, add_valid, clean_corpus, corpus_parser, count_table, read_corpus, run, write_datasets

from simulmask_plugin.corpora.chunking import (
    DEFAULT_LEVELS,
    LATENCIES,
    Chunker,
    Link,
    grow_diag_final_and,
    parse_levels,
    parse_links,
    statistics_table,
)
from simulmask_plugin.corpora.parallel_text import Pair, read_lines, split_off
from simulmask_plugin.text.units import split_units

MAX_UNITS = 200
"""Default of --max-units. Links of long lines are poor, and eflomal aligns no lines of 1,024 words or more."""

NO_LINKS = "nothing aligned"


def main() -> None:
    """Runs the script."""
    parser = corpus_parser(__doc__)
    parser.set_defaults(max_units=MAX_UNITS)
    parser.add_argument("--name", default="toy_chunks", help="of the data set (default: %(default)s)")
    parser.add_argument("--dataset-info", type=Path, help="default: dataset_info.json in the output folder")
    parser.add_argument("--source-lang", help="written as a column of every row; required")
    parser.add_argument("--target-lang", help="the same for the target; required")
    parser.add_argument(
        "--latencies",
        default=DEFAULT_LEVELS,
        help=f"levels and minimum source units of their chunks; of {', '.join(LATENCIES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--alignments",
        type=Path,
        help="links i-j of every pair that is read, one line each, instead of eflomal's",
    )
    add_valid(parser)
    run(parser, make_chunks)


def make_chunks(options: argparse.Namespace) -> str:
    """Writes the files and returns a report of what was kept, dropped and cut."""
    if not (options.source_lang and options.target_lang):
        raise ValueError("Every row names its languages; pass --source-lang and --target-lang, such as German.")
    chunker = Chunker(
        parse_levels(options.latencies),
        source_lang=options.source_lang,
        target_lang=options.target_lang,
        source_unit=options.source_unit,
        target_unit=options.target_unit,
    )
    default = TOY / "train.jsonl"
    kept, num_read, dropped = clean_corpus(options, default=default, keep_spacing=True)
    units = [(split_units(p.source, options.source_unit), split_units(p.target, options.target_unit)) for p in kept]
    if options.alignments is None:
        all_links = align(units)
    else:
        places = [pair.where for pair in read_corpus(options, default=default)]
        all_links = read_links(options.alignments, places, kept, units)

    linked = [(pair, links) for pair, links in zip(kept, all_links, strict=True) if links]
    dropped[NO_LINKS] = len(kept) - len(linked)
    if not linked:
        raise ValueError(f"None of the {len(kept)} pairs has a link; the aligner found nothing, or got other text.")
    held_out = f"{options.name}_valid"
    parts = zip((options.name, held_out), split_off(linked, num_valid=options.valid, seed=options.seed), strict=True)
    datasets = {
        name: [row for pair, links in part for row in chunker.rows(pair.source, pair.target, links)]
        for name, part in parts
        if part
    }
    written, for_the_yaml = write_datasets(options, datasets, held_out=held_out)
    return f"{count_table(num_read, dropped, written)}\n\n{statistics_table(chunker.statistics)}\n\n{for_the_yaml}"


def align(units: Sequence[tuple[list[str], list[str]]]) -> list[set[Link]]:
    """Returns eflomal's links of the units of each pair, symmetrized."""
    try:
        import eflomal
    except ImportError as error:
        raise ValueError(
            "Word alignment needs eflomal: pip install eflomal; or pass the links of another aligner with --alignments."
        ) from error
    with TemporaryDirectory() as folder:
        forward, backward = Path(folder, "forward"), Path(folder, "backward")
        sources, targets = ([" ".join(side) for side in sides] for sides in zip(*units, strict=True))
        eflomal.Aligner().align(
            sources, targets, links_filename_fwd=str(forward), links_filename_rev=str(backward), quiet=True
        )
        return [
            grow_diag_final_and(*(parse_links(line, len(source), len(target)) for line in lines))
            for (source, target), *lines in zip(units, read_lines(forward), read_lines(backward), strict=True)
        ]


def read_links(
    path: Path, places: Sequence[str], kept: Sequence[Pair], units: Sequence[tuple[list[str], list[str]]]
) -> list[set[Link]]:
    """Returns the links of the kept pairs from a file with one line for every pair that was read.

    Args:
        path: the file of links.
        places: `where` of every pair that was read.
        kept: the pairs that cleaning left.
        units: their units.
    """
    lines = list(read_lines(path))
    if len(lines) != len(places):
        raise ValueError(f"Expected a line of links for each of the {len(places)} pairs, got {len(lines)} in {path}.")
    numbers = {place: number for number, place in enumerate(places)}
    all_links = []
    for pair, (source, target) in zip(kept, units, strict=True):
        number = numbers[pair.where]
        try:
            all_links.append(parse_links(lines[number], len(source), len(target)))
        except ValueError as error:
            raise ValueError(f"{path}:{number + 1}: {error}") from error
    return all_links


if __name__ == "__main__":
    main()
