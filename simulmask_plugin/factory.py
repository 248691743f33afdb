"""Where the plugin meets LLaMA-Factory (0.9.5, unmodified); the only module that knows it.

The start-up hook calls the four ``extend_*`` functions right after LLaMA-Factory has imported the module each is named
for. Without a ``simulmask:`` block nothing below changes what LLaMA-Factory does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from simulmask_plugin import __version__
from simulmask_plugin.config import FILE_NAME, ModelSettings, SimulMaskConfig
from simulmask_plugin.policies import SCHEDULE
from simulmask_plugin.prompts import Prompt, escape, plain_prompt

FORMATTING = "simulmask"
COLUMNS = ("source", "target", "source_lang", "target_lang", "schedule")
SENTINEL = "\N{OBJECT REPLACEMENT CHARACTER}"


def extend_parser(parser: ModuleType) -> None:
    """llamafactory.hparams.parser: accept the ``simulmask:`` block, and refuse to resume a run silently."""
    stock = parser.FinetuningArguments

    @dataclass
    class SimulMaskFinetuningArguments(stock):  # type: ignore[valid-type, misc]
        simulmask: dict | str | None = field(
            default=None, metadata={"help": "Policy-aware fine-tuning for simultaneous translation; see README."}
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if isinstance(self.simulmask, str):
                self.simulmask = json.loads(self.simulmask)
            if self.simulmask is not None:
                SimulMaskConfig.from_dict(cast("dict[str, Any]", self.simulmask))
                if self.stage != "sft":
                    raise ValueError(f"The simulmask: block needs stage: sft, got stage: {self.stage}.")

    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        entries = _seam(parser, name)
        entries[:] = [SimulMaskFinetuningArguments if entry is stock else entry for entry in entries]

    parse = _seam(parser, "_parse_train_args")

    @wraps(parse)
    def parse_and_check(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        model_args, data_args, training_args, finetuning_args, _ = parsed
        if finetuning_args.simulmask is not None:
            _check_arguments(model_args, data_args, training_args, finetuning_args)
        return parsed

    _replace(parser, "_parse_train_args", parse_and_check)


def _check_arguments(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Refuse what cannot work together with the block, before anything is loaded or written."""
    attention = model_args.flash_attn
    refused = {
        f"flash_attn: {attention}": (attention in ("fa2", "fa3"), "set flash_attn: sdpa (or disabled, that is eager)"),
        "packing": (data_args.packing or data_args.neat_packing, "set packing: false and neat_packing: false"),
        "streaming": (data_args.streaming, "set streaming: false; the data is read from disk, memory-mapped"),
        "predict_with_generate": (training_args.predict_with_generate, "use `simulmask eval` (SimulEval) instead"),
        "tokenized_path": (data_args.tokenized_path is not None, "remove it; the map cache does its work"),
        "train_on_prompt": (data_args.train_on_prompt, "remove it; the loss is on the target and end of sentence"),
    }
    for key, (is_set, remedy) in refused.items():
        if is_set:
            raise ValueError(f"{key} does not work with the simulmask: block; {remedy}.")
    for key in ("use_asft_loss", "use_mca", "use_hyper_parallel"):
        if getattr(finetuning_args, key):
            raise ValueError(f"{key} does not work with the simulmask: block; remove it.")
    output = Path(training_args.output_dir)
    if (
        training_args.do_train
        and training_args.resume_from_checkpoint is None
        and not training_args.overwrite_output_dir
        and (any(output.glob("checkpoint-*")) or (output / FILE_NAME).exists())
    ):
        raise ValueError(
            f"output_dir {output} already holds a run. To go on with it set resume_from_checkpoint: "
            f"{output}/checkpoint-N; to start again set overwrite_output_dir: true; or take another output_dir."
        )


def extend_launcher(launcher: ModuleType) -> None:
    """llamafactory.launcher: say what is wrong with a path that torchrun's re-launch would cut at its spaces."""
    launch = _seam(launcher, "launch")

    @wraps(launch)
    def launch_and_check() -> Any:
        spaced = [argument for argument in sys.argv[2:] if any(c.isspace() for c in argument)]
        if sys.argv[1:2] == ["train"] and spaced:
            from llamafactory.extras.misc import get_device_count, is_env_enabled

            if is_env_enabled("FORCE_TORCHRUN") or get_device_count() > 1:
                raise ValueError(
                    f"The argument {spaced[0]!r} contains white space, at which LLaMA-Factory cuts the command that "
                    "it gives to torchrun; rename the file or call it by a path without white space."
                )
        return launch()

    _replace(launcher, "launch", launch_and_check)


