"""``simulmask validate``: everything about a YAML that can be checked without a GPU and without weights."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from simulmask_plugin.attention.families import check_positions, family_of, text_config
from simulmask_plugin.batches.features import Row, check_rows, whole_schedule
from simulmask_plugin.commands.training_yaml import DataSample, TrainingSetup, is_training, load_training, read_data
from simulmask_plugin.config.description import describe_block
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.options import read_yaml
from simulmask_plugin.pictures.picture import describe_schedule, draw, title, token_table
from simulmask_plugin.pictures.terminal import console, table
from simulmask_plugin.policies import ModelDriven
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.text.prompts import OFFLINE_LATENCY
from simulmask_plugin.training.arguments import check_model
from simulmask_plugin.training.stream_eval import StreamEval, check_whole_weights


def run_validate(path: str, overrides: list[str]) -> int:
    """Check a training or evaluation YAML and print what it will do; return the exit code.

    Raises:
        ValueError: saying what is wrong.
    """
    values = read_yaml(path, overrides)
    if is_training(values):
        validate_training(path, overrides)
    elif "policies" in values:
        validate_evaluation(path, overrides)
    else:
        raise ValueError(
            f"{path} is neither a training YAML (stage: sft and a simulmask: block) nor an evaluation YAML (policies:)."
        )
    return 0


def validate_training(path: str, overrides: list[str]) -> None:
    """Check a training YAML and print what will happen."""
    setup = load_training(path, overrides)
    check_model(setup.settings.config, setup.model_config, setup.model_args, setup.data_args)
    check_deepspeed(setup.deepspeed)
    if setup.stream_eval is not None:
        check_whole_weights(setup.deepspeed, fsdp=None)
    if not setup.model_args.resize_vocab:
        check_rows(setup.tokenizer, setup.settings, text_config(setup.model_config).vocab_size)
    samples = read_data(setup)
    out = console()
    out.print(table(("", ""), describe(setup).items(), title=f"{path}: what will happen"))
    columns = ("data", "columns", "rows read", "longest (tokens)", f"longer than {setup.data_args.cutoff_len}")
    out.print(table(columns, map(_describe_sample, samples)))
    for refused in (one for sample in samples for one in sample.refused):
        out.print(f"Cannot be encoded and is dropped: {refused}")
    print_example(setup.tokenizer, setup.settings, samples[0].first, seed=setup.training_args.seed)
    out.print("Valid.")


def check_deepspeed(value: Any) -> None:
    """Refuse a DeepSpeed file that is missing or no JSON; the YAML may also hold the configuration itself.

    Raises:
        ValueError: naming the file.
    """
    if not isinstance(value, str):
        return
    try:
        read_json(value)
    except (OSError, ValueError) as error:
        raise ValueError(f"deepspeed: {value} cannot be read: {error}") from error


def describe(setup: TrainingSetup) -> dict[str, str]:
    """What a training will do, in words, by topic."""
    arguments, config = setup.training_args, setup.settings.config
    family = family_of(setup.model_config)
    examples = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return {
        "model": f"{setup.model_args.model_name_or_path} (family {family.name}, {family.position})",
        "training": f"{setup.finetuning_args.finetuning_type}, {_duration(arguments)}, into {arguments.output_dir}",
        "effective batch": (
            f"{examples} examples per device ({arguments.per_device_train_batch_size} x "
            f"{arguments.gradient_accumulation_steps} accumulated), times the number of devices"
        ),
        "DeepSpeed": str(setup.deepspeed or "no"),
        "attention": f"{setup.attention} (flash_attn: {setup.model_args.flash_attn})",
        **describe_block(config),
        **({} if setup.stream_eval is None else {"scores while training": describe_stream_eval(setup.stream_eval)}),
        "cutoff_len": f"{setup.data_args.cutoff_len} tokens",
    }


def describe_stream_eval(stream: StreamEval) -> str:
    """What a training streams, in words."""
    policies = ", ".join(decision.name for decision in stream.decisions)
    return f"BLEU and LAAL of {policies}, on the first {stream.sentences} held-out sentence pairs"


def _duration(arguments: Any) -> str:
    return f"{arguments.max_steps} steps" if arguments.max_steps > 0 else f"{arguments.num_train_epochs:g} epochs"


def _describe_sample(sample: DataSample) -> tuple[str, ...]:
    columns = ", ".join(ours if ours == theirs else f"{ours} from {theirs}" for ours, theirs in sample.columns.items())
    too_long = sample.num_rows - sample.num_kept - len(sample.refused)
    return sample.name, columns, str(sample.num_rows), str(sample.longest), f"{too_long} (dropped)" if too_long else "0"


def print_example(tokenizer: Any, settings: ModelSettings, row: Row, *, seed: int = 0) -> None:
    """Print the prompt and the tokens of one example."""
    config, picture = settings.config, draw(tokenizer, settings, row, seed=seed)
    languages = settings.pair(row.source_lang, row.target_lang)
    names = ("before the source", "header", "before more source")
    texts = settings.prompt.render(*languages, row.latency or OFFLINE_LATENCY)
    out = console()
    out.print(table(("", ""), [(n, repr(t)) for n, t in zip(names, texts, strict=True) if t], title="prompt"))
    out.print(f"First example: {title(config)}\n{describe_schedule(picture, config)}")
    out.print(token_table(picture, tokenizer))


def validate_evaluation(path: str, overrides: list[str]) -> None:
    """Check an evaluation YAML, its model and its files, and print what will happen."""
    from simulmask_plugin.evaluation.config import (
        check_encodable,
        check_evaluation,
        errors_name,
        load_evaluation,
        resolve,
    )

    config = load_evaluation(path, overrides)
    with errors_name(path):
        settings = check_evaluation(config)
        check_encodable(config, settings)
        config = resolve(config, settings)
        settings = settings.for_pair(config.source_lang, config.target_lang)
        check_positions(config.trained_model.config(), settings.config.layout.positions)
    decisions = [Decision.from_dict(policy) for policy in config.policies]
    keys = {field.name: str(getattr(config, field.name)) for field in fields(config)}
    topics = keys | {"policies": ", ".join(decision.name for decision in decisions)}
    policy, _ = decisions[0].resolve(settings)
    streamed = replace(decisions[0].streamed_with(settings).config, policies=(policy,))
    source, target = (_first_line(path) for path in (config.source, config.target))
    row = Row(source, target, config.source_lang, config.target_lang)
    if isinstance(policy, ModelDriven):
        row = replace(row, latency=policy.latency)
    if streamed.has_schedule_column:  # the model decides; the example is shown whole
        row = replace(row, schedule=whole_schedule(row, streamed))
    out = console()
    out.print(table(("", ""), topics.items(), title=f"{path}: what will happen"))
    out.print(table(("", ""), describe_block(settings.config).items(), title="the model was trained with"))
    print_example(config.trained_model.tokenizer(), replace(settings, config=streamed), row)
    out.print("Valid.")


def _first_line(path: str) -> str:
    with open(path, encoding="utf-8") as lines:
        return lines.readline()
