"""A training YAML as LLaMA-Factory reads it, with its tokenizer and configuration, but without weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from simulmask_plugin.batches.features import Row, row_of
from simulmask_plugin.commands.env import check_hook
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.loading import check_location
from simulmask_plugin.options import read_yaml
from simulmask_plugin.training import llamafactory_seams as factory
from simulmask_plugin.training.arguments import attention_of
from simulmask_plugin.training.data_files import check_file, check_rows
from simulmask_plugin.training.dataset import COLUMNS, SimulMaskDatasetProcessor, align_dataset, count_prompts
from simulmask_plugin.training.stream_eval import StreamEval

FIRST_ROWS = 100
"""Rows read of each data set."""

ANY_MACHINE: Mapping[str, Any] = {"use_cpu": True, "deepspeed": None, "tf32": None, "pure_bf16": False}
"""Values of the keys that LLaMA-Factory's parser checks against the machine it runs on."""
ANY_OUTPUT: Mapping[str, Any] = {"overwrite_output_dir": True}
"""For commands that only look: the training may have been run already."""

FILE_TYPES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """A training YAML as LLaMA-Factory parses it, with everything it names except weights and data."""

    settings: ModelSettings
    tokenizer: Any
    model_config: Any
    deepspeed: str | dict[str, Any] | None
    model_args: Any
    data_args: Any
    training_args: Any
    finetuning_args: Any

    @property
    def attention(self) -> str:
        """The attention implementation that training will use."""
        return attention_of(self.model_config, self.model_args.flash_attn)

    @property
    def stream_eval(self) -> StreamEval | None:
        """What it streams whenever it evaluates."""
        return StreamEval.of_block(self.finetuning_args.simulmask)


@dataclass(frozen=True, slots=True)
class DataSample:
    """The content of the first rows of a data set.

    Attributes:
        name: the data set's file.
        columns: our name and the data's name of each column.
        num_rows: rows that were read.
        num_kept: those of them that fit into cutoff_len.
        longest: tokens of the longest kept one, without look-ahead rows.
        first: the first row.
        refused: which rows cannot be encoded, and why.
    """

    name: str
    columns: Mapping[str, str]
    num_rows: int
    num_kept: int
    longest: int
    first: Row
    refused: tuple[str, ...]


def is_training(values: Mapping[str, Any]) -> bool:
    """Whether a YAML is for LLaMA-Factory's training, and not for `simulmask eval`."""
    return "stage" in values or "simulmask" in values and "policies" not in values


def load_training(path: str, overrides: list[str], *, to_run: bool = True) -> TrainingSetup:
    """Parse a training YAML with LLaMA-Factory's own parser; load model configuration, tokenizer and prompt.

    Args:
        path: of the YAML.
        overrides: ``key=value``.
        to_run: whether it has to be ready to run; if not, its output may exist.

    Raises:
        ValueError: saying what is wrong.
    """
    values = read_yaml(path, overrides)
    if not is_training(values):
        raise ValueError(f"{path} is no training YAML; expected one with stage: sft and a simulmask: block.")
    check_hook()
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    *arguments, _ = factory.training_arguments({**values, **ANY_MACHINE, **({} if to_run else ANY_OUTPUT)})
    model_args, data_args, _, finetuning_args = arguments
    if finetuning_args.simulmask is None:
        raise ValueError(f"{path} has no simulmask: block, so that the plugin would take no part in the training.")
    config = SimulMaskConfig.from_dict(finetuning_args.simulmask)
    model_config = _model_config(model_args)
    tokenizer, settings = factory.tokenizer_and_settings(config, model_args, data_args)
    return TrainingSetup(settings, tokenizer, model_config, values.get("deepspeed"), *arguments)


