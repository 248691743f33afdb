"""``simulmask probe``: fits what policy `stability` asks, see `streaming.probe`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.batches.features import Row
from simulmask_plugin.commands.arguments import ProbeOptions
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.texts import numbered_lines
from simulmask_plugin.layouts.base import SequenceLayout
from simulmask_plugin.layouts.rows import UnitLayout
from simulmask_plugin.policies import POLICIES, Offline, RandomWalk
from simulmask_plugin.streaming.parity import opening_rows
from simulmask_plugin.streaming.probe import FILE_NAME, area_under_curve, directions, fit, shape_of
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.streaming.translator import Translator, load
from simulmask_plugin.training.machine import check_device

HELD_OUT = 5
"""Every so many-th batch is not fitted to, but tells how good the probe is."""


def run_probe(options: ProbeOptions) -> int:
    """Predict sentence pairs twice, with part of the source and with all of it, and fit what tells the two apart.

    Raises:
        ValueError: if the model has another layout, or every prediction stays.
    """
    folder = folder_to_write(options.model, options.adapter)
    settings = ModelSettings.load(folder)
    check_device(options.device)
    translator = load(options.model, options.adapter, device=options.device)
    basis = directions(translator.model.get_output_embeddings().weight.detach()[: translator.encoder.num_tokens])
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])  # fitted to, held out
    for number, (now, whole) in enumerate(_predictions(translator, options)):
        stays = (now.argmax(dim=-1) == whole.argmax(dim=-1)).float()[:, None]
        parts[number % HELD_OUT == HELD_OUT - 1].append(torch.cat([now @ basis, shape_of(now), stays], dim=1))
    if not all(parts):
        raise ValueError(f"Expected at least {HELD_OUT} batches of sentences, got fewer; add sentences.")
    fitted, held_out = (torch.cat(part) for part in parts)
    probe = fit(fitted[:, :-4], fitted[:, -4:-1], fitted[:, -1], basis)
    inside, shape, stays = held_out[:, :-4], held_out[:, -4:-1], held_out[:, -1]
    scores = inside @ (basis.T @ probe.tokens) + shape @ probe.shape
    probe.save(folder)
    rest = settings.uncalibrated(*(name for name, policy in POLICIES.items() if policy.needs_probe))
    if rest != settings:
        rest.save(folder)
        print("The thresholds that were calibrated with the probe before are removed; calibrate again.")
    share = float(torch.cat([fitted, held_out])[:, -1].mean())
    print(
        f"{Path(folder, FILE_NAME)}: of {len(fitted) + len(held_out)} predictions with part of the source {share:.0%} "
        f"stay with all of it. Of a held-out pair, the one that stays has the higher score in "
        f"{area_under_curve(scores, stays):.1%} (by its probability alone: {area_under_curve(shape[:, 0], stays):.1%})."
    )
    return 0


def folder_to_write(model: str, adapter: str | None) -> Path:
    """Where what is fitted to a model goes.

    Raises:
        ValueError: if it is not the user's own, or the model has no rows of which a policy could ask.
    """
    folder = TrainedModel.of(model, adapter).own_folder()
    layout = ModelSettings.load(folder).config.layout
    if not isinstance(layout, UnitLayout):
        raise ValueError(f"{folder} has layout: {layout.name}; expected prefix or slots.")
    return folder


def _predictions(
    translator: Translator, options: ProbeOptions
) -> Iterator[tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]]:
    """Yield, of a batch of sentence pairs, the logits of the rows that open a unit: with part of the source, with all.

    The target is forced, and schedules are drawn as in training.
    """
    encoder, random = translator.encoder, np.random.default_rng(options.seed)
    config, collator = encoder.settings.config, SimulMaskCollator(encoder.settings, pad_token_id=0)
    languages = encoder.settings.pair(options.source_lang, options.target_lang)
    policies = RandomWalk(most=options.most), Offline()
    texts = [[line for line, _ in numbered_lines(Path(path))] for path in (options.source, options.target)]
    pairs = list(islice(zip(*texts, strict=True), options.sentences))
    prepare(translator.model)
    for start in range(0, len(pairs), options.batch_size):
        layouts: tuple[list[SequenceLayout], list[SequenceLayout]] = ([], [])
        for source, target in pairs[start : start + options.batch_size]:
            example = encoder.encode(Row(source, target, *languages))
            lengths = len(example.source_lengths), len(example.target_lengths)
            for policy, of_policy in zip(policies, layouts, strict=True):
                of_policy.append(lay_out(config, example, policy.make_schedule(*lengths, random)))
        now, whole = (_logits(translator, collator, of_policy) for of_policy in layouts)
        places = [(i, *rows) for i, pair in enumerate(zip(*layouts, strict=True)) for rows in _same_rows(*pair)]
        which, here, there = torch.tensor(places).T
        yield now[which, here], whole[which, there]


@torch.no_grad()
def _logits(translator: Translator, collator: SimulMaskCollator, layouts: Sequence[SequenceLayout]) -> Tensor:
    """Logits (batch, rows, tokens) of a training forward pass, fp32."""
    model = translator.model
    batch = {key: value.to(model.device) for key, value in collator.pad(layouts).items()}
    inputs = training_inputs(batch, model.config, model.dtype)
    del inputs["labels"]
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits[..., : translator.encoder.num_tokens].float()


def _same_rows(part: SequenceLayout, whole: SequenceLayout) -> Iterator[tuple[int, int]]:
    """Yield the rows of two layouts of an example that predict the same unit, where the first does not see all."""
    opening = [opening_rows(layout) for layout in (part, whole)]
    for token in opening[0].keys() & opening[1].keys():
        if part.num_read[opening[0][token]] < len(part.example.source_lengths):
            yield opening[0][token], opening[1][token]