def extend_workflow(workflow: ModuleType) -> None:
    """llamafactory.train.sft.workflow: with the block, train on our dataset, collator and trainer."""
    from llamafactory.data import converter, parser

    run_sft = _seam(workflow, "run_sft")
    _carry_columns(_seam(parser, "DatasetAttr"))
    _seam(converter, "DATASET_CONVERTERS")[FORMATTING] = _refuse_without_block

    @wraps(run_sft)
    def run_simulmask(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if getattr(finetuning_args, "simulmask", None) is None:
            return run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        config = SimulMaskConfig.from_dict(finetuning_args.simulmask)
        with _seams_replaced(workflow, config, training_args.seed):
            return run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)

    _replace(workflow, "run_sft", run_simulmask)


def extend_tuner(tuner: ModuleType) -> None:
    """llamafactory.train.tuner: an exported (merged) model carries the simulmask.json of what it was made from."""
    export = _seam(tuner, "export_model")

    @wraps(export)
    def export_with_settings(args: dict[str, Any] | None = None) -> None:
        args = tuner.read_args(args)
        export(args)
        model_args, *_ = tuner.get_infer_args(args)
        origins = [*reversed(model_args.adapter_name_or_path or []), model_args.model_name_or_path]
        for origin in origins:
            if Path(origin, FILE_NAME).is_file():
                ModelSettings.load(origin).save(model_args.export_dir)
                return

    _replace(tuner, "export_model", export_with_settings)


def _seam(module: ModuleType, name: str) -> Any:
    """Return a member of LLaMA-Factory that the plugin builds on."""
    try:
        return vars(module)[name]
    except KeyError:
        from importlib.metadata import version

        raise RuntimeError(
            f"llamafactory {version('llamafactory')} has no {module.__name__}.{name}, which simulmask_plugin "
            f"{__version__} builds on (it was made for llamafactory 0.9.5); install that version, or set "
            "SIMULMASK_PLUGIN=0 to run without the plugin."
        ) from None


def _replace(module: ModuleType, name: str, replacement: Any) -> None:
    vars(module)[name] = replacement


def _carry_columns(dataset_attr: type) -> None:
    """Let DatasetAttr keep the columns of ``formatting: simulmask``; it drops the names that it does not know."""
    join = dataset_attr.join  # type: ignore[attr-defined]

    @wraps(join)
    def join_with_columns(self: Any, attr: dict[str, Any]) -> None:
        join(self, attr)
        if self.formatting == FORMATTING:
            columns = attr.get("columns", {})
            for column in columns:
                if column not in COLUMNS:
                    raise ValueError(
                        f"dataset_info.json, {self.dataset_name}: unknown column {column!r}; "
                        f"formatting simulmask knows {', '.join(COLUMNS)}."
                    )
            self.simulmask_columns = {"source": "source", "target": "target"} | columns

    dataset_attr.join = join_with_columns  # type: ignore[attr-defined]


def _refuse_without_block(dataset_attr: Any, data_args: Any) -> Any:
    raise ValueError(
        f"Dataset {dataset_attr.dataset_name} has formatting: simulmask, which needs a `simulmask:` block in the YAML."
    )


