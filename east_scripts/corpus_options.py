"""The options that the preparation scripts share, on the command line or in a YAML."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulmask_plugin.corpora import parallel_text as corpora
from simulmask_plugin.corpora.dataset_info import Dataset, dataset_info_with
from simulmask_plugin.options import KINDS, check_known, check_name, read_yaml

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

TOY = Path(__file__).resolve().parents[1] / "data" / "toy"


def corpus_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser for what to read, how to clean it and where to write it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", nargs="?", type=Path, help="YAML whose keys are these options")

    what = parser.add_argument_group("what to read: --source and --target, --pairs, or --test-set and --lang-pair")
    what.add_argument("--source", type=Path, help="line-aligned text, IWSLT .xml or train.tags.* file")
    what.add_argument("--target", type=Path, help="its translation, in the same format")
    what.add_argument("--pairs", type=Path, help="one .tsv, .json or .jsonl file with both sides")
    what.add_argument("--source-key", help="key or column of the source in --pairs (default: source; 1 in a TSV)")
    what.add_argument("--target-key", help="key or column of the target in --pairs (default: target; 2 in a TSV)")
    what.add_argument("--test-set", help="name of a sacreBLEU test set, such as wmt15")
    what.add_argument("--lang-pair", help="its languages, such as de-en")

    how = parser.add_argument_group("cleaning: a pair with an empty side is always dropped")
    how.add_argument("--source-unit", choices=corpora.UNITS, default=corpora.WORD, help="default: %(default)s")
    how.add_argument("--target-unit", choices=corpora.UNITS, default=corpora.WORD, help="default: %(default)s")
    how.add_argument("--max-units", type=int, help="drop pairs with a side longer than this")
    how.add_argument("--max-ratio", type=float, help="drop pairs with longer side / shorter side above this")
    how.add_argument("--drop-identical", action="store_true", help="drop pairs whose sides are the same")
    how.add_argument("--drop-duplicates", action="store_true", help="keep only the first of equal pairs")
    how.add_argument("--limit", type=int, help="keep the first LIMIT of the remaining pairs")

    where = parser.add_argument_group("output")
    where.add_argument("--output", type=Path, default=Path("output/data"), help="folder (default: %(default)s)")
    where.add_argument("--overwrite", action="store_true", help="replace existing files and entries")
    return parser


def run(parser: argparse.ArgumentParser, prepare: Callable[[argparse.Namespace], str]) -> None:
    """Parses the options and prints what `prepare` returns; a user error ends in one line without traceback."""
    try:
        options = _parse(parser, sys.argv[1:])
        if options.limit is not None and options.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {options.limit}.")
        if options.name is not None:
            check_name("--name", options.name)
        print(prepare(options))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; a file is written whole or not at all.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def read_corpus(options: argparse.Namespace, *, default: Path) -> Iterator[corpora.Pair]:
    """Yields the pairs named by the options, before any cleaning."""
    groups = [("source", "target"), ("pairs",), ("test_set", "lang_pair")]
    given = [group for group in groups if any(vars(options)[name] is not None for name in group)]
    if len(given) > 1 or any(vars(options)[name] is None for group in given for name in group):
        raise ValueError("Expected --source and --target, or --pairs, or --test-set and --lang-pair, and no other.")
    if given == [groups[0]]:
        return corpora.read_aligned(options.source, options.target)
    if given == [groups[2]]:
        return corpora.read_test_set(options.test_set, options.lang_pair)
    return corpora.read_pairs(options.pairs or default, source_key=options.source_key, target_key=options.target_key)


def cleaning_of(options: argparse.Namespace) -> corpora.Cleaning:
    """Returns the cleaning set by the options."""
    return corpora.Cleaning(
        source_unit=options.source_unit,
        target_unit=options.target_unit,
        max_units=options.max_units,
        max_ratio=options.max_ratio,
        drop_identical=options.drop_identical,
        drop_duplicates=options.drop_duplicates,
    )


def clean_corpus(
    options: argparse.Namespace, *, default: Path, keep_spacing: bool = False
) -> tuple[list[corpora.Pair], int, Counter[str]]:
    """Returns the pairs to write, the number of pairs read and the dropped ones by reason.

    Args:
        options: what `corpus_parser` parsed.
        default: the file of pairs that is read if the options name none.
        keep_spacing: whether to keep white space inside a text; else every run of it becomes one space.
    """
    pairs, cleaning = list(read_corpus(options, default=default)), cleaning_of(options)
    kept, dropped = corpora.clean(pairs, replace(cleaning, keep_spacing=keep_spacing))
    num_read = len(kept) + dropped.total()
    if num_read == 0:
        raise ValueError("Expected pairs to prepare, got an input without any; check its path and its format.")
    if not kept:
        raise ValueError(f"No pair is left of {num_read} read; dropped: {dict(dropped)}. Loosen the cleaning.")
    num_odd = sum(corpora.has_odd_space(pair.source) or corpora.has_odd_space(pair.target) for pair in pairs)
    if num_odd:
        print(f"no-break or other white space, which becomes a plain space: {num_odd:,} of {num_read:,} pairs")
    return kept[: options.limit], num_read, dropped


def count_table(num_read: int, dropped: Counter[str], written: dict[str, int]) -> str:
    """Returns the report of a preparation: what was read, dropped by reason, and written by file."""
    rows = {"read": num_read}
    rows |= {f"dropped: {reason}": dropped[reason] for reason in dict.fromkeys([*corpora.DROP_REASONS, *dropped])}
    rows |= {f"written: {name}": count for name, count in written.items()}
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}} {count:>9,}" for name, count in rows.items())


def add_valid(parser: argparse.ArgumentParser) -> None:
    """Adds the options for held-out pairs."""
    parser.add_argument("--valid", type=int, default=0, help="hold out this many pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw for --valid (default: %(default)s)")


def add_join(parser: argparse.ArgumentParser) -> None:
    """Adds the option that makes long pairs."""
    parser.add_argument(
        "--join",
        type=_sizes,
        metavar="N-M",
        help="make one pair of N, N + 1, ..., M, N, ... that follow each other; or of N",
    )


def joined(options: argparse.Namespace, pairs: list[corpora.Pair]) -> list[corpora.Pair]:
    """Returns the pairs, joined as `--join` says."""
    if options.join is None:
        return pairs
    return corpora.join_pairs(pairs, options.join, options.source_unit, options.target_unit)


def _sizes(text: str) -> range:
    """Reads "3" or "2-4"."""
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(map(str.isdecimal, ends)) or not 1 <= int(ends[0]) <= int(ends[1]):
        raise argparse.ArgumentTypeError(f"expected N, or N-M with 1 <= N <= M, got {text!r}")
    return range(int(ends[0]), int(ends[1]) + 1)


def write_datasets(
    options: argparse.Namespace, datasets: dict[str, list[dict[str, Any]]], *, held_out: str
) -> tuple[dict[str, int], str]:
    """Writes each dataset (name -> rows, one or more, all with the same columns) and its entry in dataset_info.json.

    Args:
        options: what `corpus_parser` parsed, and `dataset_info`.
        datasets: by name.
        held_out: name of the dataset, if it is there, that is not for training.

    Returns:
        the number of rows by file, and what to write into the training YAML.
    """
    files = {name: options.output / f"{name}.jsonl" for name in datasets}
    dataset_info = options.dataset_info or options.output / "dataset_info.json"
    # All checks come before the first file is written.
    corpora.check_absent(files.values(), overwrite=options.overwrite)
    columns = {name: Dataset(files[name], list(rows[0])) for name, rows in datasets.items()}
    entries = dataset_info_with(dataset_info, columns, overwrite=options.overwrite)
    for name, rows in datasets.items():
        corpora.write_rows(files[name], rows)
    corpora.write_lines(dataset_info, [entries])
    keys = {"dataset_dir": dataset_info.parent, "dataset": ",".join(name for name in datasets if name != held_out)}
    if held_out in datasets:
        keys |= {"eval_dataset": held_out, "eval_strategy": "epoch  # or steps, and eval_steps"}
    return (
        {str(files[name]): len(rows) for name, rows in datasets.items()},
        "\n".join(["For the training YAML:", *(f"  {key}: {value}" for key, value in keys.items())]),
    )


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Returns the options; those of the YAML come first, so that the command line takes precedence."""
    options = parser.parse_args(argv)
    return options if options.config is None else parser.parse_args([*_yaml_arguments(parser, options.config), *argv])


def _yaml_arguments(parser: argparse.ArgumentParser, config: Path) -> list[str]:
    """Returns the YAML as command line options, so that both are checked by the same parser."""
    if not config.is_file():
        raise FileNotFoundError(f"No such file: {config}; the one positional argument is a YAML with the options.")
    known = vars(parser.parse_args([]))
    del known["config"]
    arguments = []
    values = read_yaml(config, [])
    check_known(values, known, f"{config}: ")
    for key, value in values.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(known[key], bool):
            KINDS[bool].check(f"{config}: {key}", value)
            arguments += [option] * value
        elif value is not None:  # an empty key is its default
            arguments.append(f"{option}={value}")
    return arguments
