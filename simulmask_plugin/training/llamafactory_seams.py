"""The seams to LLaMA-Factory (0.9.5, unmodified); the only module that imports it.

The start-up hook calls each ``extend_*`` function right after LLaMA-Factory has imported the module of that
name. Without a ``simulmask:`` block, LLaMA-Factory's behaviour does not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from simulmask_plugin import __version__
from simulmask_plugin.attention.families import family_of
from simulmask_plugin.config.block import SimulMaskConfig, parse_block
from simulmask_plugin.config.description import describe_training
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.training.arguments import attention_of, check_arguments, check_model, is_flat
from simulmask_plugin.training.chat_prompt import trained_settings
from simulmask_plugin.training.dataset import COLUMNS, FORMATTING, align_dataset, load_dataset
from simulmask_plugin.training.exporting import (
    arguments_with_template,
    check_tokenizer,
    exported_settings,
    save_settings,
)
from simulmask_plugin.training.machine import (
    KERNELS,
    check_kernels,
    check_ray,
    check_torchrun,
    check_training,
    leave_together,
)

if TYPE_CHECKING:
    from simulmask_plugin.training.run import SftRun


def extend_parser(parser: ModuleType) -> None:
    """llamafactory.hparams.parser: accept the ``simulmask:`` block, and check the arguments."""
    stock, is_env_enabled = parser.FinetuningArguments, _seam(parser, "is_env_enabled")

    @dataclass
    class SimulMaskFinetuningArguments(stock):  # type: ignore[valid-type, misc]
        simulmask: dict | str | None = field(
            default=None, metadata={"help": "Policy-aware fine-tuning for simultaneous translation; see README."}
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if isinstance(self.simulmask, str):
                self.simulmask = parse_block(self.simulmask)
            if self.simulmask is not None:
                _check_backend(is_env_enabled)
                SimulMaskConfig.from_dict(cast("dict[str, Any]", self.simulmask))
                if self.stage != "sft":
                    raise ValueError(f"The simulmask: block needs stage: sft, got stage: {self.stage}.")

    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        _seam(parser, name)
    for entries in vars(parser).values():  # a backend may have its own list
        if isinstance(entries, list):
            entries[:] = [SimulMaskFinetuningArguments if entry is stock else entry for entry in entries]

    parse, read_args = _seam(parser, "_parse_train_args"), _seam(parser, "read_args")

    @wraps(parse)
    def parse_and_check(*args: Any, **kwargs: Any) -> Any:
        values = read_args(*args, **kwargs)
        if isinstance(values, Mapping) and values.get("simulmask") is not None:
            check_training(values)
        parsed = parse(*args, **kwargs)
        model_args, data_args, training_args, finetuning_args, _ = parsed
        if finetuning_args.simulmask is not None:
            check_arguments(model_args, data_args, training_args, finetuning_args)
        return parsed

    _replace(parser, "_parse_train_args", parse_and_check)


def _check_backend(is_env_enabled: Callable[[str], bool]) -> None:
    """Refuse environment variables with which a training bypasses `run_sft`, and so our mask."""
    for name in ("USE_MCA", "USE_MEGATRON_BRIDGE"):
        if is_env_enabled(name):
            raise ValueError(f"{name}=1 does not work with the simulmask: block; unset it.")


def extend_v1_parser(arg_parser: ModuleType) -> None:
    """llamafactory.v1.config.arg_parser (USE_V1=1): its trainer does not know the block."""
    stock = _seam(arg_parser, "HfArgumentParser")

    class SimulMaskArgumentParser(stock):  # type: ignore[valid-type, misc]
        def parse_dict(self, args: dict[str, Any], **options: Any) -> Any:
            if args.get("simulmask") is not None:
                raise ValueError("USE_V1=1 does not work with the simulmask: block; unset it.")
            return super().parse_dict(args, **options)

    _replace(arg_parser, "HfArgumentParser", SimulMaskArgumentParser)


def extend_launcher(launcher: ModuleType) -> None:
    """llamafactory.launcher: refuse what cannot start: no process, no GPU for Ray, a path that torchrun gets cut."""
    launch = _seam(launcher, "launch")

    @wraps(launch)
    def launch_and_check() -> Any:
        if sys.argv[1:2] == ["train"]:
            from llamafactory.extras.misc import get_device_count, is_env_enabled, use_ray

            if use_ray():
                check_ray()
            is_forced = is_env_enabled("FORCE_TORCHRUN")
            if is_forced:
                check_torchrun(get_device_count())
            spaced = [argument for argument in sys.argv[2:] if any(c.isspace() for c in argument)]
            if spaced and (is_forced or get_device_count() > 1):
                raise ValueError(
                    f"The argument {spaced[0]!r} contains white space, at which LLaMA-Factory cuts the command that "
                    "it gives to torchrun; rename the file or use a path without white space."
                )
        return launch()

    _replace(launcher, "launch", launch_and_check)


def extend_workflow(workflow: ModuleType) -> None:
    """llamafactory.train.sft.workflow: with the block, train on our dataset, collator and trainer."""
    from llamafactory import model
    from llamafactory.data import converter, loader, parser

    run_sft, load_config = _seam(workflow, "run_sft"), _seam(model, "load_config")
    _carry_columns(_seam(parser, "DatasetAttr"))
    _seam(converter, "DATASET_CONVERTERS")[FORMATTING] = _refuse_without_block

    @wraps(run_sft)
    def run_simulmask(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if getattr(finetuning_args, "simulmask", None) is None:
            return run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        from simulmask_plugin.training.run import SftRun
        from simulmask_plugin.training.stream_eval import StreamEval

        config, model_config = SimulMaskConfig.from_dict(finetuning_args.simulmask), load_config(model_args)
        check_model(config, model_config, model_args, data_args)
        check_kernels({key: (vars(model_args) | vars(training_args))[key] for key in KERNELS})
        # For Gemma 2, LLaMA-Factory turns "auto" into FlashAttention 2 if that is installed.
        if model_args.flash_attn == "auto":
            model_args.flash_attn = family_of(model_config).flash_attn
        flat = is_flat(model_args, data_args)
        attention = attention_of(model_config, model_args.flash_attn)
        loader.logger.info_rank0(describe_training(config, attention, flat=flat))
        run = SftRun(
            config=config,
            seed=training_args.seed,
            flat=flat,
            logger=loader.logger,
            stream_eval=StreamEval.of_block(finetuning_args.simulmask),
        )
        with _seams_replaced(workflow, run):
            run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        leave_together()

    _replace(workflow, "run_sft", run_simulmask)


def extend_tuner(tuner: ModuleType) -> None:
    """llamafactory.train.tuner: an exported model has its simulmask.json, and ends sentences as trained."""
    export, load_tokenizer = _seam(tuner, "export_model"), _seam(tuner, "load_tokenizer")
    fix_tokenizer = _seam(tuner, "get_template_and_fix_tokenizer")

    @wraps(export)
    def export_with_settings(args: dict[str, Any] | None = None) -> None:
        args = tuner.read_args(args)
        model_args, data_args, *_ = tuner.get_infer_args(args)
        settings = exported_settings(model_args)
        if settings is None:
            return export(args)
        args = arguments_with_template(args, data_args.template, settings)
        model_args, data_args, *_ = tuner.get_infer_args(args)
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        fix_tokenizer(tokenizer, data_args)
        check_tokenizer(tokenizer, settings)
        export(args)
        save_settings(settings, tokenizer, model_args.export_dir)

    _replace(tuner, "export_model", export_with_settings)


def _seam(module: ModuleType, name: str) -> Any:
    """Return a member of LLaMA-Factory that the plugin depends on."""
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
    """Let DatasetAttr keep the columns of ``formatting: simulmask``; it drops unknown names."""
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
def _seams_replaced(workflow: ModuleType, run: SftRun) -> Iterator[None]:
    """Replace LLaMA-Factory's members by the methods of a run, and restore them at its end."""
    from llamafactory.data import loader
    from llamafactory.model import adapter

    methods: list[tuple[ModuleType, str, Callable[..., Any]]] = [
        (workflow, "get_dataset", run.get_dataset),
        (loader, "_load_single_dataset", load_dataset),
        (loader, "align_dataset", lambda stock, *args: align_dataset(*args)),
        (loader, "_get_preprocessed_dataset", run.preprocess),
        (loader, "SupervisedDatasetProcessor", run.make_processor),
        (loader, "PackedSupervisedDatasetProcessor", run.make_processor),
        (workflow, "SFTDataCollatorWith4DAttentionMask", run.make_collator),
        (workflow, "load_model", run.load_model),
        (adapter, "_setup_lora_tuning", run.set_up_lora),
        (adapter, "LoraConfig", run.make_lora_config),
        (adapter, "OFTConfig", run.make_oft_config),
        (workflow, "CustomSeq2SeqTrainer", run.make_trainer),
        (workflow, "plot_loss", run.plot_loss),
    ]
    stock = [_seam(module, name) for module, name, _ in methods]
    try:
        for (module, name, method), member in zip(methods, stock, strict=True):
            _replace(module, name, partial(method, member))
        yield
    finally:
        for (module, name, _), member in zip(methods, stock, strict=True):
            _replace(module, name, member)


def tokenizer_and_settings(config: SimulMaskConfig, model_args: Any, data_args: Any) -> tuple[Any, ModelSettings]:
    """Return the tokenizer as prepared by LLaMA-Factory, and the settings that streaming needs."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    return tokenizer, trained_settings(config, template, tokenizer, name=data_args.template)


def dataset_entries(data_args: Any) -> list[Any]:
    """Return the entries of dataset_info.json that the YAML names, with their columns."""
    import llamafactory.train.sft.workflow  # noqa: F401 - its import applies `extend_workflow`
    from llamafactory.data.parser import get_dataset_list

    return get_dataset_list([*(data_args.dataset or []), *(data_args.eval_dataset or [])], data_args.dataset_dir)


def training_arguments(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Parse the keys of a training YAML with LLaMA-Factory's parser: model, data, training, finetuning, generating.

    A ValueError says what the parser refuses, or which package a key needs.
    """
    from llamafactory.hparams import parser

    try:
        return parser.get_train_args(dict(values))
    except ImportError as error:
        raise ValueError(" ".join(str(error).split())) from error
