r"""Turns a test set into the two line-aligned files that SimulEval reads.

Reads two line-aligned files, TSV, JSON, JSONL, IWSLT files or a sacreBLEU test set and writes
OUTPUT/NAME.source and OUTPUT/NAME.target::

    python east_scripts/prepare_mt_test_data.py                  # the toy pair -> output/data/toy_test.source
    python east_scripts/prepare_mt_test_data.py my.yaml          # keys: the options below, with underscores
    python east_scripts/prepare_mt_test_data.py --test-set wmt15 --lang-pair de-en --name wmt15_de_en
    python east_scripts/prepare_mt_test_data.py --pairs wmt22.test.zh-en.json --target-key reference \
        --source-unit character --name wmt22_zh_en

SimulEval cuts the source at white space, so a source of characters gets a space between every two of them.
With --eval-latency-unit char it takes the spaces out of the translation but counts those of the reference, so
a target of characters loses its spaces.
"""

import argparse

from corpus_options import TOY, add_join, clean_corpus, corpus_parser, count_table, joined, run

from simulmask_plugin.corpora import parallel_text as corpora
from simulmask_plugin.text.units import join_units, split_units


def main() -> None:
    """Runs the script."""
    parser = corpus_parser(__doc__)
    add_join(parser)
    parser.add_argument("--name", default="toy_test", help="the files are NAME.source, NAME.target (default: toy_test)")
    run(parser, prepare)


def prepare(options: argparse.Namespace) -> str:
    """Writes the files and returns a report of what was kept and dropped."""
    kept, num_read, dropped = clean_corpus(options, default=TOY / "test.jsonl")
    kept = joined(options, kept)
    source_file, target_file = (options.output / f"{options.name}.{side}" for side in ("source", "target"))
    corpora.check_absent([source_file, target_file], overwrite=options.overwrite)

    unit = options.target_unit
    corpora.write_lines(source_file, (" ".join(split_units(pair.source, options.source_unit)) for pair in kept))
    corpora.write_lines(target_file, (join_units(split_units(pair.target, unit), unit) for pair in kept))
    return count_table(num_read, dropped, {str(file): len(kept) for file in (source_file, target_file)})


if __name__ == "__main__":
    main()
