"""A run of LLaMA-Factory's supervised fine-tuning with the ``simulmask:`` block, member by member.

Nothing of LLaMA-Factory is imported here: ``llamafactory_seams.py`` passes each member in and restores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulmask_plugin.attention.families import check_attention, text_config
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import check_rows, check_special_tokens
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.training.adapters import check_oft, check_tokens_trained, lora_config
from simulmask_plugin.training.chat_prompt import trained_settings
from simulmask_plugin.training.checkpoints import has_optimizer
from simulmask_plugin.training.dataset import PROMPTS, SimulMaskDatasetProcessor, count_prompts, trained_on
from simulmask_plugin.training.pissa import PissaCallback
from simulmask_plugin.training.quantization import check_quantized, quantizable
from simulmask_plugin.training.stream_eval import Sentence, StreamEval, StreamScores, first_sentences
from simulmask_plugin.training.trainer import SimulMaskTrainer

Stock = Callable[..., Any]
"""A member of LLaMA-Factory."""

MOST_REFUSED = 0.01
"""Maximum share of examples that cannot be encoded."""


@dataclass(kw_only=True, eq=False)
class SftRun:
    """What a run does differently: one method for each member of LLaMA-Factory, which it gets as ``stock``."""

    config: SimulMaskConfig
    seed: int
    """Of the random draws per example and epoch."""
    flat: bool
    """Whether batches are LLaMA-Factory's own (`arguments.is_flat`)."""
    logger: Any
    stream_eval: StreamEval | None = None
    tokenizer: Any = field(init=False)
    settings: ModelSettings = field(init=False)
    """Both are known once LLaMA-Factory has made tokenizer and template."""
    special_tokens: list[int] = field(default_factory=list)
    prompts: Counter[str] = field(default_factory=Counter)
    """What the prompts of the training data name."""
    held_out: list[list[Sentence]] = field(default_factory=list)
    """What to stream of every held-out data set."""
    scores: StreamScores | None = None
    base: Any = None
    """The model that gets an adapter."""

    # Data

    def get_dataset(
        self, stock: Stock, template: Any, model_args: Any, data_args: Any, *args: Any, tokenizer: Any, **kwargs: Any
    ) -> Any:
        """Record tokenizer and template, and then what the prompts of the data name."""
        self.tokenizer = tokenizer
        self.settings = trained_settings(self.config, template, tokenizer, name=data_args.template)
        check_special_tokens(tokenizer, self.config.layout)
        self.special_tokens = tokenizer.convert_tokens_to_ids(list(self.config.layout.special_tokens))
        module = stock(template, model_args, data_args, *args, tokenizer=tokenizer, **kwargs)
        found = trained_on(self.prompts)
        self.settings = self.settings.after_training_on(found)
        self.logger.info_rank0(f"simulmask: the data translates {found.described()}.")
        return module

    def make_processor(self, stock: type, template: Any, tokenizer: Any, processor: Any, data_args: Any) -> Any:
        """Encode rows ourselves; if batches are LLaMA-Factory's own, its processor continues with our tokens."""
        rows = SimulMaskDatasetProcessor(tokenizer, self.settings, data_args.cutoff_len)
        return flatten(stock)(template, tokenizer, processor, data_args, rows) if self.flat else rows

    def preprocess(self, stock: Stock, dataset: Any, data_args: Any, *args: Any, is_eval: bool, **kwargs: Any) -> Any:
        """Report how many examples were dropped and how many prefix pairs were made.

        Record what the prompts name and, of held-out data, what is to be streamed.
        """
        processed = stock(dataset, data_args, *args, is_eval=is_eval, **kwargs)
        if processed is None:
            return None
        prompts, processed = count_prompts(processed), processed.remove_columns(PROMPTS)
        if not is_eval:
            self.prompts += prompts
        elif self.stream_eval is not None:
            rows = SimulMaskDatasetProcessor(self.tokenizer, self.settings, data_args.cutoff_len)
            self.held_out.append(first_sentences(dataset, rows, self.stream_eval.sentences))
        num_kept = prompts.total()
        if num_kept < len(dataset):
            self._report_dropped(dataset, num_kept, data_args.cutoff_len)
        if self.config.layout.splits:
            self.logger.info_rank0(f"simulmask: {num_kept} sentence pairs became {len(processed)} prefix pairs.")
        return processed

    def _report_dropped(self, dataset: Any, num_kept: int, cutoff_len: int) -> None:
        """Report how many examples were dropped and why; a ValueError if more than MOST_REFUSED cannot be encoded."""
        refused = list(SimulMaskDatasetProcessor(self.tokenizer, self.settings, cutoff_len).refused(dataset))
        too_long = len(dataset) - num_kept - len(refused)
        if too_long:
            self.logger.warning_rank0(
                f"simulmask: {too_long} of {len(dataset)} examples are longer than cutoff_len {cutoff_len} and were "
                "dropped; raise cutoff_len to keep them."
            )
        if refused:
            first = "\n".join(refused[:3])
            message = f"{len(refused)} of {len(dataset)} examples cannot be encoded, first:\n{first}\n"
            if len(refused) > MOST_REFUSED * len(dataset):
                raise ValueError(
                    f"{message}That is more than {MOST_REFUSED:.0%}; use another tokenizer or other units, or clean "
                    "the data."
                )
            self.logger.warning_rank0(f"simulmask: {message}They were dropped.")

    def make_collator(self, stock: Stock, *, tokenizer: Any, pad_to_multiple_of: int | None, **kwargs: Any) -> Any:
        """Lay out examples in batches, unless batches are LLaMA-Factory's own."""
        if self.flat:
            return stock(tokenizer=tokenizer, pad_to_multiple_of=pad_to_multiple_of, **kwargs)
        return SimulMaskCollator(
            self.settings, pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of, seed=self.seed
        )

    # Model and trainer

    def load_model(
        self, stock: Stock, tokenizer: Any, model_args: Any, finetuning_args: Any, is_trainable: bool
    ) -> Any:
        """Check what the libraries have made of the YAML: attention, quantized layers, trained embeddings."""
        with quantizable() if model_args.quantization_bit else nullcontext():
            model = stock(tokenizer, model_args, finetuning_args, is_trainable)
        check_rows(tokenizer, self.settings, text_config(model.config).vocab_size)
        if not self.flat:
            check_attention(model.config, model.config._attn_implementation)
        if model_args.quantization_bit:
            count = check_quantized(model, f"quantization_bit: {model_args.quantization_bit}")
            self.logger.info_rank0(f"simulmask: {count} layers are quantized to {model_args.quantization_bit} bits.")
        if is_trainable and self.special_tokens:
            check_tokens_trained(model, finetuning_args.finetuning_type)
        return model

    def set_up_lora(self, stock: Stock, model_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Record the model for the configuration that LLaMA-Factory makes in this call."""
        self.base = model
        return stock(model_config, model, *args, **kwargs)

    def make_lora_config(self, stock: Stock, **kwargs: Any) -> Any:
        """Let LoRA train the embeddings of the special tokens, which it would freeze, and keep tied heads tied."""
        return lora_config(stock, self.base, self.special_tokens, **kwargs)

    def make_oft_config(self, stock: Stock, *, modules_to_save: Any, **kwargs: Any) -> Any:
        """Refuse tied layers, which OFT would untie."""
        check_oft(self.base, modules_to_save)
        return stock(modules_to_save=modules_to_save, **kwargs)

    def make_trainer(self, stock: type, **kwargs: Any) -> Any:
        """Compose our trainer and LLaMA-Factory's; warn if a training resumes without its optimizer."""
        resumed = kwargs["args"].resume_from_checkpoint
        if isinstance(resumed, str) and not has_optimizer(Path(resumed)):
            self.logger.warning_rank0(
                f"simulmask: {resumed} holds no optimizer (save_only_model, or an interrupted save): the training "
                "resumes from its weights, but optimizer and learning rate start from step 0. Use another "
                "checkpoint to resume exactly."
            )
        if self.stream_eval is not None:
            data = kwargs["eval_dataset"]
            prefixes = [f"eval_{name}" for name in data] if isinstance(data, dict) else ["eval"]
            sentences = dict(zip(prefixes, self.held_out, strict=True))
            self.scores = StreamScores.of_training(self.stream_eval, self.tokenizer, self.settings, sentences)
        own = {"settings": self.settings, "stream_scores": self.scores}
        composed = type("SimulMaskSeq2SeqTrainer", (SimulMaskTrainer, stock), own)
        trainer = composed(**kwargs)
        if kwargs["finetuning_args"].pissa_convert:
            trainer.add_callback(PissaCallback(self.settings))
        return trainer

    def plot_loss(self, stock: Stock, directory: str, *, keys: list[str]) -> None:
        """Draw the scores of streaming, too."""
        stock(directory, keys=[*keys, *(self.scores.metrics if self.scores else ())])


def flatten(stock: Any) -> Any:
    """Compose a LLaMA-Factory processor that gets token ids and labels of chunks from ours and may pack them."""

    class FlatProcessor(stock):
        def __init__(self, template: Any, tokenizer: Any, processor: Any, data_args: Any, rows: Any) -> None:
            super().__init__(template, tokenizer, processor, data_args)
            self.rows = rows

        def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
            """Pass each encoded row to LLaMA-Factory as the only message of a prompt, and count them."""
            prompts = [[feature] for feature in self.rows.encode(examples)]
            rest = {f"_{name}": [None] * len(prompts) for name in ("system", "tools", "images", "videos", "audios")}
            features = super().preprocess_dataset({"_prompt": prompts, "_response": [[None]] * len(prompts), **rest})
            num_features = len(features["input_ids"])
            named = [prompt for (feature,) in prompts for prompt in feature[PROMPTS]]
            return {**features, PROMPTS: [named, *[[]] * num_features][:num_features]}

        def _encode_data_example(self, prompt: list[Any], **kwargs: Any) -> tuple[list[int], list[int]]:
            layout = SimulMaskCollator(self.rows.settings, pad_token_id=0).lay_out(prompt[0])
            return layout.input_ids.tolist(), layout.labels.tolist()

        def print_data_example(self, example: Mapping[str, Any]) -> None:
            self.rows.print_data_example(example)

    return FlatProcessor
