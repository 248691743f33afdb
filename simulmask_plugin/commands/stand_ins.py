"""Substitutes for a model, a tokenizer or data that a recipe names, to try the recipe without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from simulmask_plugin.attention.families import FAMILIES, family_of, tiny_model
from simulmask_plugin.commands.smoke_plan import ROWS, Replacement
from simulmask_plugin.commands.training_yaml import first_rows
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.corpora.bpe import train_tokenizer
from simulmask_plugin.corpora.dataset_info import Dataset, dataset_info_with
from simulmask_plugin.corpora.parallel_text import write_rows
from simulmask_plugin.files.atomic import write_text
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.files.loading import check_location, load_tokenizer
from simulmask_plugin.policies import FromColumn
from simulmask_plugin.text.prompts import LATENCIES
from simulmask_plugin.text.units import split_units

SENTENCES = (
    ("The old man reads a book .", "Der alte Mann liest ein Buch ."),
    ("Two dogs run over the grass .", "Zwei Hunde laufen über das Gras ."),
    ("She has bought bread today .", "Sie hat heute Brot gekauft ."),
    ("A child plays in the garden .", "Ein Kind spielt im Garten ."),
    ("We see the house on the hill .", "Wir sehen das Haus auf dem Hügel ."),
    ("The train leaves at nine .", "Der Zug fährt um neun ab ."),
    ("He does not know the way .", "Er kennt den Weg nicht ."),
    ("In the evening they sing songs .", "Am Abend singen sie Lieder ."),
)
"""Sentence pairs, where data is missing."""

VOCABULARY = 400
"""Tokens of a tokenizer that is trained on the spot."""

SPARE_TOKENS = 64
"""Rows of the embedding without a token, for those that a chat template adds."""

LENGTH = 2048
"""LLaMA-Factory's own cutoff_len."""

LENGTH_KEYS = ("max_position_embeddings", "max_seq_len", "sliding_window")
"""Keys of a configuration that bound the length of a text."""


def data(values: Mapping[str, Any], folder: Path) -> list[Replacement]:
    """Write sentences instead of the data of a training YAML, if any of it is missing; return what is replaced."""
    found = [name for name, file in _files(values).items() if file is None or file.exists()]
    missing = [name for name in _names(values) if name not in found]
    if not missing:
        return []
    folder.mkdir()
    write_data(folder, _names(values), SimulMaskConfig.from_dict(values["simulmask"]))
    why = f"not found: {', '.join(missing)}; {len(SENTENCES)} toy sentences are used instead"
    return [Replacement("dataset_dir", str(folder), why)]


def model(values: Mapping[str, Any], folder: Path) -> list[Replacement]:
    """Write a tiny random model instead of that of a training YAML, whose data exists; return what is replaced.

    Raises:
        ValueError: if the model's configuration is here, and of a family that is not supported.
    """
    path, config = values["model_name_or_path"], SimulMaskConfig.from_dict(values["simulmask"])
    family, tokenizer = family_of_path(path, config), find_tokenizer(path)
    origin = "with its tokenizer"
    if tokenizer is None:
        tokenizer = train_tokenizer(_texts(values), VOCABULARY)
        origin = "whose own tokenizer is not available: one is trained on the data"
    if config.layout.special_tokens and not values.get("add_special_tokens"):
        tokenizer.add_special_tokens({"additional_special_tokens": list(config.layout.special_tokens)})
    write_model(folder, family, tokenizer, length=values.get("cutoff_len", LENGTH))
    replaced = [Replacement("model_name_or_path", str(folder), f"--tiny: a random {family}, {origin}")]
    return [*replaced, Replacement("adapter_name_or_path", None, "an adapter of another model")]


def _names(values: Mapping[str, Any]) -> list[str]:
    """The data sets of a training YAML."""
    names = values.get("dataset") or []
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _files(values: Mapping[str, Any]) -> dict[str, Path | None]:
    """The file of each data set that dataset_info.json lists; None: it is on a hub."""
    info = Path(values.get("dataset_dir", "data"), "dataset_info.json")
    known = read_json(info) if info.is_file() else {}
    files = {name: known[name].get("file_name") for name in _names(values) if name in known}
    return {name: file and info.parent / file for name, file in files.items()}


