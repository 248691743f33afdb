r"""Turns parallel text into training data of LLaMA-Factory (`formatting: simulmask`).

Reads two line-aligned files, TSV, JSON, JSONL, IWSLT files or a sacreBLEU test set, cleans the pairs, writes
OUTPUT/NAME_train.jsonl (and NAME_valid.jsonl) and adds their entries to a dataset_info.json::

    python east_scripts/prepare_train_data.py                    # the toy pair -> output/data/toy_train.jsonl
    python east_scripts/prepare_train_data.py my.yaml            # keys: the options below, with underscores
    python east_scripts/prepare_train_data.py --source train.de --target train.en --name multi30k_de_en \
        --source-lang German --target-lang English --max-units 100 --max-ratio 3 --drop-duplicates --valid 500
"""

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path

from corpus_options import TOY, clean_corpus, corpus_parser, count_table, run

from simulmask_plugin import corpora


def main() -> None:
    """Runs the script."""
    parser = corpus_parser(__doc__)
    parser.add_argument("--name", default="toy", help="the data sets are NAME_train, NAME_valid (default: toy)")
    parser.add_argument("--dataset-info", type=Path, help="default: dataset_info.json in the output folder")
    parser.add_argument("--source-lang", help="written as a column of every row, for prompts that name it")
    parser.add_argument("--target-lang", help="the same for the target")
    parser.add_argument("--valid", type=int, default=0, help="hold out this many pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --valid (default: %(default)s)")
    run(parser, prepare)


def prepare(options: argparse.Namespace) -> str:
    """Writes the files and returns the account of what was kept and dropped."""
    kept, num_read, dropped = clean_corpus(options, default=TOY / "train.jsonl")
    train, valid = corpora.split_off(kept, num_valid=options.valid, seed=options.seed)
    splits = {"train": train, "valid": valid} if valid else {"train": train}
    files = {f"{options.name}_{split}": options.output / f"{options.name}_{split}.jsonl" for split in splits}
    languages = {"source_lang": options.source_lang, "target_lang": options.target_lang}
    languages = {column: language for column, language in languages.items() if language is not None}

    # Everything that can be refused is refused before the first file is written.
    corpora.check_absent(files.values(), overwrite=options.overwrite)
    dataset_info = options.dataset_info or options.output / "dataset_info.json"
    entries = dataset_info_with(
        dataset_info, files, columns=["source", "target", *languages], overwrite=options.overwrite
    )
    for file, pairs in zip(files.values(), splits.values(), strict=True):
        corpora.write_jsonl(file, pairs, languages=languages)
    corpora.write_lines(dataset_info, [entries])

    written = {str(file): len(pairs) for file, pairs in zip(files.values(), splits.values(), strict=True)}
    return (
        f"{count_table(num_read, dropped, written)}\n"
        f"For the training YAML: dataset_dir: {dataset_info.parent}, dataset: {','.join(files)}"
    )


def dataset_info_with(dataset_info: Path, files: dict[str, Path], *, columns: Iterable[str], overwrite: bool) -> str:
    """Returns the text of a dataset_info.json of LLaMA-Factory with `formatting: simulmask` entries added.

    Args:
        dataset_info: the file, which need not exist; its folder is the ``dataset_dir`` of the training YAML.
        files: name of the dataset -> its JSONL file.
        columns: the columns that the rows of the files have.
        overwrite: whether an entry of the same name may be replaced by a different one.

    Raises:
        ValueError: the file is not a JSON object, or has an entry of that name which differs.
    """
    known = {}
    if dataset_info.exists():
        try:
            known = json.loads(dataset_info.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{dataset_info}: expected JSON, got: {error}.") from error
        if not isinstance(known, dict):
            raise ValueError(f"{dataset_info}: expected a JSON object, got {type(known).__name__}.")
    for name, file in files.items():
        entry = {
            "file_name": Path(os.path.relpath(file, dataset_info.parent)).as_posix(),
            "formatting": "simulmask",
            "columns": {column: column for column in columns},
        }
        if known.get(name, entry) != entry and not overwrite:
            raise ValueError(
                f"{dataset_info} has another dataset named {name!r}: {json.dumps(known[name])}; choose "
                "another --name or give --overwrite."
            )
        known[name] = entry
    return json.dumps(known, ensure_ascii=False, indent=2)


if __name__ == "__main__":
    main()
