"""Where the plugin meets LLaMA-Factory (0.9.5, unmodified); the only module that knows it.

The start-up hook calls the four ``extend_*`` functions right after LLaMA-Factory has imported the module each is named
for. Without a ``simulmask:`` block nothing below changes what LLaMA-Factory does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from simulmask_plugin import __version__
from simulmask_plugin.arguments import check_arguments, check_model, is_flat
from simulmask_plugin.config import FILE_NAME, ModelSettings, SimulMaskConfig
from simulmask_plugin.prompts import READ_END, WRITE_END, Prompt, escape, interleaved_prompt, plain_prompt
from simulmask_plugin.training_data import (
    COLUMNS,
    FORMATTING,
    NUM_ROWS,
    SimulMaskDatasetProcessor,
    align_dataset,
    count_rows,
    flatten,
    load_dataset,
)

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
            check_arguments(model_args, data_args, training_args, finetuning_args)
        return parsed

    _replace(parser, "_parse_train_args", parse_and_check)


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
    from llamafactory import model
    from llamafactory.data import converter, parser

    run_sft, load_config = _seam(workflow, "run_sft"), _seam(model, "load_config")
    _carry_columns(_seam(parser, "DatasetAttr"))
    _seam(converter, "DATASET_CONVERTERS")[FORMATTING] = _refuse_without_block

    @wraps(run_sft)
    def run_simulmask(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if getattr(finetuning_args, "simulmask", None) is None:
            return run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        config = SimulMaskConfig.from_dict(finetuning_args.simulmask)
        check_model(config, load_config(model_args), model_args, data_args)
        with _seams_replaced(workflow, config, training_args.seed, is_flat(model_args, data_args)):
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
            sides = ("source_chunks", "target_chunks") if "source_chunks" in columns else ("source", "target")
            self.simulmask_columns = {side: side for side in sides} | columns

    dataset_attr.join = join_with_columns  # type: ignore[attr-defined]


def _refuse_without_block(dataset_attr: Any, data_args: Any) -> Any:
    raise ValueError(
        f"Dataset {dataset_attr.dataset_name} has formatting: simulmask, which needs a `simulmask:` block in the YAML."
    )


@contextmanager
def _seams_replaced(workflow: ModuleType, config: SimulMaskConfig, seed: int, flat: bool) -> Iterator[None]:
    """Swap in our pieces while run_sft runs; everything is put back at its end."""
    from llamafactory.data import loader
    from llamafactory.model import adapter

    from simulmask_plugin.collator import SimulMaskCollator
    from simulmask_plugin.families import check_attention
    from simulmask_plugin.features import check_special_tokens
    from simulmask_plugin.trainer import SimulMaskTrainer

    settings: list[ModelSettings] = []  # known once LLaMA-Factory has made tokenizer and template

    def get_dataset(template: Any, model_args: Any, data_args: Any, *args: Any, tokenizer: Any, **kwargs: Any) -> Any:
        settings.append(ModelSettings(config, resolve_prompt(config, template, tokenizer)))
        if config.layout == "interleaved":
            check_special_tokens(tokenizer)
            tokens.extend(tokenizer.convert_tokens_to_ids(token) for token in (READ_END, WRITE_END))
        return stock_get_dataset(template, model_args, data_args, *args, tokenizer=tokenizer, **kwargs)

    def processor(template: Any, tokenizer: Any, data_args: Any, **kwargs: Any) -> SimulMaskDatasetProcessor:
        return SimulMaskDatasetProcessor(tokenizer, settings[0], data_args.cutoff_len)

    def flat_processor(stock: Any) -> Callable[..., Any]:
        def make(template: Any, tokenizer: Any, processor: Any, data_args: Any) -> Any:
            rows = SimulMaskDatasetProcessor(tokenizer, settings[0], data_args.cutoff_len)
            return flatten(stock)(template, tokenizer, processor, data_args, rows)

        return make

    def collator(*, model: Any, tokenizer: Any, pad_to_multiple_of: int | None, **kwargs: Any) -> Any:
        if flat:
            return stock_collator(model=model, tokenizer=tokenizer, pad_to_multiple_of=pad_to_multiple_of, **kwargs)
        return SimulMaskCollator(
            settings[0], pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of, seed=seed
        )

    def load_model(tokenizer: Any, model_args: Any, *args: Any) -> Any:
        model = stock_load_model(tokenizer, model_args, *args)
        if not flat:  # where the YAML left it to the libraries, they have chosen by now
            check_attention(model.config, model.config._attn_implementation)
        return model

    def preprocess(dataset: Any, data_args: Any, *args: Any, **kwargs: Any) -> Any:
        processed = stock_preprocess(dataset, data_args, *args, **kwargs)
        if processed is None:
            return None
        if flat:  # a pack holds several
            num_kept, processed = sum(processed[NUM_ROWS][:]), processed.remove_columns(NUM_ROWS)
        else:
            num_kept = count_rows(processed)
        if num_kept < len(dataset):
            loader.logger.warning_rank0(
                f"simulmask: {len(dataset) - num_kept} of {len(dataset)} examples are longer than cutoff_len "
                f"{data_args.cutoff_len} and were dropped; raise cutoff_len to keep them."
            )
        if config.prefix_pairs:
            loader.logger.info_rank0(f"simulmask: {num_kept} sentence pairs became {len(processed)} prefix pairs.")
        return processed

    tokens: list[int] = []  # interleaved: ids of the special tokens
    stock_set_up_lora = _seam(adapter, "_setup_lora_tuning")
    stock_get_dataset = _seam(workflow, "get_dataset")
    stock_load_model = _seam(workflow, "load_model")
    stock_preprocess = _seam(loader, "_get_preprocessed_dataset")
    stock_trainer = _seam(workflow, "CustomSeq2SeqTrainer")
    stock_collator = _seam(workflow, "SFTDataCollatorWith4DAttentionMask")
    stock_processor = _seam(loader, "SupervisedDatasetProcessor")
    stock_packing = _seam(loader, "PackedSupervisedDatasetProcessor")

    def trainer(**kwargs: Any) -> Any:
        composed = type("SimulMaskSeq2SeqTrainer", (SimulMaskTrainer, stock_trainer), {"settings": settings[0]})
        return composed(**kwargs)

    def set_up_lora(model_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Let LoRA train the embeddings of the special tokens, which it would freeze."""
        lora_config = _seam(adapter, "LoraConfig")
        _replace(adapter, "LoraConfig", partial(lora_with_tokens, lora_config, model, tokens))
        try:
            return stock_set_up_lora(model_config, model, *args, **kwargs)
        finally:
            _replace(adapter, "LoraConfig", lora_config)

    replacements: list[tuple[ModuleType, str, Callable[..., Any]]] = [
        (workflow, "get_dataset", get_dataset),
        (workflow, "load_model", load_model),
        (adapter, "_setup_lora_tuning", set_up_lora if config.layout == "interleaved" else stock_set_up_lora),
        (workflow, "SFTDataCollatorWith4DAttentionMask", collator),
        (workflow, "CustomSeq2SeqTrainer", trainer),
        (loader, "_load_single_dataset", partial(load_dataset, _seam(loader, "_load_single_dataset"))),
        (loader, "align_dataset", align_dataset),
        (loader, "_get_preprocessed_dataset", preprocess),
        (loader, "SupervisedDatasetProcessor", flat_processor(stock_processor) if flat else processor),
        (loader, "PackedSupervisedDatasetProcessor", flat_processor(stock_packing)),
    ]
    stock = [(module, name, _seam(module, name)) for module, name, _ in replacements]
    try:
        for module, name, replacement in replacements:
            _replace(module, name, replacement)
        yield
    finally:
        for module, name, original in stock:
            _replace(module, name, original)


