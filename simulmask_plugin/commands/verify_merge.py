"""``simulmask verify-merge``: whether a merged model is the base model with its adapter, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simulmask_plugin.batches.collator import lay_out
from simulmask_plugin.batches.features import ExampleEncoder, Row
from simulmask_plugin.commands.arguments import MergeOptions
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.files.adapters import make_room
from simulmask_plugin.files.loading import check_location, load_tokenizer, weights_of
from simulmask_plugin.layouts.base import SequenceLayout
from simulmask_plugin.pictures.terminal import console, table, verdict
from simulmask_plugin.policies import WaitK, roll_out
from simulmask_plugin.streaming.parity import training_logits
from simulmask_plugin.text.prompts import READ_END, WRITE_END

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-5
"""Largest difference of logits that counts as equal (fp32), as a share of the largest logit if that is over 1.

A share, since W + BA is rounded once and Wx + BAx after each product: the difference grows with the logits and the
layers. A step of fp32 is 1.9e-6 at a logit of 16 to 32, so an absolute 1e-5 would leave deep models five of them."""

ROUNDING_STEPS = 4
"""The same if base and merged weights are stored in half precision, in steps of that precision."""

TEXTS = ("Ein Satz, 3.5 Wörter lang.", "it  has two spaces\nand a line break", "你好,世界 🙂")
EXAMPLES = (("Das ist ein kurzer Satz .", "This is a short sentence ."), ("eins zwei", "one two three four five"))
SEQUENCES, SEQUENCE_LENGTH, NEWEST_TOKENS = 4, 24, 8
"""Random token sequences for plain causal attention; the newest tokens, which a merge loses first, are among them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the result."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What a model directory holds, apart from the values of the weights.

    Attributes:
        dtype: in which the weights are stored.
        num_rows: rows of the input embedding.
        vocab_size: what the configuration says of them.
        is_tied: whether input and output embedding are one matrix.
        problems: weights that are missing, superfluous or of another shape than the model's.
    """

    dtype: torch.dtype
    num_rows: int
    vocab_size: int
    is_tied: bool
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both models are given: plain token sequences, and examples under the mask of training."""

    settings: ModelSettings
    sequences: Tensor
    layouts: list[SequenceLayout]


def run_verify_merge(options: MergeOptions) -> int:
    """Compare the merged model with base and adapter, print the checks; return 1 if one fails.

    Raises:
        ValueError: if a directory is missing, or the adapter was not trained with a ``simulmask:`` block.
    """
    checks = list(verify_merge(options.base, options.adapter, options.merged))
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        rows = [(check.name, verdict(check.passed), check.detail) for check in checks]
        console().print(
            table(("check", "", "detail"), rows, title=f"{options.merged} = {options.base} + {options.adapter}?")
        )
    return 0 if all(check.passed for check in checks) else 1


def verify_merge(base: str, adapter: str, merged: str) -> Iterator[Check]:
    """Yield the checks; the models are in memory one after the other."""
    check_location("--base", base)
    for folder, file in ((adapter, "adapter_config.json"), (merged, "config.json")):
        if not Path(folder, file).is_file():
            raise ValueError(f"{folder} has no {file}; expected --base MODEL --adapter ADAPTER --merged MODEL.")
    settings = ModelSettings.load(adapter)
    tokenizer = load_tokenizer(adapter if Path(adapter, "tokenizer_config.json").is_file() else base)
    yield check_settings(settings, merged)
    yield check_tokenizer(tokenizer, load_tokenizer(merged))

    model, expected = load_model(base)
    # a published tokenizer may have tokens without a row; they occur neither in training nor in streaming
    has_new_tokens = len(tokenizer) > len(load_tokenizer(base))
    num_tokens = len(tokenizer) if has_new_tokens else min(len(tokenizer), expected.num_rows)
    inputs = make_inputs(settings, tokenizer, num_tokens)
    before = special_rows(model, settings, tokenizer)
    reference = logits(_with_adapter(model, adapter, num_tokens), inputs)
    del model
    model, found = load_model(merged)
    yield Check("weights", not found.problems, "; ".join(found.problems) or "complete")
    yield check_dtype(expected, found)
    yield check_vocabulary(expected, found, num_tokens)
    yield check_tied(expected, found)
    if settings.config.layout.special_tokens:
        yield check_special_rows(before, special_rows(model, settings, tokenizer))
    if found.num_rows < num_tokens:
        yield Check("logits", False, f"not compared: {num_tokens - found.num_rows} tokens have no row")
        return
    yield check_logits(reference, logits(model, inputs), expected, found)


