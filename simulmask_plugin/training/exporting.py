"""What `llamafactory-cli export` must keep from a training: how the model is streamed, and how it ends a sentence.

Nothing of LLaMA-Factory is imported here; ``llamafactory_seams.py`` calls these functions around its export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulmask_plugin.batches.features import check_special_tokens
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.files.adapters import check_reproducible


def exported_settings(model_args: Any) -> ModelSettings | None:
    """Return the settings of the last adapter, or of the model if there is none; None: no model or adapter is ours.

    Thresholds that were calibrated are left out: the weights of a merge are rounded otherwise.

    Raises:
        ValueError: if the last adapter has no simulmask.json, but an earlier one or the model has, which may differ in
            policy, positions or prompt; if an adapter cannot be merged.
    """
    folder = model_args.adapter_folder or ""
    adapters = [Path(adapter, folder) for adapter in model_args.adapter_name_or_path or []]
    origins = [*reversed(adapters), Path(model_args.model_name_or_path)]
    known = [origin for origin in origins if (origin / FILE_NAME).is_file()]
    if not known:
        return None
    for adapter in adapters:
        check_reproducible(adapter)
    if model_args.rope_scaling is not None:
        raise ValueError("rope_scaling would change the positions that the model was trained with; remove it.")
    if known[0] != origins[0]:
        raise ValueError(
            f"{origins[0]} has no {FILE_NAME}, but {known[0]} has, so it is not known how the merged model has to "
            f"be streamed. Copy the {FILE_NAME} of the training that made {origins[0]} into it; if that training had "
            f"no simulmask: block, copy that of {known[0]}."
        )
    return ModelSettings.load(known[0]).uncalibrated()


def arguments_with_template(args: Any, template: str | None, settings: ModelSettings) -> Any:
    """Return LLaMA-Factory's arguments with the template of the training if they name none; refuse a different one."""
    if settings.template is None or template == settings.template:
        return args
    if template is not None:
        raise ValueError(
            f"template: {template} is not the template of the training, {settings.template} ({FILE_NAME}), and may end "
            f"sentences with another token; set template: {settings.template}, or remove the key."
        )
    if isinstance(args, dict):
        return {**args, "template": settings.template}
    return [*args, "--template", settings.template]


def check_tokenizer(tokenizer: Any, settings: ModelSettings) -> None:
    """Raise a ValueError where a token of the training, or its end of sentence, would be missing in the export."""
    check_special_tokens(tokenizer, settings.config.layout)
    if settings.end_of_sentence not in (None, tokenizer.eos_token):
        raise ValueError(
            f"The model was trained to end a sentence with {settings.end_of_sentence!r} ({FILE_NAME}), but the "
            f"exported tokenizer would end it with {tokenizer.eos_token!r}; set the template of the training in the "
            "YAML, and as model_name_or_path the model that was trained."
        )


def save_settings(settings: ModelSettings, tokenizer: Any, folder: str) -> None:
    """Write simulmask.json next to the exported model, and add its end of sentence to generation_config.json.

    The base of a LoRA training still has the end of sentence of its pretraining.
    """
    from transformers import GenerationConfig

    settings.save(folder)
    if not Path(folder, "generation_config.json").is_file():
        return
    generation = GenerationConfig.from_pretrained(folder)
    known = generation.eos_token_id
    ends = known if isinstance(known, list) else [] if known is None else [known]
    if tokenizer.eos_token_id not in ends:
        generation.eos_token_id = [tokenizer.eos_token_id, *ends]
        generation.save_pretrained(folder)