def _texts(values: Mapping[str, Any]) -> list[str]:
    """Texts of the data of a training YAML."""
    rows = [first_rows(file, ROWS) for file in _files(values).values() if file is not None]
    return list(texts_in(rows or SENTENCES))


def write_data(folder: Path, names: Sequence[str], config: SimulMaskConfig) -> None:
    """Write the sentences as these data sets, with the columns that the block needs, and their dataset_info.json.

    In the layout ``interleaved`` the first data set has chunks, and what it may be mixed with comes whole.
    """
    datasets = {}
    for number, name in enumerate(names):
        in_chunks = config.layout.names_latency and number == 0
        rows = [_row(*pair, config, in_chunks=in_chunks) for pair in SENTENCES]
        file = folder / f"{name}.jsonl"
        write_rows(file, rows)
        datasets[name] = Dataset(file, list(rows[0]))
    info = folder / "dataset_info.json"
    write_text(info, dataset_info_with(info, datasets, overwrite=False))


def _row(source: str, target: str, config: SimulMaskConfig, *, in_chunks: bool) -> dict[str, Any]:
    """A row of data: plain, with a schedule (wait-1), or in two chunks."""
    if in_chunks:
        return {"source_chunks": _halves(source), "target_chunks": _halves(target), "latency": LATENCIES[0]}
    row: dict[str, Any] = {"source": source, "target": target}
    if config.policy is FromColumn:
        num_source, num_target = (
            len(split_units(text, unit))
            for text, unit in ((source, config.source_units), (target, config.target_units))
        )
        row["schedule"] = [min(t, num_source) for t in range(1, num_target + 2)]
    return row


def _halves(text: str) -> list[str]:
    """The text cut in two at a space, which stays before the second half."""
    words = text.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), f" {' '.join(words[middle:])}"]


def find_tokenizer(path: str) -> Any | None:
    """The tokenizer of a model, from this machine or from the hub; None: it is on neither."""
    try:
        check_location("model_name_or_path", path)
        return load_tokenizer(path)
    except (OSError, ValueError):  # neither here nor on the hub, or the hub cannot be reached
        return None


def family_of_path(path: str, config: SimulMaskConfig) -> str:
    """The family of the model that a recipe names, by its configuration if that is here, else by its name.

    Raises:
        ValueError: if the configuration is of a family that is not supported, or not in the table.
    """
    try:
        found = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # not here, or a folder without a config.json
        return guess_family(path, config)
    family = family_of(found)
    if not family.tried:
        raise ValueError(
            f"--tiny knows no shape for {path}, whose model type {family.name} is not in the table of families "
            "(docs/add-a-family.md); run the recipe on the model itself, without --tiny."
        )
    return family.name


def guess_family(path: str, config: SimulMaskConfig) -> str:
    """The family that a model's name names, or the folders before it; else one that has the positions of the block."""
    for text in (Path(path).name, path):
        named = [family for family in FAMILIES if _pattern(family).search(text.lower())]
        if named:
            return max(named, key=len)
    return "falcon" if config.layout.positions == "modified_alibi" else "llama"


def _pattern(family: str) -> re.Pattern[str]:
    """How a model's name begins with that of a family: gemma2 as gemma-2, but mpt not in the middle of prompt."""
    return re.compile("(?<![a-z])" + "[-_.]?".join(re.findall(r"[a-z]+|\d+", family)))


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in rows of data, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_in(list(value.values()))
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_in(inner)


def write_model(folder: Path, family: str, tokenizer: Any, *, length: int) -> None:
    """Write a tiny random model of a family, with this tokenizer, for sequences of so many tokens."""
    own = FAMILIES[family].tiny
    lengths = {key: max(own[key], length) for key in LENGTH_KEYS if key in own}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = tiny_model(family, len(tokenizer) + SPARE_TOKENS, 0, **lengths, **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
