"""``simulmask heads``: finds the attention heads that align, for policy `alignatt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simulmask_plugin.attention.alibi import prepare
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.commands.arguments import HeadsOptions
from simulmask_plugin.commands.fitting import encode, first_pairs, folder_to_write
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.corpora.chunking import Link, parse_links
from simulmask_plugin.corpora.parallel_text import Pair
from simulmask_plugin.files.texts import numbered_lines
from simulmask_plugin.layouts.base import SequenceLayout
from simulmask_plugin.policies import Offline
from simulmask_plugin.streaming.aids import HEADS, save_heads
from simulmask_plugin.streaming.parity import opening_rows
from simulmask_plugin.streaming.translator import Translator, load
from simulmask_plugin.training.machine import check_device


def run_heads(options: HeadsOptions) -> int:
    """Compare where every head looks, when a unit is predicted, with the links of an aligner; save the best heads.

    Raises:
        ValueError: if the model has another layout, or the links do not fit the texts.
    """
    folder = folder_to_write(options.model, options.adapter)
    languages = ModelSettings.load(folder).pair(options.source_lang, options.target_lang)
    linked = _linked(options)
    check_device(options.device)
    translator = load(options.model, options.adapter, device=options.device, attn_implementation="eager")
    found: Tensor | float = 0.0
    num_units = 0
    for layout, links in list(_examples(translator.encoder, languages, linked)):
        hits, of_example = _hits(translator, layout, links)
        found, num_units = found + hits, num_units + of_example
    if not isinstance(found, Tensor) or not num_units:
        raise ValueError(f"{options.alignments}: no link at all; expected lines such as 0-0 1-2.")
    shares = found / num_units
    best = [divmod(int(place), shares.shape[1]) for place in shares.flatten().topk(options.top).indices]
    save_heads(folder, tuple(best))
    print(f"{folder / HEADS}: of {num_units} linked target units,")
    for layer, head in best:
        print(f"  layer {layer}, head {head} looks at a source unit of the link in {float(shares[layer, head]):.1%}")
    return 0


def _linked(options: HeadsOptions) -> list[tuple[Pair, str, str]]:
    """Each pair with its links, and where they stand."""
    pairs = first_pairs(options.source, options.target, options.sentences)
    rows = numbered_lines(Path(options.alignments))
    links = list(islice(rows, len(pairs)))
    if len(links) < len(pairs) or (len(pairs) < options.sentences and next(rows, None)):
        raise ValueError(
            f"Expected a line of links in {options.alignments} for each of the {len(pairs)} pairs, got "
            f"{'fewer' if len(links) < len(pairs) else 'more'}."
        )
    return [(pair, *row) for pair, row in zip(pairs, links, strict=True)]


def _examples(
    encoder: ExampleEncoder, languages: tuple[str, str], linked: Iterable[tuple[Pair, str, str]]
) -> Iterator[tuple[SequenceLayout, set[Link]]]:
    """Yield the pairs, whose source is read whole, with their links."""
    for pair, links, where in linked:
        example = encode(encoder, pair, languages)
        sizes = len(example.source_lengths), len(example.target_lengths)
        try:
            parsed = parse_links(links, *sizes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield lay_out(encoder.settings.config, example, Offline().make_schedule(*sizes, None)), parsed


@torch.no_grad()
def _hits(
    translator: Translator, layout: SequenceLayout, links: set[Link]
) -> tuple[Float[Tensor, "layers heads"], int]:
    """How often each head looks most at a unit of the link, and how many target units have links."""
    model = translator.model
    prepare(model)
    batch = SimulMaskCollator(translator.encoder.settings, pad_token_id=0).pad([layout])
    inputs = training_inputs({key: value.to(model.device) for key, value in batch.items()}, model.config, model.dtype)
    del inputs["labels"]
    output = model(**inputs, use_cache=False, output_attentions=True)
    attention = torch.stack([layer[0] for layer in output.attentions])  # (layers, heads, rows, keys)
    units = torch.from_numpy(layout.source_unit).to(model.device)
    num_source = len(layout.example.source_lengths)
    is_source = (units >= 0) & (units < num_source)
    by_unit = attention.new_zeros((*attention.shape[:3], num_source))
    by_unit.index_add_(3, units[is_source], attention[..., is_source])
    looked = by_unit.argmax(dim=-1)  # (layers, heads, rows)
    rows = opening_rows(layout)
    ends = [-1, *(np.cumsum(layout.example.target_lengths) - 1).tolist()]
    targets = sorted({target for _, target in links})
    hits = torch.zeros(attention.shape[:2], device=model.device)
    for target in targets:
        linked = [source for source, other in links if other == target]
        at_unit = looked[..., rows[ends[target]], None]
        hits += (at_unit == torch.tensor(linked, device=model.device)).any(dim=-1)
    return hits, len(targets)
