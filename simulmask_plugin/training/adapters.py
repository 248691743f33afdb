"""What an adapter trains besides its own layers: the embeddings of special tokens, and tied embeddings.

Each check raises a ValueError with the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from simulmask_plugin.text.prompts import READ_END, WRITE_END

REMEDIES = {
    "freeze": "set freeze_extra_modules: {names}, or finetuning_type: lora or full",
    "oft": "set additional_target: {names}, or finetuning_type: lora or full",
    "lora": "set create_new_adapter: true, since the adapter that goes on was made without them",
}
"""How to train the special tokens, by finetuning_type; full always does."""


def embedding_names(model: Any) -> tuple[str, str]:
    """Last parts of the names of the input embedding and the head."""
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    first, second = (next(name for name, one in model.named_modules() if one is layer) for layer in layers)
    return first.split(".")[-1], second.split(".")[-1]


def is_tied(model: Any) -> bool:
    """Whether input embedding and head are one matrix."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def lora_config(
    stock: Any,
    model: Any,
    token_ids: Sequence[int],
    *,
    target_modules: Iterable[str],
    modules_to_save: Iterable[str] | None,
    **kwargs: Any,
) -> Any:
    """Return the LoRA configuration that trains these tokens, if any, and keeps tied heads tied.

    PEFT ties copies of whole layers only for some names, but always ties the rows of tokens: in training, when it
    loads and when it merges. So if the YAML trains a tied embedding or head as a whole
    (``additional_target``, ``resize_vocab``), the rows of all tokens are trained instead. An adapter on tied
    embeddings is refused.

    ``stock`` is PEFT's class, and the names are those of the layers that get an adapter or are trained as a whole.
    """
    saved, targets = list(modules_to_save or ()), list(target_modules)
    names, tied = embedding_names(model), is_tied(model)
    trained = names[:1] if tied else names
    rows = {name: list(token_ids) for name in trained if not _holds(saved + targets, name)}
    if tied:
        if any(_holds(targets, name) for name in names):
            raise ValueError(
                f"lora_target names {' or '.join(names)}, which are one matrix in this model: an adapter on it would "
                f"change both in the merge, but one in training; set additional_target: {names[0]} to train it whole."
            )
        if any(_holds(saved, name) for name in names):
            saved = [one for one in saved if not any(_holds([one], name) for name in names)]
            rows = {names[0]: list(range(model.get_input_embeddings().num_embeddings))}
    indices = {name: ids for name, ids in rows.items() if ids}
    return stock(
        **kwargs,
        target_modules=targets,
        modules_to_save=saved or None,
        trainable_token_indices=indices or None,
    )


def check_oft(model: Any, modules_to_save: Iterable[str] | None) -> None:
    """Refuse OFT if it also trains tied embeddings, since PEFT would train two copies of them."""
    names = embedding_names(model)
    if is_tied(model) and any(_holds(list(modules_to_save or ()), name) for name in names):
        raise ValueError(
            f"finetuning_type: oft cannot train {' and '.join(dict.fromkeys(names))}, which are one matrix in this "
            "model, and would make two of them; set finetuning_type: lora, or remove additional_target and "
            "resize_vocab."
        )


def check_tokens_trained(model: Any, finetuning_type: str) -> None:
    """Refuse a training that would not train the embeddings of the two special tokens of ``interleaved``."""
    num_matrices = 1 if model.config.tie_word_embeddings else 2
    layers = [model.get_input_embeddings(), model.get_output_embeddings()][:num_matrices]
    if all(any(parameter.requires_grad for parameter in layer.parameters()) for layer in layers):
        return
    remedy = REMEDIES[finetuning_type].format(names=",".join(embedding_names(model)[:num_matrices]))
    if finetuning_type == "oft" and num_matrices == 1:
        remedy = "set finetuning_type: lora or full"
    raise ValueError(
        f"finetuning_type: {finetuning_type} would not train the embeddings of {READ_END} and {WRITE_END}, by which "
        f"the model decides; {remedy}."
    )


def _holds(modules: Iterable[str], name: str) -> bool:
    """Whether one of these names, which may be full paths, is that of the layer."""
    return any(module.split(".")[-1] == name for module in modules)
