"""``simulmask probe``: fits what policy `stability` asks, see `streaming.probe`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.commands.arguments import ProbeOptions
from simulmask_plugin.commands.fitting import encode, first_pairs, folder_to_write
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.layouts.base import Example, SequenceLayout
from simulmask_plugin.policies import POLICIES, RandomWalk, ReadSchedule
from simulmask_plugin.streaming.parity import opening_rows
from simulmask_plugin.streaming.probe import (
    CALM,
    FILE_NAME,
    NUM_SHAPE,
    UNKNOWN,
    area_under_curve,
    directions,
    divergence,
    fit,
    shape_of,
)
from simulmask_plugin.streaming.translator import Translator, load
from simulmask_plugin.training.machine import check_device

HELD_OUT = 5
"""Every so many-th batch is not fitted to, but tells how good the probe is."""


def run_probe(options: ProbeOptions) -> int:
    """Predict sentence pairs with part of the source and with a unit more, and fit what tells when that changes little.

    Raises:
        ValueError: if the model has another layout, or there are too few sentences, or one that cannot be encoded.
    """
    folder = folder_to_write(options.model, options.adapter)
    settings = ModelSettings.load(folder)
    languages = settings.pair(options.source_lang, options.target_lang)
    pairs = first_pairs(options.source, options.target, options.sentences)
    check_device(options.device)
    translator = load(options.model, options.adapter, device=options.device)
    examples = [encode(translator.encoder, pair, languages) for pair in pairs]
    basis = directions(translator.model.get_output_embeddings().weight.detach()[: translator.encoder.num_tokens])
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])  # fitted to, held out
    for number, (now, more, before) in enumerate(_predictions(translator, examples, options)):
        stays = (divergence(more, now) < CALM).float()[:, None]
        parts[number % HELD_OUT == HELD_OUT - 1].append(torch.cat([now @ basis, shape_of(now, before), stays], dim=1))
    if not all(parts):
        raise ValueError(f"Expected at least {HELD_OUT} batches of sentences, got fewer; add sentences.")
    fitted, held_out = ((part[:, :-1], part[:, -1]) for part in map(torch.cat, parts))
    probe = fit(*fitted, basis)
    features, stays = held_out
    scores = features @ torch.cat([basis.T @ probe.tokens, probe.shape])
    probe.save(folder)
    rest = settings.uncalibrated(*(name for name, policy in POLICIES.items() if policy.needs_probe))
    if rest != settings:
        rest.save(folder)
        print("The thresholds that were calibrated with the probe before are removed; calibrate again.")
    share = float(torch.cat([fitted[1], stays]).mean())
    alone = area_under_curve(features[:, -NUM_SHAPE], stays)
    print(
        f"{Path(folder, FILE_NAME)}: {share:.0%} of {len(fitted[1]) + len(stays)} predictions hardly change with one "
        f"source unit more. Of a held-out pair, the one that does not has the higher score in "
        f"{area_under_curve(scores, stays):.1%} (by the probability of its token alone: {alone:.1%})."
    )
    return 0


def _predictions(
    translator: Translator, examples: Sequence[Example], options: ProbeOptions
) -> Iterator[tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"], Float[Tensor, " rows"]]]:
    """Yield, of a batch of sentence pairs, what the rows that open a unit predict.

    These are the logits with part of the source, the logits with one unit more, and the divergence of the first from
    those with one unit less. The target is forced, and schedules are drawn as in training.
    """
    settings, random = translator.encoder.settings, np.random.default_rng(options.seed)
    collator = SimulMaskCollator(settings, pad_token_id=0)
    policy = RandomWalk(most=options.most)
    prepare(translator.model)
    for start in range(0, len(examples), options.batch_size):
        layouts: tuple[list[SequenceLayout], ...] = ([], [], [])
        for example in examples[start : start + options.batch_size]:
            schedule = policy.make_schedule(len(example.source_lengths), len(example.target_lengths), random)
            for of_shift, shift in zip(layouts, (0, 1, -1), strict=True):
                of_shift.append(lay_out(settings.config, example, shifted(schedule, shift)))
        now, more, less = (_logits(translator, collator, of_shift) for of_shift in layouts)
        places = [(i, *rows) for i, laid_out in enumerate(zip(*layouts, strict=True)) for rows in _same_rows(*laid_out)]
        if not places:  # nothing but sentences that are read whole
            continue
        which, here, there, before, num_read = torch.tensor(places).T.to(now.device)
        changed = divergence(now[which, here], less[which, before])
        yield now[which, here], more[which, there], changed.where(num_read > 1, changed.new_tensor(UNKNOWN))


def shifted(schedule: ReadSchedule, shift: int) -> ReadSchedule:
    """The schedule with so many source units more before every target unit, as far as there are some."""
    most = schedule.num_source
    return ReadSchedule(tuple(min(max(g + shift, 0), most) for g in schedule.num_read), most)


@torch.no_grad()
def _logits(translator: Translator, collator: SimulMaskCollator, layouts: Sequence[SequenceLayout]) -> Tensor:
    """Logits (batch, rows, tokens) of a training forward pass, fp32."""
    model = translator.model
    batch = {key: value.to(model.device) for key, value in collator.pad(layouts).items()}
    inputs = training_inputs(batch, model.config, model.dtype)
    del inputs["labels"]
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits[..., : translator.encoder.num_tokens].float()


def _same_rows(now: SequenceLayout, more: SequenceLayout, less: SequenceLayout) -> Iterator[tuple[int, int, int, int]]:
    """Yield the rows of three layouts of an example that predict the same unit, where the first does not see all.

    The fourth number is how many units the first one sees.
    """
    opening = [opening_rows(layout) for layout in (now, more, less)]
    for token, row in opening[0].items():
        num_read = int(now.num_read[row])
        if num_read < len(now.example.source_lengths) and token in opening[1] and token in opening[2]:
            yield row, opening[1][token], opening[2][token], num_read