@contextmanager
def _seams_replaced(workflow: ModuleType, config: SimulMaskConfig, seed: int) -> Iterator[None]:
    """Swap in our pieces while run_sft runs; everything is put back at its end."""
    from llamafactory.data import loader

    from simulmask_plugin.collator import SimulMaskCollator
    from simulmask_plugin.families import check_attention, check_length
    from simulmask_plugin.trainer import SimulMaskTrainer

    settings: list[ModelSettings] = []  # known once LLaMA-Factory has made tokenizer and template

    def get_dataset(template: Any, model_args: Any, data_args: Any, *args: Any, tokenizer: Any, **kwargs: Any) -> Any:
        settings.append(ModelSettings(config, resolve_prompt(config, template, tokenizer)))
        return stock_get_dataset(template, model_args, data_args, *args, tokenizer=tokenizer, **kwargs)

    def processor(template: Any, tokenizer: Any, data_args: Any, **kwargs: Any) -> SimulMaskDatasetProcessor:
        return SimulMaskDatasetProcessor(tokenizer, settings[0], data_args.cutoff_len)

    def collator(*, model: Any, tokenizer: Any, pad_to_multiple_of: int | None, **kwargs: Any) -> SimulMaskCollator:
        return SimulMaskCollator(
            settings[0], pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of, seed=seed
        )

    def load_model(tokenizer: Any, model_args: Any, *args: Any) -> Any:
        model = stock_load_model(tokenizer, model_args, *args)
        check_attention(model.config, model.config._attn_implementation)
        check_length(model.config, data_args_cutoff[0])
        check_positions(config, model.config)
        return model

    def preprocess(dataset: Any, data_args: Any, *args: Any, **kwargs: Any) -> Any:
        data_args_cutoff.append(data_args.cutoff_len)
        processed = stock_preprocess(dataset, data_args, *args, **kwargs)
        if processed is not None and len(processed) < len(dataset):
            loader.logger.warning_rank0(
                f"simulmask: {len(dataset) - len(processed)} of {len(dataset)} examples are longer than cutoff_len "
                f"{data_args.cutoff_len} and were dropped; raise cutoff_len to keep them."
            )
        return processed

    data_args_cutoff: list[int] = []
    stock_get_dataset = _seam(workflow, "get_dataset")
    stock_load_model = _seam(workflow, "load_model")
    stock_preprocess = _seam(loader, "_get_preprocessed_dataset")
    stock_trainer = _seam(workflow, "CustomSeq2SeqTrainer")

    def trainer(**kwargs: Any) -> Any:
        composed = type("SimulMaskSeq2SeqTrainer", (SimulMaskTrainer, stock_trainer), {"settings": settings[0]})
        return composed(**kwargs)

    replacements: list[tuple[ModuleType, str, Callable[..., Any]]] = [
        (workflow, "get_dataset", get_dataset),
        (workflow, "load_model", load_model),
        (workflow, "SFTDataCollatorWith4DAttentionMask", collator),
        (workflow, "CustomSeq2SeqTrainer", trainer),
        (loader, "_load_single_dataset", partial(_load_dataset, _seam(loader, "_load_single_dataset"))),
        (loader, "align_dataset", align_dataset),
        (loader, "_get_preprocessed_dataset", preprocess),
        (loader, "SupervisedDatasetProcessor", processor),
    ]
    stock = [(module, name, _seam(module, name)) for module, name, _ in replacements]
    try:
        for module, name, replacement in replacements:
            _replace(module, name, replacement)
        yield
    finally:
        for module, name, original in stock:
            _replace(module, name, original)


def check_positions(config: SimulMaskConfig, model_config: Any) -> None:
    """Refuse ``modified_alibi`` for a model that has no ALiBi."""
    from simulmask_plugin.families import family_of

    family = family_of(model_config)
    if config.positions == "modified_alibi" and family.position != "alibi":
        raise ValueError(
            f"simulmask.positions: modified_alibi needs an ALiBi model, but {family.name} uses RoPE; "
            "set positions: group."
        )


def _load_dataset(load: Callable[..., Any], dataset_attr: Any, model_args: Any, data_args: Any, *args: Any) -> Any:
    """Load one dataset; say file and line where a JSON file cannot be read."""
    from datasets.exceptions import DatasetGenerationError

    try:
        return load(dataset_attr, model_args, data_args, *args)
    except DatasetGenerationError as error:
        path = Path(str(data_args.dataset_dir), dataset_attr.dataset_name)
        if path.suffix in (".json", ".jsonl") and path.is_file():
            _check_json(path)
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error


def _check_json(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = [text] if text.lstrip().startswith("[") else text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except json.JSONDecodeError as error:
            if line.strip():
                raise ValueError(f"{path}, line {max(number, error.lineno)}: not JSON ({error.msg}).") from error


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
    )


