"""The options of every command, and what runs it; modules that need torch are imported when a command runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Annotated, Any, Literal

from simulmask_plugin.commands.parsing import Argument, Keys, Option, add_fields, made
from simulmask_plugin.config.block import Unit, block_keys, keys_of, training_policies
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.layouts.base import Layout, RunOptions
from simulmask_plugin.policies import POLICIES, Policy

Overrides = Annotated[list[str], Argument("replaces a key, e.g. simulmask.k=5", "key=value")]
Text = Annotated[str | None, Option(metavar="TEXT")]
SourceLang = Annotated[str | None, Option("of a model trained on several language pairs", "NAME")]
TargetLang = Annotated[str | None, Option(metavar="NAME")]
Index = Annotated[int | None, Option("only this one, from 0; default: the mean of all")]
Adapter = Annotated[str | None, Option("of the model, unmerged; several with commas between", "DIR")]
Json = Annotated[bool, Option("print the numbers, and nothing else")]


def _keys_of_blocks() -> dict[str, list[type[Policy] | type[Layout]]]:
    """The keys that policies and layouts bring into a block, each with the classes that have it."""
    owners: dict[str, list[type[Policy] | type[Layout]]] = {}
    for policy in training_policies().values():
        for key in block_keys(policy):
            owners.setdefault(key, []).append(policy)
    for layout in LAYOUTS.values():
        for key in keys_of(layout):
            owners.setdefault(key, []).append(layout)
    return owners


def _scheduled() -> dict[str, type[Policy]]:
    """The policies that make a schedule without a model."""
    return {name: policy for name, policy in POLICIES.items() if policy.streams and not policy.asks_model}


def _parameters_of_schedules() -> dict[str, list[type[Policy]]]:
    """The parameters of these policies."""
    return {key: [policy] for policy in _scheduled().values() for key in policy.parameters()}


def _streamed() -> dict[str, type[Policy]]:
    """The policies that decide on unseen text."""
    return {name: policy for name, policy in POLICIES.items() if policy.streams}


def _keys_of_runs() -> dict[str, list[type[Any]]]:
    """What a run may choose, each key with the class that has it."""
    runs = (layout.run_options for layout in LAYOUTS.values())
    parts: list[type[Policy] | type[RunOptions]] = [*_streamed().values(), *runs]
    return {field.name: [part] for part in parts for field in fields(part)}


def _calibrated() -> dict[str, type[Policy]]:
    """The policies that have a threshold."""
    return {name: policy for name, policy in _streamed().items() if policy.threshold}


def _keys_beside_thresholds() -> dict[str, list[type[Any]]]:
    """What a threshold is calibrated with: the other parameters of its policy, and what a run may choose."""
    policies = _calibrated().values()
    runs = (layout.run_options for layout in LAYOUTS.values())
    parts: list[type[Policy] | type[RunOptions]] = [*policies, *runs]
    found = {"laal", *(policy.threshold.key for policy in policies if policy.threshold)}
    return {field.name: [part] for part in parts for field in fields(part) if field.name not in found}


@dataclass(frozen=True, kw_only=True)
class YamlOptions:
    """A YAML, and ``key=value`` for keys of it."""

    config: Annotated[str, Argument(metavar="CONFIG.yaml")]
    overrides: Overrides = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of ``simulmask compare``."""

    config: Annotated[str, Argument(metavar="STUDY.yaml")]
    overrides: Annotated[list[str], Argument("replaces a key, e.g. evaluation.limit=50", "key=value")] = field(
        default_factory=list
    )


