"""The path of rows through LLaMA-Factory's loader: our columns, checked, then our features."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

from simulmask_plugin.batches.features import FEATURE_COLUMNS, ExampleEncoder, Row, features_of, longest_layout, row_of
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.files.texts import is_blank
from simulmask_plugin.text.prompts import LATENCIES, OFFLINE_LATENCY
from simulmask_plugin.text.units import NotEncodable
from simulmask_plugin.training.data_files import check_file, check_rows, files_of

FORMATTING = "simulmask"
COLUMNS = ("source", "target", "source_lang", "target_lang", "schedule", "source_chunks", "target_chunks", "latency")
PROMPTS = "prompts"
"""Additional column: what the prompts name (`prompt_key`) of the rows that begin with this feature.

A row belongs to its first feature: its first prefix pair, or in flat data the first sequence of a batch.
"""

FEATURE_CODE = (
    *("options.py", "training/dataset.py"),
    *(f"{room}/**/*.py" for room in ("files", "text", "policies", "layouts", "config", "batches")),
)
"""The code of the package that makes features."""

SLICE = 100_000
"""Number of values of a column that are in memory at once."""


def load_dataset(load: Callable[..., Any], dataset_attr: Any, model_args: Any, data_args: Any, *args: Any) -> Any:
    """Load one dataset; name file and line if it cannot be read, or would be misread."""
    from datasets.exceptions import DatasetGenerationError

    path = Path(str(data_args.dataset_dir), str(dataset_attr.dataset_name))
    files = files_of(path) if dataset_attr.load_from == "file" else []
    for file in files:
        check_file(file)
    try:
        return load(dataset_attr, model_args, data_args, *args)
    except DatasetGenerationError as error:
        for file in files:
            check_rows(file)
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error


def align_dataset(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
    """Bring a dataset of ``formatting: simulmask`` to our own columns.

    Raises:
        ValueError: for another formatting, or a column that the data does not have.
    """
    if dataset_attr.formatting != FORMATTING:
        raise ValueError(
            f"Dataset {dataset_attr.dataset_name} has formatting: {dataset_attr.formatting}; with the simulmask: block "
            "every dataset needs formatting: simulmask with the columns source and target (dataset_info.json)."
        )
    columns = dataset_attr.simulmask_columns
    for name, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"Dataset {dataset_attr.dataset_name}: column {column!r} ({name}) is missing; "
                f"the data has {', '.join(dataset.column_names)}."
            )
    return dataset.map(
        partial(convert_row, columns=columns, name=dataset_attr.dataset_name),
        with_indices=True,
        remove_columns=dataset.column_names,
        num_proc=data_args.preprocessing_num_workers,
        load_from_cache_file=(not data_args.overwrite_cache) or (training_args.local_process_index != 0),
        desc="Converting format of dataset",
        # Rows of an earlier run must not be reused after a change of code or columns, which datasets does not check.
        new_fingerprint=digest(dataset._fingerprint, dict(columns), dataset_attr.dataset_name, code_digest())[:32],
    )


def convert_row(row: Mapping[str, Any], index: int, *, columns: Mapping[str, str], name: str) -> dict[str, Any]:
    """Take our columns from one row, and remember its place for messages."""
    values: dict[str, Any] = {column: None for column in COLUMNS} | {key: row[c] for key, c in columns.items()}
    where = f"Dataset {name}, example {index + 1}"
    for side in ("source", "target"):
        key = f"{side}_chunks" if f"{side}_chunks" in columns else side
        if key != side and isinstance(values[key], str):
            raise ValueError(
                f"{where}: {key} must be a list of texts, got {values[key]!r}; use JSON or Parquet, CSV has no lists."
            )
        text = "".join(values[key] or []) if key != side else values[key]
        if not isinstance(text, str) or is_blank(text):
            raise ValueError(f"{where}: the {side} is empty ({values[key]!r}).")
        if "\0" in text:
            raise ValueError(f"{where}: the {side} contains NUL, which no text does ({values[key]!r}).")
        if not isinstance(values[f"{side}_lang"], str | None):
            raise ValueError(f"{where}: {side}_lang must be a text, got {values[f'{side}_lang']!r}.")
    return {f"_{key}": value for key, value in values.items()} | {
        "_schedule": parse_schedule(values["schedule"], where),
        "_where": where,
    }


def parse_schedule(value: Any, where: str) -> list[int] | None:
    """Return g(1..T) from a list, or from text such as "1 2 4" or "[1, 2, 4]" (CSV has no lists)."""
    if value is None or isinstance(value, list):
        return value
    numbers = str(value).strip("[] ").replace(",", " ").split()
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{where}: the schedule must be a list of integers, got {value!r}.")
    return [int(number) for number in numbers]


class SimulMaskDatasetProcessor:
    """Replaces LLaMA-Factory's SupervisedDatasetProcessor: rows to tokenized examples."""

    def __init__(self, tokenizer: Any, settings: ModelSettings, cutoff_len: int) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.cutoff_len = cutoff_len
        # Part of the fingerprint of the map cache, so that a change of code or block never meets stale features.
        self.fingerprint = digest(settings.content(), code_digest())

    def __getstate__(self) -> dict[str, Any]:
        """Drop the encoder, whose caches must not reach other processes or the fingerprint."""
        return {name: value for name, value in vars(self).items() if name != "encoder"}

    @cached_property
    def encoder(self) -> ExampleEncoder:
        """Made once, not for every batch, since it reads the whole vocabulary."""
        return ExampleEncoder(self.tokenizer, self.settings)

    def preprocess_dataset(self, examples: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Encode a batch of rows; the caller counts what is dropped: not encodable, or longer than cutoff_len."""
        features: dict[str, list[Any]] = {column: [] for column in (*FEATURE_COLUMNS, PROMPTS)}
        for feature in self.encode(examples):
            for column, values in features.items():
                values.append(feature[column])
        return features

    def encode(self, examples: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
        """Yield the features of rows that can be encoded and are not too long; all features of a row or none."""
        config = self.settings.config
        for values in zip(*(examples[f"_{column}"] for column in (*COLUMNS, "where")), strict=True):
            *columns, where = values
            try:
                row = row_of(dict(zip(COLUMNS, columns, strict=True)), config)
                features = features_of(self.encoder.encode(row), row.schedule, config)
            except NotEncodable:
                continue  # `refused` says why
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if longest_layout(config, features[-1]) <= self.cutoff_len:
                prompts = [prompt_key(row, self.settings)]
                yield from ({**feature, PROMPTS: [] if place else prompts} for place, feature in enumerate(features))

    def refused(self, examples: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """Yield, for every row that cannot be encoded, its place and the reason."""
        for values in examples:
            row = row_of({column: values[f"_{column}"] for column in COLUMNS}, self.settings.config)
            try:
                self.encoder.encode(row)
            except NotEncodable as error:
                yield f"{values['_where']}: {error}"

    def print_data_example(self, example: Mapping[str, Any]) -> None:
        """Print one example, as LLaMA-Factory does."""
        ids = example["input_ids"]
        print(f"input_ids:\n{ids}\ninputs:\n{self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)}")


def prompt_key(row: Row, settings: ModelSettings) -> str:
    """What the prompt of a row names, as a text."""
    latency = (row.latency or OFFLINE_LATENCY) if settings.config.layout.names_latency else None
    return json.dumps([*settings.pair(row.source_lang, row.target_lang), latency], ensure_ascii=False)


def count_prompts(features: Mapping[str, Any]) -> Counter[str]:
    """Number of rows that these features were made from, by what their prompts name."""
    column = features[PROMPTS]
    slices = (column[start : start + SLICE] for start in range(0, len(column), SLICE))  # single items would be slow
    return Counter(chain.from_iterable(chain.from_iterable(slices)))


def trained_on(prompts: Iterable[str]) -> TrainedOn:
    """Collect what the prompts of rows name, see `prompt_key`; independent of the order of rows."""
    named = [json.loads(key) for key in set(prompts)]
    latencies = {latency for _, _, latency in named}
    return TrainedOn(
        language_pairs=tuple(sorted({(source_lang, target_lang) for source_lang, target_lang, _ in named})),
        latencies=tuple(latency for latency in (*LATENCIES, OFFLINE_LATENCY) if latency in latencies),
    )


def digest(*values: Any) -> str:
    """Hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Hash of the code that makes features: when it changes, a cached data set is tokenized again."""
    sources = sorted(path for place in FEATURE_CODE for path in package.glob(place))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