def _model_config(model_args: Any) -> Any:
    """The configuration of the model that the YAML names, whose adapters must exist."""
    from transformers import AutoConfig

    for adapter in model_args.adapter_name_or_path or []:
        check_location("adapter_name_or_path", adapter)
    path = model_args.model_name_or_path
    check_location("model_name_or_path", path)
    try:
        return AutoConfig.from_pretrained(
            path,
            trust_remote_code=model_args.trust_remote_code,
            cache_dir=model_args.cache_dir,
            revision=model_args.model_revision,
            token=model_args.hf_hub_token,
        )
    except OSError as error:
        raise ValueError(
            f"model_name_or_path: {path} is neither a folder with a config.json nor found on the hub: {error}"
        ) from error


def read_data(setup: TrainingSetup, num_rows: int = FIRST_ROWS) -> list[DataSample]:
    """Encode the first rows of every local data set that the YAML names, as training would.

    Raises:
        ValueError: if dataset_info.json, a file, a column or a row is wrong.
    """
    samples = [_sample(setup, entry, aligned) for entry, aligned in _local(setup, num_rows)]
    if not samples:
        entries = factory.dataset_entries(setup.data_args)
        raise ValueError(f"No local data set to read; dataset: names {', '.join(map(str, entries)) or 'none'}.")
    return samples


def read_rows(setup: TrainingSetup, num_rows: int) -> list[Row]:
    """Return the first rows of the first local data set that the YAML names; none if all are on a hub.

    Raises:
        ValueError: if dataset_info.json, a file, a column or a row is wrong.
    """
    for _, aligned in _local(setup, num_rows):
        return [_row(setup, row) for row in aligned]
    return []


def _local(setup: TrainingSetup, num_rows: int) -> Iterator[tuple[Any, Any]]:
    """Yield LLaMA-Factory's entry of every local data set, and its first rows with our columns."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    for entry in factory.dataset_entries(setup.data_args):
        if entry.load_from == "file":
            rows = first_rows(Path(setup.data_args.dataset_dir, entry.dataset_name), num_rows)
            yield entry, align_dataset(Dataset.from_list(rows), entry, setup.data_args, setup.training_args)


def _row(setup: TrainingSetup, aligned: Mapping[str, Any]) -> Row:
    return row_of({column: aligned[f"_{column}"] for column in COLUMNS}, setup.settings.config)


def _sample(setup: TrainingSetup, entry: Any, aligned: Any) -> DataSample:
    processor = SimulMaskDatasetProcessor(setup.tokenizer, setup.settings, setup.data_args.cutoff_len)
    features = processor.preprocess_dataset(aligned[:])
    lengths = [len(ids) for ids in features["input_ids"]]
    if not lengths:
        raise ValueError(
            f"Dataset {entry.dataset_name}: each of the first {len(aligned)} examples is longer than cutoff_len "
            f"{setup.data_args.cutoff_len}, or cannot be encoded, and would be dropped; raise cutoff_len."
        )
    return DataSample(
        name=entry.dataset_name,
        columns=entry.simulmask_columns,
        num_rows=len(aligned),
        num_kept=count_prompts(features).total(),
        refused=tuple(processor.refused(aligned)),
        longest=max(lengths),
        first=_row(setup, aligned[0]),
    )


def first_rows(path: Path, num_rows: int) -> list[dict[str, Any]]:
    """The first rows of a file, or of the first file of a folder, without reading the rest."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    if path.is_dir():
        path = min(path.iterdir())
    if not path.is_file():
        raise ValueError(f"{path}: no such file; see file_name in dataset_info.json, relative to dataset_dir.")
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{path}: unknown file type; expected {', '.join(FILE_TYPES)}.")
    check_file(path)
    check_rows(path, num_rows)
    stream = load_dataset(FILE_TYPES[path.suffix], data_files=str(path), split="train", streaming=True)
    try:
        rows = list(islice(stream, num_rows))
    except (ValueError, DatasetGenerationError) as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    if not rows:
        raise ValueError(f"{path} holds no rows.")
    return rows