@dataclass(frozen=True, kw_only=True)
class SmokeOptions:
    """Options of ``simulmask smoke``."""

    overrides: Annotated[
        list[str],
        Argument("the stages of a recipe in their order, and keys to replace in all of them", "TRAIN.yaml | key=value"),
    ]
    tiny: Annotated[bool, Option("train a tiny random model instead of the recipe's own")] = False
    steps: Annotated[int, Option("of each training (default: %(default)s)", "N")] = 3
    output: Annotated[str | None, Option("keep what is made in this new folder; default: keep nothing", "DIR")] = None


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Options of ``simulmask show``."""

    config: Annotated[
        str | None, Argument("training YAML: its block, tokenizer and first row of data", "CONFIG.yaml")
    ] = None
    overrides: Overrides = field(default_factory=list)
    policy: Annotated[str | None, Option("default: wait_k with k = 3", choices=training_policies)] = None
    layout: Annotated[str | None, Option("default: prefix", choices=LAYOUTS.keys)] = None
    keys: Annotated[Mapping[str, Any], Keys(_keys_of_blocks, ranges=True)] = field(default_factory=dict)
    source_units: Annotated[Unit | None, Option("in which the policy counts")] = None
    target_units: Annotated[Unit | None, Option("in which the policy counts")] = None
    schedule: Annotated[str | None, Option("g per target unit, for policy schedule or model_driven", "1,2,3")] = None
    source: Annotated[str | None, Option("default: the first row of the data, or a short sentence", "TEXT")] = None
    target: Text = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    instruction: Annotated[str | None, Option("text before the source, where every word is a token", "TEXT")] = None
    tokenizer: Annotated[str | None, Option("folder of a tokenizer; default: every word is a token", "DIR")] = None
    png: Annotated[str | None, Option("draw the mask into this file", "FILE")] = None
    json: Json = False

    @property
    def given(self) -> dict[str, Any]:
        """The keys of a block that were given."""
        named = {key: getattr(self, key) for key in ("policy", "layout", "source_units", "target_units")}
        return {key: value for key, value in (named | dict(self.keys)).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """Options of ``simulmask parity``."""

    config: Annotated[str | None, Argument("training YAML: its model and block", "CONFIG.yaml")] = None
    overrides: Overrides = field(default_factory=list)
    model: Annotated[str | None, Option("a trained model with its simulmask.json", "DIR")] = None
    adapter: Adapter = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    family: Annotated[list[str], Option("tiny random models; default: all", "NAME")] = field(default_factory=list)
    matrix: Annotated[bool, Option("every layout, positions and rows")] = False
    examples: Annotated[int, Option("a cell (default: %(default)s)", "N")] = 4
    length: Annotated[int, Option("of one long example a model (default: %(default)s)", "TOKENS")] = 256
    seed: Annotated[int, Option("of models and examples (default: %(default)s)")] = 0
    float64: Annotated[bool, Option("compute in float64, where rounding is no excuse")] = False
    json: Annotated[bool, Option("print a list of records")] = False


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Options of ``simulmask attention``."""

    model: Annotated[str, Argument("folder of a trained model with its simulmask.json", "MODEL")]
    source: Annotated[str, Option(metavar="TEXT")]
    target: Annotated[str, Option("what is written, in training and in streaming", "TEXT")]
    adapter: Adapter = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    policy: Annotated[str | None, Option("default: as trained", choices=_scheduled)] = None
    parameters: Annotated[Mapping[str, Any], Keys(_parameters_of_schedules)] = field(default_factory=dict)
    latency: Annotated[
        str | None, Option("interleaved: for the prompt; default: offline, if that was trained", "NAME")
    ] = None
    schedule: Annotated[
        str | None,
        Option("g per target unit, instead of a policy; default if the model decides: one chunk", "1,2,3"),
    ] = None
    layer: Index = None
    head: Index = None
    png: Annotated[str | None, Option("draw both side by side into this file", "FILE")] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Options of ``simulmask translate``."""

    model: Annotated[str, Argument("folder of a trained model with its simulmask.json", "MODEL")]
    adapter: Adapter = None
    text: Annotated[str | None, Option("one sentence; default: standard input, a sentence a line", "TEXT")] = None
    policy: Annotated[str | None, Option("default: as trained", choices=_streamed)] = None
    keys: Annotated[Mapping[str, Any], Keys(_keys_of_runs)] = field(default_factory=dict)
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    max_target_tokens: Annotated[int, Option("a sentence ends after so many (default: %(default)s)", "N")] = 512
    device: Annotated[str, Option("as torch names it (default: %(default)s)", "NAME")] = "cpu"
    actions: Annotated[bool, Option("print READ and WRITE, a line each")] = False


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of ``simulmask serve``."""

    model: Annotated[str, Argument("folder of a trained model with its simulmask.json", "MODEL")]
    adapter: Adapter = None
    policy: Annotated[str | None, Option("where a client chooses none; default: as trained", choices=_streamed)] = None
    keys: Annotated[Mapping[str, Any], Keys(_keys_of_runs)] = field(default_factory=dict)
    host: Annotated[str, Option("address to listen at; others than this machine reach it at 0.0.0.0")] = "127.0.0.1"
    port: Annotated[int, Option("default: %(default)s")] = 8765
    names: Annotated[
        list[str], Option("under which browsers reach the server, beside localhost and addresses", "HOST")
    ] = field(default_factory=list)
    lanes: Annotated[int, Option("sessions translated at once; the others wait (default: %(default)s)", "N")] = 32
    clients: Annotated[int, Option("connections at once; more are refused (default: %(default)s)", "N")] = 256
    words: Annotated[int, Option("of one session's source (default: %(default)s)", "N")] = 500
    tokens: Annotated[int, Option("of one session, both sides counted (default: %(default)s)", "N")] = 2048
    message_bytes: Annotated[int, Option("of one message or request (default: %(default)s)", "N")] = 65536
    idle: Annotated[float, Option("seconds; a connection ends where nothing happens (default: %(default)s)", "S")] = 300
    max_target_tokens: Annotated[int, Option("a session ends after so many (default: %(default)s)", "N")] = 512
    threads: Annotated[int | None, Option("of the CPU; default: as torch has it", "N")] = None
    device: Annotated[str, Option("as torch names it (default: %(default)s)", "NAME")] = "cpu"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Option("default: %(default)s")] = "float32"
    attn_implementation: Annotated[
        Literal["sdpa", "eager"] | None, Option("default: as in training; policy alignatt needs eager")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Options of ``simulmask probe``."""

    model: Annotated[str, Argument("a trained model with its simulmask.json, or the base of the adapter", "MODEL")]
    source: Annotated[str, Option("text of the training, a sentence a line", "FILE")]
    target: Annotated[str, Option("its translation", "FILE")]
    adapter: Adapter = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    sentences: Annotated[int, Option("the first so many (default: %(default)s)", "N")] = 4000
    most: Annotated[int, Option("largest lag of the schedules (default: %(default)s)", "N")] = 6
    batch_size: Annotated[int, Option("sentences a call (default: %(default)s)", "N")] = 32
    seed: Annotated[int, Option("of the schedules (default: %(default)s)")] = 0
    device: Annotated[str, Option("as torch names it (default: %(default)s)")] = "cpu"


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Options of ``simulmask calibrate``."""

    model: Annotated[str, Argument("folder of a trained model with its simulmask.json", "MODEL")]
    source: Annotated[str, Option("of a dev set, one sentence a line", "FILE")]
    target: Annotated[str, Option("its reference", "FILE")]
    laal: Annotated[list[float], Option("the latencies wanted, in source units", "N")]
    adapter: Adapter = None
    policy: Annotated[str | None, Option("default: as trained", choices=_calibrated)] = None
    keys: Annotated[Mapping[str, Any], Keys(_keys_beside_thresholds)] = field(default_factory=dict)
    limit: Annotated[int | None, Option("only the first so many sentences", "N")] = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    latency_unit: Annotated[Literal["word", "char"] | None, Option("of the target; default: by its language")] = None
    lanes: Annotated[int, Option("sentences at once (default: %(default)s)", "N")] = 64
    device: Annotated[str, Option("as torch names it (default: %(default)s)", "NAME")] = "cpu"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Option("default: %(default)s")] = "float32"
    max_target_tokens: Annotated[int, Option("a sentence ends after so many (default: %(default)s)", "N")] = 512