def convert_row(row: Mapping[str, Any], index: int, *, columns: Mapping[str, str], name: str) -> dict[str, Any]:
    """Take our columns from one row, and remember where it came from for messages."""
    values: dict[str, Any] = {column: None for column in COLUMNS} | {key: row[c] for key, c in columns.items()}
    for side in ("source", "target"):
        if not isinstance(values[side], str) or not values[side].strip():
            raise ValueError(f"Dataset {name}, example {index + 1}: the {side} is empty ({values[side]!r}).")
    where = f"Dataset {name}, example {index + 1}"
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
    """Stands in for LLaMA-Factory's SupervisedDatasetProcessor: rows to tokenized examples."""

    def __init__(self, tokenizer: Any, settings: ModelSettings, cutoff_len: int) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.cutoff_len = cutoff_len
        # Part of the fingerprint of the map cache, so that other code or another block never meets stale features.
        self.fingerprint = fingerprint(settings)

    def preprocess_dataset(self, examples: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Encode a batch of rows; examples longer than cutoff_len are left out (and counted by the caller)."""
        from simulmask_plugin.features import FEATURE_COLUMNS, ExampleEncoder, Row, to_feature
        from simulmask_plugin.slots import longest

        encoder = ExampleEncoder(self.tokenizer, self.settings)
        config = self.settings.config
        features: dict[str, list[Any]] = {column: [] for column in FEATURE_COLUMNS}
        for values in zip(*(examples[f"_{column}"] for column in (*COLUMNS, "where")), strict=True):
            source, target, source_lang, target_lang, schedule, where = values
            if config.policy == SCHEDULE and schedule is None:
                raise ValueError(
                    f"{where}: policy: schedule needs a column `schedule` in the data; name it in dataset_info.json "
                    "(columns), or take another policy."
                )
            try:
                example = encoder.encode(Row(source, target, source_lang, target_lang))
                feature = to_feature(example, schedule if config.policy == SCHEDULE else None)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            num_tokens = longest(example, config.slot_length) if config.layout == "slots" else len(example.input_ids)
            if num_tokens + config.has_look_ahead * len(example.target_lengths) <= self.cutoff_len:
                for column in FEATURE_COLUMNS:
                    features[column].append(feature[column])
        return features

    def print_data_example(self, example: Mapping[str, Any]) -> None:
        """Print one example, as LLaMA-Factory does."""
        print(f"input_ids:\n{example['input_ids']}\ninputs:\n{self.tokenizer.decode(example['input_ids'])}")


def fingerprint(settings: ModelSettings) -> str:
    """Hash of the plugin's code and of the settings."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def resolve_prompt(config: SimulMaskConfig, template: Any, tokenizer: Any) -> Prompt:
    """Return the prompt as text: the block's own (plain), or LLaMA-Factory's chat template around it.

    Raises:
        ValueError: if the template does not keep the text of a user turn in one piece.
    """
    if config.prompt == "plain":
        bos = tokenizer.bos_token if tokenizer.bos_token and _adds_bos(tokenizer) else ""
        return plain_prompt(config.instruction, config.header, bos, config.next_header)
    elements: list[Any] = list(template.format_prefix.apply())
    if template.default_system:
        elements += template.format_system.apply(content=template.default_system)
    elements += template.format_user.apply(content=SENTINEL, idx="0")
    text = _text(elements, tokenizer)
    before, sentinel, header = text.partition(SENTINEL)
    if not sentinel or SENTINEL in header or not header:
        raise ValueError(
            f"The chat template does not leave a header between the user's text and the answer ({text!r}); "
            "use prompt: plain or another template."
        )
    after_answer = _text(template.format_assistant.apply(content=SENTINEL), tokenizer).partition(SENTINEL)[2]
    next_user = _text(template.format_user.apply(content=SENTINEL, idx="1"), tokenizer).partition(SENTINEL)[0]
    next_header = (after_answer + next_user).rstrip(" ")  # every word of the source but the first brings its own space
    return Prompt(escape(before) + config.instruction, escape(header), escape(next_header))


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _text(elements: list[Any], tokenizer: Any) -> str:
    return "".join(_element_text(element, tokenizer) for element in elements)


def _element_text(element: Any, tokenizer: Any) -> str:
    if isinstance(element, str):
        return element
    if isinstance(element, dict):
        return element["token"]
    return (tokenizer.bos_token or "") if "bos_token" in element else (tokenizer.eos_token or "")


def tokenizer_and_prompt(config: SimulMaskConfig, model_args: Any, data_args: Any) -> tuple[Any, Prompt]:
    """Return the tokenizer as LLaMA-Factory prepares it, and the prompt as text."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    return tokenizer, resolve_prompt(config, template, tokenizer)


def dataset_entries(data_args: Any) -> list[Any]:
    """Return the entries of dataset_info.json that the YAML names, with their columns."""
    import llamafactory.train.sft.workflow  # noqa: F401 - its import applies `extend_workflow`
    from llamafactory.data.parser import get_dataset_list

    return get_dataset_list([*(data_args.dataset or []), *(data_args.eval_dataset or [])], data_args.dataset_dir)


def training_arguments(path: str | Path, overrides: list[str]) -> tuple[Any, ...]:
    """Parse a training YAML with LLaMA-Factory's own parser; returns model, data, training, finetuning, generating."""
    from llamafactory.hparams import parser
    from omegaconf import OmegaConf

    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_cli(overrides))
    return parser.get_train_args(OmegaConf.to_container(merged))
