"""The YAML of ``simulmask eval``: its keys, what can be checked of them before anything runs, and their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from sacrebleu.metrics import BLEU

from simulmask_plugin.config.calibration import Calibrated
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.extra_metrics import ExtraMetric
from simulmask_plugin.files.texts import check_sentences, numbered_lines, read_text
from simulmask_plugin.options import MOST_AT_ONCE, MOST_TOKENS, Must, between, check_choice, read, read_yaml
from simulmask_plugin.streaming.document import document_of
from simulmask_plugin.streaming.options import Decision, check_policies, streaming_attention
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.text.languages import (
    Counting,
    counting_of_name,
    counting_of_text,
    installed_tokenizer,
    missing_packages,
)
from simulmask_plugin.text.units import CHARACTER, WORD, NotEncodable, UnitTokenizer
from simulmask_plugin.training.machine import device_of

AtOnce = Annotated[int, between(1, MOST_AT_ONCE)]
LatencyUnit = Literal["word", "char"]

SPACE = 0.1
"""Share of white space from which a text counts as one with spaces between its words, as every spaced language has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """The keys of an evaluation YAML; a key that is not listed here is an error, an empty one is its default."""

    model: str
    """Directory of a merged model with its simulmask.json, or of the base of the adapter; or its name on the hub."""
    source: str
    """Source text, one sentence a line (source_units: character: white space between the characters)."""
    target: str
    """Reference, line-aligned with the source (latency_unit: char: no white space between the characters)."""
    output: str
    """Directory of the results."""
    policies: Annotated[tuple[Mapping[str, Any], ...], Must("be a list such as [{policy: wait_k, k: 3}]", bool)]
    """What to stream with, e.g. [{policy: wait_k, k: 3}, {policy: offline}], or [{latency: low}]; see Decision.
    One that says slot_length streams with slots of another length than in training, and is named in the report."""
    adapter: str | None = None
    """The same of an adapter with its simulmask.json, which is merged in memory; of several, with commas between."""
    simulmask: Mapping[str, Any] = field(default_factory=dict)
    """Optional: expected settings of the model; one that contradicts its simulmask.json is an error."""
    latency_unit: LatencyUnit | None = None
    """word or char; default: char for target units of characters and for languages without spaces, else word."""
    bleu_tokenize: str | None = None
    """Tokenizer of sacrebleu; default: by the target language, or the script of the reference (`languages`); where the
    packages of MeCab are not installed, char; zh for other targets in characters, else 13a."""
    source_lang: str | None = None
    """For the prompt; default: the only one trained."""
    target_lang: str | None = None
    """For the prompt, latency_unit and bleu_tokenize; default: the only one trained."""
    limit: Annotated[int, between(1)] | None = None
    """Only the first so many sentences."""
    jobs: AtOnce = 1
    """Policies that run side by side."""
    engine: Literal["simuleval", "batched"] = "simuleval"
    """simuleval: SimulEval runs our agent, one sentence at a time; batched: all sentences and policies on one model."""
    audit: Annotated[int, between(0)] = 20
    """batched: so many sentences are streamed by SimulEval's agent, too, and compared; 0: none."""
    lanes: Annotated[int, between(1, MOST_AT_ONCE)] = 64
    """Sentences at once, of the engine batched; memory grows with it."""
    threads: AtOnce | None = None
    """CPU threads of each."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str | None = None
    """sdpa or eager; default: as in training, sdpa; Gemma 2, BLOOM, MPT: eager."""
    max_target_tokens: Annotated[int, between(1, MOST_TOKENS)] = 512
    document_units: int | None = None
    """Layouts of chunks: every line is a document; a sentence ends at punctuation after so many source units."""
    context_sentences: int = 0
    """Of a document: finished sentences that stay visible."""
    trace: bool = False
    """Write trace.jsonl: the READs and WRITEs of every sentence, with time and probability, see `Recorder`."""
    extra_metrics: Mapping[str, Any] = field(default_factory=dict)
    """Name -> command of another program, see `ExtraMetric`."""

    def __post_init__(self) -> None:
        """Check the commands."""
        for name, metric in self.extra_metrics.items():
            ExtraMetric.from_value(name, metric)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The policies; their names are those of the runs."""
        return tuple(map(Decision.from_dict, self.policies))

    @property
    def trained_model(self) -> TrainedModel:
        """The model with its adapter, see `TrainedModel.of`."""
        return TrainedModel.of(self.model, self.adapter)


@contextmanager
def errors_name(path: str | Path) -> Iterator[None]:
    """Put the YAML before what is wrong with its keys, or with the policies, texts and models that it names."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """Read an evaluation YAML, with ``key=value`` overrides.

    Raises:
        ValueError: if the file is missing or no mapping, or a key is wrong.
    """
    values = read_yaml(path, list(overrides))
    with errors_name(path):
        return read(EvaluationConfig, values, "", empty_is_default=True)


def check_evaluation(config: EvaluationConfig) -> ModelSettings:
    """Return the model's settings, or raise a ValueError on anything wrong that shows before a model is loaded."""
    settings = config.trained_model.settings()
    check_for_model(config, settings)
    aids, for_pair = config.trained_model.aids(), settings.for_pair(config.source_lang, config.target_lang)
    for decision in config.decisions:
        aids.check(decision.resolve(for_pair)[0])
    return settings


def check_encodable(config: EvaluationConfig, settings: ModelSettings) -> None:
    """Raise a ValueError that names the line, if the model's tokenizer cannot encode a line of the source."""
    units = UnitTokenizer(config.trained_model.tokenizer(), settings.config.source_units)
    for line, where in islice(numbered_lines(Path(config.source)), config.limit):
        try:
            units.encode_all(line, spaced=True)
        except NotEncodable as error:
            raise ValueError(f"source: {where}: {error} Remove or change the line.") from error