@dataclass(frozen=True, kw_only=True)
class HeadsOptions:
    """Options of ``simulmask heads``."""

    model: Annotated[str, Argument("a trained model with its simulmask.json, or the base of the adapter", "MODEL")]
    source: Annotated[str, Option("text, a sentence a line", "FILE")]
    target: Annotated[str, Option("its translation", "FILE")]
    alignments: Annotated[str, Option("links i-j of every line, as eflomal and fast_align write them", "FILE")]
    adapter: Adapter = None
    source_lang: SourceLang = None
    target_lang: TargetLang = None
    sentences: Annotated[int, Option("the first so many (default: %(default)s)", "N")] = 500
    top: Annotated[int, Option("heads that are kept (default: %(default)s)", "N")] = 4
    device: Annotated[str, Option("as torch names it (default: %(default)s)")] = "cpu"


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Options of ``simulmask trace``."""

    results: Annotated[str, Argument("output of `simulmask eval`, or the folder of one of its runs", "RESULTS")]
    sentence: Annotated[int, Argument("its index in instances.log, from 0", "SENTENCE")]
    policy: Annotated[str | None, Option("the run, where RESULTS has several, e.g. wait_k-3", "NAME")] = None
    png: Annotated[str | None, Option("draw it into this file, too", "FILE")] = None


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Options of ``simulmask curve``."""

    evaluations: Annotated[list[str], Argument("output of `simulmask eval`", "LABEL=FOLDER")]
    png: Annotated[str, Option("draw into this file", "FILE")]


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of ``simulmask verify-merge``."""

    base: Annotated[str, Option("what the adapter was trained on", "DIR")]
    adapter: Annotated[str, Option("output_dir of the training", "DIR")]
    merged: Annotated[str, Option("export_dir of the merge", "DIR")]
    json: Annotated[bool, Option("print a list of checks")] = False


@dataclass(frozen=True)
class NoOptions:
    """Options of ``simulmask env``: it has none."""


def _from(module: str) -> Any:
    """A module of the package, imported now."""
    return import_module(f"simulmask_plugin.{module}")


COMMANDS: Mapping[str, tuple[type[Any], Callable[[Any], int]]] = {
    "validate": (YamlOptions, lambda given: _from("commands.validate").run_validate(given.config, given.overrides)),
    "smoke": (SmokeOptions, lambda given: _from("commands.smoke").run_smoke(given)),
    "show": (ShowOptions, lambda given: _from("commands.show").run_show(given)),
    "parity": (ParityOptions, lambda given: _from("commands.parity").run_parity(given)),
    "attention": (AttentionOptions, lambda given: _from("commands.attention").run_attention(given)),
    "heads": (HeadsOptions, lambda given: _from("commands.heads").run_heads(given)),
    "probe": (ProbeOptions, lambda given: _from("commands.probe").run_probe(given)),
    "translate": (TranslateOptions, lambda given: _from("commands.translate").run_translate(given)),
    "serve": (ServeOptions, lambda given: _from("commands.serve").run_serve(given)),
    "calibrate": (CalibrateOptions, lambda given: _from("commands.calibrate").run_calibrate(given)),
    "eval": (YamlOptions, lambda given: _from("evaluation.run").run_evaluation(given.config, given.overrides)),
    "trace": (TraceOptions, lambda given: _from("commands.trace").run_trace(given)),
    "curve": (CurveOptions, lambda given: _from("evaluation.curves").run_curve(given.evaluations, given.png)),
    "compare": (StudyOptions, lambda given: _from("evaluation.run_study").run_compare(given.config, given.overrides)),
    "verify-merge": (MergeOptions, lambda given: _from("commands.verify_merge").run_verify_merge(given)),
    "env": (NoOptions, lambda given: _from("commands.env").run_env()),
}
"""By the name of a command its options, and what runs it."""


def add_options(parser: ArgumentParser, command: str) -> None:
    """Add the options of a command to its parser, and ``run``, which takes what was parsed."""
    options, run = COMMANDS[command]

    def run_parsed(parsed: Namespace) -> int:
        return run(made(options, vars(parsed)))

    add_fields(parser, options)
    parser.set_defaults(run=run_parsed)
