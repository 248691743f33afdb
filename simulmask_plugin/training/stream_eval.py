"""The key ``stream_eval`` of the block: what a training streams whenever it evaluates, and the scores of that."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Annotated, Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import gather_object
from accelerate.utils.deepspeed import HfDeepSpeedConfig  # there without DeepSpeed, too, unlike in accelerate.utils
from sacrebleu.metrics import BLEU
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from simulmask_plugin.batches.features import ExampleEncoder, row_of
from simulmask_plugin.config.block import WHERE, SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.options import MOST_AT_ONCE, MOST_TOKENS, Must, between, read
from simulmask_plugin.streaming.lane import Lane, Steps
from simulmask_plugin.streaming.options import Decision, check_policies, open_session
from simulmask_plugin.streaming.pool import Job, Pool
from simulmask_plugin.streaming.session import Session
from simulmask_plugin.streaming.simulation import Record, laal, simulate
from simulmask_plugin.text.languages import Counting, counting_of_name, counting_of_text, installed_tokenizer
from simulmask_plugin.text.prompts import Prompt
from simulmask_plugin.text.units import CHARACTER, WORD, join_units, split_units
from simulmask_plugin.training.dataset import COLUMNS, SimulMaskDatasetProcessor

KEY = f"{WHERE}stream_eval"
LATENCY_UNITS = {WORD: "word", CHARACTER: "char"}
"""The unit of a language -> SimulEval's --eval-latency-unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEval:
    """The keys of ``stream_eval``."""

    policies: Annotated[tuple[Mapping[str, Any], ...], Must("be a list such as [{policy: wait_k, k: 3}]", bool)]
    """What to stream with, as in an evaluation."""
    sentences: Annotated[int, between(1)] = 200
    """The first so many sentence pairs of the held-out data, each once."""
    lanes: Annotated[int, between(1, MOST_AT_ONCE)] = 32
    """Sentences at once in each process; memory grows with it."""
    max_target_tokens: Annotated[int, between(1, MOST_TOKENS)] = 512
    """A sentence ends after so many."""

    @classmethod
    def of_block(cls, block: Mapping[str, Any]) -> StreamEval | None:
        """Read the key of a block; None: it is not there.

        Raises:
            ValueError: naming the key that is unknown, missing or wrong.
        """
        values = block.get("stream_eval")
        return None if values is None else read(cls, values, f"{KEY}.")

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The policies; their names are those of the metrics."""
        return tuple(map(Decision.from_dict, self.policies))


def check_stream_eval(stream: StreamEval, config: SimulMaskConfig, model_args: Any, data_args: Any, args: Any) -> None:
    """Refuse what cannot be streamed or is never evaluated, before anything is loaded; ``args``: of the training.

    Raises:
        ValueError: naming the key and the remedy.
    """
    # of the prompt, which only the tokenizer can tell, no policy needs anything
    check_policies(stream.policies, ModelSettings(config, Prompt("", " ")), f"{KEY}.policies")
    if not data_args.eval_dataset and not data_args.val_size:
        raise ValueError(f"{KEY} streams held-out data, of which there is none; set eval_dataset or val_size.")
    if not args.do_eval:
        raise ValueError(
            f"{KEY} streams whenever LLaMA-Factory evaluates, and with eval_strategy: no it never does; set "
            "eval_strategy: steps (and eval_steps), or do_eval: true for the end alone."
        )
    if model_args.flash_attn == "fa2":
        raise ValueError(f"{KEY} does not work with flash_attn: fa2, which takes no mask; set flash_attn: sdpa.")
    check_whole_weights(args.deepspeed, args.fsdp)


def check_whole_weights(deepspeed: Any, fsdp: Any) -> None:
    """Refuse processes that hold parts of the weights: they would have to call the model equally often.

    Args:
        deepspeed: DeepSpeed's configuration, or its path; None: that of the launcher, if there is one.
        fsdp: LLaMA-Factory's key.

    Raises:
        ValueError: naming the key and the remedy.
    """
    is_zero3 = is_deepspeed_zero3_enabled() or bool(deepspeed) and HfDeepSpeedConfig(deepspeed).is_zero3()
    if is_zero3 or fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ValueError(
            f"{KEY} does not work with {'DeepSpeed ZeRO-3' if is_zero3 else 'FSDP'}, which leaves no process a whole "
            f"model to stream with; use DeepSpeed ZeRO-2, or remove the key and run `simulmask eval` on checkpoints."
        )


class Sentence(NamedTuple):
    """A held-out sentence pair, as the texts of a row have it, and its languages."""

    source: str
    target: str
    source_lang: str
    target_lang: str


def first_sentences(
    rows: Iterable[Mapping[str, Any]], processor: SimulMaskDatasetProcessor, count: int
) -> list[Sentence]:
    """The first different sentence pairs among the rows that the training would not drop."""
    settings, found = processor.settings, dict[Sentence, None]()
    for values in rows:
        if len(found) == count:
            break
        if next(processor.encode({column: [value] for column, value in values.items()}), None) is not None:
            row = row_of({column: values[f"_{column}"] for column in COLUMNS}, settings.config)
            found[Sentence(row.source, row.target, *settings.pair(row.source_lang, row.target_lang))] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The sentences of one data set, and how their translations are counted."""

    sentences: Sequence[Sentence]
    counting: Counting

    @classmethod
    def of(cls, sentences: Sequence[Sentence], settings: ModelSettings) -> HeldOut:
        """Count as an evaluation does.

        Raises:
            ValueError: if the model is not trained on a language pair, or two languages are counted differently.
        """
        text = "\n".join(one.target for one in sentences)
        found: dict[Counting, str] = {}
        for source_lang, target_lang in sorted({(one.source_lang, one.target_lang) for one in sentences}):
            try:
                settings.pair(source_lang, target_lang)
            except ValueError as error:
                raise ValueError(f"{KEY}: {error}") from error
            counted = counting_of_name(target_lang) or counting_of_text(text)
            found[counted.of_units(settings.config.target_units)] = target_lang
        if len(found) > 1:
            raise ValueError(
                f"{KEY}: the held-out data has {' and '.join(found.values())}, whose BLEU and latency are counted "
                "differently; give each language a data set of its own, and set eval_on_each_dataset: true."
            )
        return cls(sentences, next(iter(found)))

    @property
    def latency_unit(self) -> str:
        """As SimulEval has it."""
        return LATENCY_UNITS[self.counting.unit]

    def texts(self, sentence: Sentence, source_units: str) -> tuple[list[str], str]:
        """Source and reference as the files of an evaluation would have them."""
        unit = self.counting.unit
        return split_units(sentence.source, source_units), join_units(split_units(sentence.target, unit), unit)


