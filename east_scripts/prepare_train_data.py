r"""Turns parallel text into training data of LLaMA-Factory (`formatting: simulmask`).

Reads two line-aligned files, TSV, JSON, JSONL, IWSLT files or a sacreBLEU test set, cleans the pairs (white space is
always normalized), writes OUTPUT/NAME_train.jsonl (and NAME_valid.jsonl) and adds their entries to a
dataset_info.json::

    python east_scripts/prepare_train_data.py                    # the toy pair -> output/data/toy_train.jsonl
    python east_scripts/prepare_train_data.py my.yaml            # keys: the options below, with underscores
    python east_scripts/prepare_train_data.py --source train.de --target train.en --name multi30k_de_en \
        --source-lang German --target-lang English --max-units 100 --max-ratio 3 --drop-duplicates --valid 500

With --format east it reads the published data of EAST instead: chunk pairs (SiMT-De-En-660K, SiMT-Multi-90K) and
sentence pairs (Off-Multi-120K), which go to OUTPUT/NAME_offline.jsonl. The rows name the languages, lengths are words
(or characters for languages without spaces), and --valid holds out source sentences with all their latency levels::

    python east_scripts/prepare_train_data.py --format east --pairs SiMT-Multi-90K.json --offline Off-Multi-120K.json \
        --name multi
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from corpus_options import (
    TOY,
    add_join,
    add_valid,
    clean_corpus,
    cleaning_of,
    corpus_parser,
    count_table,
    joined,
    run,
    write_datasets,
)

from simulmask_plugin.corpora import parallel_text as corpora
from simulmask_plugin.corpora.east_data import Example, Faults, clean_examples, read_offline, read_simt

PAIRS, EAST = "pairs", "east"


def main() -> None:
    """Runs the script."""
    parser = corpus_parser(__doc__)
    parser.add_argument("--format", choices=(PAIRS, EAST), default=PAIRS, help="of the input (default: %(default)s)")
    parser.add_argument("--offline", type=Path, help="with --format east: .json or .jsonl file of sentence pairs")
    parser.add_argument("--name", help="the data sets are NAME_train, NAME_valid (default: toy; east with that format)")
    parser.add_argument("--dataset-info", type=Path, help="default: dataset_info.json in the output folder")
    parser.add_argument("--source-lang", help="written as a column of every row, for prompts that name it")
    parser.add_argument("--target-lang", help="the same for the target")
    add_join(parser)
    add_valid(parser)
    run(parser, lambda options: prepare_east(options) if options.format == EAST else prepare(options))


def prepare(options: argparse.Namespace) -> str:
    """Writes the files and returns a report of what was kept and dropped."""
    if options.offline is not None:
        raise ValueError("--offline is for --format east; sentence pairs alone are read by --pairs.")
    kept, num_read, dropped = clean_corpus(options, default=TOY / "train.jsonl")
    train, valid = corpora.split_off(joined(options, kept), num_valid=options.valid, seed=options.seed)
    splits = {"train": train, "valid": valid} if valid else {"train": train}
    languages = {"source_lang": options.source_lang, "target_lang": options.target_lang}
    languages = {column: language for column, language in languages.items() if language is not None}
    name = options.name or "toy"
    datasets = {
        f"{name}_{split}": [{"source": pair.source, "target": pair.target, **languages} for pair in pairs]
        for split, pairs in splits.items()
    }
    written, for_the_yaml = write_datasets(options, datasets, held_out=f"{name}_valid")
    return f"{count_table(num_read, dropped, written)}\n{for_the_yaml}"


def prepare_east(options: argparse.Namespace) -> str:
    """Writes the published data of EAST and returns a report of what was kept and dropped."""
    _check_east(options)
    parts = {}
    accounts = []
    if options.pairs is not None:
        kept, account = _clean_east(options, options.pairs, read_simt)
        sentences = list(dict.fromkeys(example.pair.source for example in kept))
        held_out = set(corpora.split_off(sentences, num_valid=options.valid, seed=options.seed)[1])
        parts["train"] = [example for example in kept if example.pair.source not in held_out]
        if held_out:
            parts["valid"] = [example for example in kept if example.pair.source in held_out]
        accounts.append(account)
    if options.offline is not None:
        parts["offline"], account = _clean_east(options, options.offline, read_offline)
        accounts.append(account)
    name = options.name or EAST
    datasets = {f"{name}_{part}": [example.row for example in examples] for part, examples in parts.items()}
    written, for_the_yaml = write_datasets(options, datasets, held_out=f"{name}_valid")
    return "\n".join([*accounts, *(f"written: {file} {count:,}" for file, count in written.items()), for_the_yaml])


def _check_east(options: argparse.Namespace) -> None:
    if options.pairs is None and options.offline is None:
        raise ValueError(
            "--format east reads chunk pairs by --pairs, sentence pairs by --offline, or both; got neither."
        )
    if options.pairs is None and options.valid:
        raise ValueError("--valid holds out rows of --pairs; give --pairs or leave it out.")
    useless = "source target source_key target_key test_set lang_pair source_lang target_lang join".split()
    given = [f"--{name.replace('_', '-')}" for name in useless if vars(options)[name] is not None]
    given += [f"--{side}-unit" for side in ("source", "target") if vars(options)[f"{side}_unit"] != corpora.WORD]
    if given:
        raise ValueError(f"--format east takes languages and units from the rows; leave out {', '.join(given)}.")


def _clean_east(
    options: argparse.Namespace, path: Path, read: Callable[[Path], tuple[list[Example], Faults]]
) -> tuple[list[Example], str]:
    """Returns the examples to write and the report of the file."""
    examples, faults = read(path)
    kept, dropped = clean_examples(examples, cleaning_of(options))
    dropped = Counter({fault: len(places) for fault, places in faults.items()}) + dropped
    first = "; ".join(f"{fault}: {places[0]}" for fault, places in faults.items())
    if not kept:
        raise ValueError(f"No row of {path} is left; dropped: {dict(dropped)}. The first of each: {first or '(none)'}.")
    account = f"{path}\n{count_table(len(kept) + dropped.total(), dropped, {})}"
    return kept[: options.limit], f"{account}\nthe first of each: {first}" if first else account


if __name__ == "__main__":
    main()