def check_settings(trained: ModelSettings, merged: str) -> Check:
    """The merged model must be streamed as the adapter was trained."""
    name = FILE_NAME
    if not Path(merged, FILE_NAME).is_file():
        return Check(name, False, "missing; merge again with the plugin installed (`simulmask env`), or copy it")
    same = ModelSettings.load(merged).uncalibrated() == trained.uncalibrated()
    return Check(name, same, "equal" if same else "differs from the adapter's; copy that file")


def check_tokenizer(trained: Any, merged: Any) -> Check:
    """The same text must become the same ids."""
    for text in TEXTS:
        if trained(text).input_ids != merged(text).input_ids:
            return Check("tokenizer", False, f"other ids for {text!r}; copy the tokenizer files of the adapter")
    if (len(trained), trained.eos_token_id) != (len(merged), merged.eos_token_id):
        return Check("tokenizer", False, f"{len(merged)} tokens, eos {merged.eos_token}; expected {len(trained)}")
    return Check("tokenizer", True, f"same ids, {len(merged)} tokens")


def check_dtype(base: Stored, merged: Stored) -> Check:
    """A merge must not store the weights less precisely than they were."""
    if merged.dtype in (base.dtype, torch.float32):
        return Check("dtype", True, _name(merged.dtype))
    return Check(
        "dtype",
        False,
        f"the merge changed {_name(base.dtype)} to {_name(merged.dtype)}, by infer_dtype of the merge YAML or, where "
        f"that says none, by LLaMA-Factory's default; set infer_dtype: {_name(base.dtype)} and merge again",
    )


def check_vocabulary(base: Stored, merged: Stored, num_tokens: int) -> Check:
    """Every token has its row, and the configuration knows the number of rows."""
    detail = f"{merged.num_rows} rows, vocab_size {merged.vocab_size}, {num_tokens} tokens (base: {base.num_rows} rows)"
    passed = merged.num_rows == merged.vocab_size and max(num_tokens, base.num_rows) <= merged.num_rows
    return Check("vocabulary", passed, detail)


def check_tied(base: Stored, merged: Stored) -> Check:
    """The embeddings are tied exactly if those of the base are."""
    words = {True: "tied", False: "separate"}
    detail = f"input and output embedding: {words[merged.is_tied]}"
    same = base.is_tied == merged.is_tied
    return Check("tied weights", same, detail if same else f"{detail}; in the base: {words[base.is_tied]}")


def special_rows(model: Any, settings: ModelSettings, tokenizer: Any) -> list[Tensor]:
    """Rows of the special tokens of the layout, (tokens, hidden), in the embedding and in the head."""
    if not settings.config.layout.special_tokens:
        return []
    ids = tokenizer.convert_tokens_to_ids(list(settings.config.layout.special_tokens))
    matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    return [matrix.detach()[ids].clone() for matrix in matrices if max(ids) < len(matrix)]