def check_for_model(config: EvaluationConfig, settings: ModelSettings) -> None:
    """Raise a ValueError if an evaluation does not go with a model of these settings, which need not exist yet."""
    settings.check_overrides(config.simulmask)
    check_policies(config.policies, settings.for_pair(config.source_lang, config.target_lang), "policies")
    document_of(settings, config.document_units, config.context_sentences)
    device_of(config.device)
    if config.bleu_tokenize is not None:
        _check_tokenizer(config.bleu_tokenize)
    num_sentences(config)
    _check_units(config, settings)


def num_sentences(config: EvaluationConfig) -> int:
    """Return the number of sentences that are streamed.

    Raises:
        ValueError: if a file is missing or empty, a line of it is empty or no text, they are not line-aligned, or have
            fewer lines than the limit.
    """
    counts = []
    for side, path in (("source", Path(config.source)), ("target", Path(config.target))):
        if not path.is_file():
            raise ValueError(f"{side}: {path}: no such file.")
        counts.append(check_sentences(path, what=side))
        if not counts[-1]:
            raise ValueError(f"{side}: {path} is empty; expected one sentence a line.")
    if counts[0] != counts[1]:
        raise ValueError(
            f"{config.source} has {counts[0]} lines, but {config.target} has {counts[1]}; "
            "source and target must be line-aligned."
        )
    if config.limit is not None and config.limit > counts[0]:
        raise ValueError(f"limit is {config.limit}, but {config.source} has {counts[0]} lines.")
    return config.limit or counts[0]


def resolve(config: EvaluationConfig, settings: ModelSettings) -> EvaluationConfig:
    """Return the evaluation with what depends on the model filled in: languages, attention, how the target is counted.

    Raises:
        ValueError: if the model's family is not supported, or not with this attention; or the languages are not clear.
    """
    source_lang, target_lang = settings.pair(config.source_lang, config.target_lang)
    return replace(
        config,
        latency_unit=latency_unit(config, settings),
        bleu_tokenize=bleu_tokenizer(config, settings),
        source_lang=source_lang,
        target_lang=target_lang,
        attn_implementation=streaming_attention(config.trained_model.config(), config.attn_implementation),
    )


def calibrated(config: EvaluationConfig, settings: ModelSettings) -> dict[str, Calibrated]:
    """Where the thresholds of a resolved evaluation come from, by the names of the runs that name a laal."""
    settings = settings.for_pair(config.source_lang, config.target_lang)
    entries = {decision.name: decision.calibrated(settings) for decision in config.decisions}
    return {name: entry for name, entry in entries.items() if entry is not None}


def latency_unit(config: EvaluationConfig, settings: ModelSettings) -> LatencyUnit:
    """The unit in which SimulEval counts the target; a Chinese reference in words would give an AL of -1."""
    return config.latency_unit or ("char" if counting(config, settings).unit == CHARACTER else "word")


def bleu_tokenizer(config: EvaluationConfig, settings: ModelSettings) -> str:
    """The tokenizer of sacrebleu."""
    return config.bleu_tokenize or installed_tokenizer(counting(config, settings).tokenizer)


def counting(config: EvaluationConfig, settings: ModelSettings) -> Counting:
    """How the target is counted: by its language or the script of the reference, and by what the model writes."""
    _, target_lang = settings.pair(config.source_lang, config.target_lang)
    counted = counting_of_name(target_lang) or counting_of_text(read_text(config.target))
    return counted.of_units(settings.config.target_units)


def _check_tokenizer(name: str) -> None:
    check_choice("bleu_tokenize", name, BLEU.TOKENIZERS)
    if missing_packages(name):
        raise ValueError(f"bleu_tokenize: {name} needs more packages; pip install 'sacrebleu[{name[:2]}]'.")


def _check_units(config: EvaluationConfig, settings: ModelSettings) -> None:
    """Refuse units that the texts do not have: SimulEval would count something else, and say nothing."""
    unit, trained, spaced = latency_unit(config, settings), settings.config, _is_spaced(config.target)
    is_unspaced = counting(config, settings).unit == CHARACTER
    if unit == "word" and trained.target_units != WORD and is_unspaced:
        raise ValueError(
            f"latency_unit: word does not go with a model of target_units: {trained.target_units}, which writes "
            f"{trained.target_units}s: SimulEval would take each of them, or several written at once, for a word. "
            "Set latency_unit: char."
        )
    if unit == "char" and spaced:
        raise ValueError(
            f"target: {config.target} has white space between words or characters. With latency_unit: char SimulEval "
            "takes it out of the translation, but counts that of the reference. Write the reference without it "
            "(prepare_mt_test_data.py --target-unit character), or set latency_unit: word if the model writes words."
        )
    if unit == "word" and is_unspaced and not spaced:
        raise ValueError(
            f"latency_unit: word needs white space between the words of {config.target}, whose language is written "
            "without: AL would be -1. Remove the key, or write a reference that is cut into words."
        )
    if trained.source_units == CHARACTER and not _is_spaced(config.source):
        raise ValueError(
            f"source: {config.source} has no white space between its characters, and SimulEval would send whole lines "
            "to a model of source_units: character; prepare_mt_test_data.py --source-unit character writes it."
        )


def _is_spaced(path: str) -> bool:
    """Whether the lines of more than one character are cut by white space."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in map(str.strip, file) if len(line) > 1]
    return sum(map(str.isspace, "".join(lines))) > SPACE * sum(map(len, lines))