@dataclass(frozen=True, slots=True)
class StreamScores:
    """Streams held-out sentences through the model that is being trained.

    Attributes:
        keys: of the block.
        encoder: tokenizer and settings.
        data: the data sets, by the prefix of their metrics: "eval", or "eval_NAME" with ``eval_on_each_dataset``.
    """

    keys: StreamEval
    encoder: ExampleEncoder
    data: Mapping[str, HeldOut]

    @classmethod
    def of_training(
        cls, keys: StreamEval, tokenizer: Any, settings: ModelSettings, data: Mapping[str, Sequence[Sentence]]
    ) -> StreamScores:
        """What a training streams, once it is known what its own data names.

        Raises:
            ValueError: if a policy or a data set names what is not trained, or languages are counted differently.
        """
        check_policies(keys.policies, settings, f"{KEY}.policies")
        sets = {prefix: HeldOut.of(sentences, settings) for prefix, sentences in data.items()}
        return cls(keys, ExampleEncoder(tokenizer, settings), sets)

    def measure(self, model: PreTrainedModel, prefix: str) -> dict[str, float]:
        """BLEU and LAAL of one data set, each policy's and their mean; the same in all processes, which share the work.

        LAAL is missing where nothing was written for any sentence.

        Args:
            model: in evaluation mode, with all of its weights.
            prefix: of the metrics; there are none for a data set that is not known.
        """
        if prefix not in self.data:
            return {}
        held_out, decisions = self.data[prefix], self.keys.decisions
        jobs = [(sentence, decision) for sentence in held_out.sentences for decision in decisions]
        state = PartialState()
        own = range(state.process_index, len(jobs), state.num_processes)
        results = Pool(model, self.keys.lanes).run(self._job(model, held_out, *jobs[index]) for index in own)
        mine = [(own[number], record) for number, (_, record) in results]
        records = [record for _, record in sorted(gather_object(mine), key=lambda one: one[0])]
        scores: dict[str, list[float]] = {}
        named: dict[str, float] = {}
        for number, decision in enumerate(decisions):
            for metric, score in _scores(records[number :: len(decisions)], held_out):
                scores.setdefault(metric, []).append(score)
                named[f"{prefix}_{metric}_{decision.name}"] = score
        means = {f"{prefix}_{key}": mean(of_key) for key, of_key in scores.items() if len(of_key) == len(decisions)}
        return means | named

    def _job(
        self, model: PreTrainedModel, held_out: HeldOut, sentence: Sentence, decision: Decision
    ) -> Job[tuple[Session, Record]]:
        """What opens the session of a sentence on a lane."""

        def open_on(lane: Lane) -> Steps[tuple[Session, Record]]:
            session = open_session(
                model,
                self.encoder,
                decision,
                source_lang=sentence.source_lang,
                target_lang=sentence.target_lang,
                max_target_tokens=self.keys.max_target_tokens,
                lane=lane,
            )
            texts = held_out.texts(sentence, self.encoder.settings.config.source_units)
            return simulate(session, *texts, held_out.latency_unit)

        return open_on

    @property
    def metrics(self) -> list[str]:
        """Names of the means, for plots."""
        return [f"{prefix}_{metric}" for prefix in self.data for metric in ("bleu", "laal")]


def _scores(records: Sequence[Record], held_out: HeldOut) -> Iterator[tuple[str, float]]:
    """Yield the scores of one policy, as an evaluation computes them."""
    bleu = BLEU(tokenize=installed_tokenizer(held_out.counting.tokenizer))
    predictions, references = zip(*((one["prediction"], one["reference"]) for one in records), strict=True)
    yield "bleu", bleu.corpus_score(list(predictions), [list(references)]).score
    written = [laal(one, held_out.latency_unit) for one in records if one["delays"]]
    if written:
        yield "laal", mean(written)