def check_special_rows(base: list[Tensor], merged: list[Tensor]) -> Check:
    """The special tokens of the layout interleaved have rows of their own, which the adapter has trained."""
    name = "special tokens"
    if len(merged) < 2:
        return Check(name, False, f"the merged model has no rows for {READ_END} and {WRITE_END}")
    if any(torch.equal(rows[0], rows[1]) for rows in merged):
        return Check(name, False, f"{READ_END} and {WRITE_END} have the same embedding")
    if base and all(torch.equal(before, after) for before, after in zip(base, merged, strict=True)):
        return Check(name, False, "their embeddings are those of the base: the adapter has not trained them")
    return Check(name, True, f"{READ_END} and {WRITE_END} differ, and were trained")


def check_logits(reference: list[Tensor], merged: list[Tensor], base: Stored, found: Stored) -> Check:
    """Every logit of the merged model is that of base and adapter."""
    if any(one.shape != other.shape for one, other in zip(reference, merged, strict=True)):
        return Check("logits", False, f"{merged[0].shape[-1]} a token, expected {reference[0].shape[-1]}")
    difference = max((one - other).abs().max().item() for one, other in zip(reference, merged, strict=True))
    largest = max(one.abs().max().item() for one in reference)
    is_half = base.dtype == found.dtype != torch.float32
    share = ROUNDING_STEPS * torch.finfo(found.dtype).eps if is_half else TOLERANCE
    allowed = share * max(1.0, largest)
    of = f"{share:.1g} of the largest logit, {largest:.1f}" if largest > 1 else "no logit is over 1"
    detail = f"largest difference {difference:.1e}, allowed {allowed:.1e} ({of})"
    if is_half:
        detail += f"; the merged weights are rounded to {_name(found.dtype)}, infer_dtype: float32 would keep them"
    if found.num_rows != base.num_rows:
        detail += "; rows of new tokens come from the adapter only if additional_target names the embeddings"
    return Check("logits", difference <= allowed, detail)


def make_inputs(settings: ModelSettings, tokenizer: Any, num_tokens: int) -> Inputs:
    """Random sequences of the first so many tokens, and a few examples laid out under wait-2."""
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(num_tokens, (SEQUENCES, SEQUENCE_LENGTH), generator=generator)
    sequences[0, -NEWEST_TOKENS:] = torch.arange(num_tokens - NEWEST_TOKENS, num_tokens)
    config, encoder = settings.config, ExampleEncoder(tokenizer, settings)
    languages = next(iter(settings.trained_on.language_pairs), (None, None))  # of several, any will do
    layouts = []
    for source, target in EXAMPLES:
        example = encoder.encode(Row(source, target, *languages))
        schedule = roll_out(WaitK(k=2), len(example.source_lengths), len(example.target_lengths))
        layouts.append(lay_out(config, example, schedule))
    return Inputs(settings, sequences, layouts)


@torch.no_grad()
def logits(model: PreTrainedModel, inputs: Inputs) -> list[Tensor]:
    """Logits of all inputs, (tokens, vocabulary) each."""
    plain = model(input_ids=inputs.sequences, use_cache=False).logits.flatten(0, 1)
    return [plain, *(training_logits(model, inputs.settings, layout) for layout in inputs.layouts)]


def load_model(folder: str) -> tuple[Any, Stored]:
    """A model in fp32, and what its directory holds."""
    from transformers import AutoModelForCausalLM

    with weights_of(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
        )
    model, info = loaded
    kinds = {"missing_keys": "missing", "unexpected_keys": "superfluous", "mismatched_keys": "of another shape"}
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    stored = Stored(
        dtype=model.dtype,
        num_rows=len(embedding),
        vocab_size=model.config.vocab_size,
        is_tied=embedding is output,
        problems=[f"{kind}: {', '.join(map(str, info[key]))}" for key, kind in kinds.items() if info[key]],
    )
    return model.float().eval(), stored


def _with_adapter(model: Any, adapter: str, num_tokens: int) -> PreTrainedModel:
    """The model with the adapter in it."""
    from peft import PeftModel

    make_room(model, num_tokens)
    adapted: Any = PeftModel.from_pretrained(model, adapter).eval().get_base_model()
    return adapted


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