def lora_with_tokens(lora_config: Any, model: Any, token_ids: list[int], **kwargs: Any) -> Any:
    """Return the LoRA configuration, with the embeddings (and head) of these tokens trained as well.

    Where the YAML has whole embeddings trained (additional_target, resize_vocab) they are, with tied heads kept tied.
    """
    tied = bool(model.config.tie_word_embeddings)
    if kwargs.get("modules_to_save"):
        return lora_config(**kwargs, ensure_weight_tying=tied)
    layers = [model.get_input_embeddings()] + ([] if tied else [model.get_output_embeddings()])
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    return lora_config(**kwargs, trainable_token_indices={name.rsplit(".", 1)[-1]: token_ids for name in names})


def resolve_prompt(config: SimulMaskConfig, template: Any, tokenizer: Any) -> Prompt:
    """Return the prompt as text: the block's own (plain), or LLaMA-Factory's chat template around it.

    Raises:
        ValueError: if the template does not keep the text of a user turn in one piece.
    """
    has_turns = config.layout in ("turns", "slots")
    if config.prompt == "plain":
        bos = tokenizer.bos_token if tokenizer.bos_token and _adds_bos(tokenizer) else ""
        prompt = plain_prompt(config.instruction, config.header, bos, config.next_header if has_turns else "")
        return interleaved_prompt(prompt) if config.layout == "interleaved" else prompt
    elements: list[Any] = list(template.format_prefix.apply())
    if template.default_system:
        elements += template.format_system.apply(content=template.default_system)
    elements += template.format_user.apply(content=SENTINEL, idx="0")
    text = "".join(_element_text(element, tokenizer) for element in elements)
    before, sentinel, header = text.partition(SENTINEL)
    if not sentinel or SENTINEL in header or not header:
        raise ValueError(
            f"The chat template does not leave a header between the user's text and the answer ({text!r}); "
            "use prompt: plain or another template."
        )
    if config.layout == "interleaved":
        return interleaved_prompt(Prompt(escape(before) + config.instruction, escape(header)))
    next_header = ""
    if has_turns:
        turn = template.format_assistant.apply(content="") + template.format_user.apply(content=SENTINEL, idx="1")
        next_header = "".join(_element_text(element, tokenizer) for element in turn).partition(SENTINEL)[0]
    if config.layout == "slots":
        next_header = next_header.rstrip(" ")  # every word of the source but the first brings its own space
    return Prompt(escape(before) + config.instruction, escape(header), escape(next_header))


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] == tokenizer.bos_token_id


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
