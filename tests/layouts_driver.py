"""How an example is laid out, streamed and forced in whatever layout: all that the contract tests know of one.

The blocks come from the table of layouts and from what the block itself accepts, so that a layout is tested by being
in the table.
"""

import torch
from driving import is_valid
from hypothesis import strategies as st
from reference import pieces_of, settings_of

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.batches.collator import SimulMaskCollator, lay_out
from simulmask_plugin.batches.features import features_of, longest_layout, schedule_of
from simulmask_plugin.config.block import SimulMaskConfig, keys_of
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.options import choices_of
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.parity import force, promises_parity

CHOICES = [(layout, key) for layout in LAYOUTS.values() for key in keys_of(layout)]
VARIANTS = [
    {},
    *({key: choice} for layout, key in CHOICES for choice in choices_of(layout, key)),
    {"positions": "contiguous", "prefix_pairs": True},
]
NUMBERS = {
    "slot_length": st.integers(1, 9),
    "group_offset": st.integers(0, 40),
    "look_ahead_rate": st.sampled_from([0.5, 1]),
}


def block_of(layout, **keys):
    """The least block of a layout whose g is a column of the data."""
    block = {"layout": layout, **keys}
    return block if is_valid(block) else {"policy": "schedule", **block}


def all_blocks():
    """Every layout with each of its conventions, by name."""
    blocks = {}
    for layout in LAYOUTS:
        for variant in VARIANTS:
            block = block_of(layout, **variant)
            if is_valid(block):
                name = " ".join([layout, *map(str, variant.values())])
                blocks.setdefault(SimulMaskConfig.from_dict(block), (name, block))
    return dict(blocks.values())


BLOCKS = all_blocks()
assert {block["layout"] for block in BLOCKS.values()} == set(LAYOUTS)
PROMISED = [name for name, block in BLOCKS.items() if promises_parity(settings_of(**block))]
UNIT_BY_UNIT = [name for name in PROMISED if is_valid(BLOCKS[name] | {"rows": "own_unit"})]
"""Those in which a WRITE writes one unit, however much source has arrived."""


@st.composite
def drawn_blocks(draw, layout, among=tuple(BLOCKS)):
    """Any block of a layout, with any of the numbers that it reads."""
    block = BLOCKS[draw(st.sampled_from([name for name in among if BLOCKS[name]["layout"] == layout]))]
    keys = {key: draw(numbers) for key, numbers in NUMBERS.items()}
    return block | {key: value for key, value in keys.items() if is_valid(block | {key: value})}


def family_of(block):
    """A family that takes the positions of a block."""
    return "falcon" if block.get("positions") == "modified_alibi" else "llama"


# Training


def trained(settings, example, g):
    """The sequences that training makes of an example, and their positions."""
    collator = SimulMaskCollator(settings, pad_token_id=0)
    for feature in features_of(example, g, settings.config):
        layout = collator.lay_out(feature)
        positions = collator.pad([layout])["position_ids"][0].tolist()
        yield layout, positions, longest_layout(settings.config, feature)


def least_read(settings):
    """The least g(1) that the layout takes: a chunk, for one, begins with source."""
    try:
        list(trained(settings, pieces_of(1, [1], 1, [1], 1).example(), (0, 1)))
    except ValueError:
        return 1
    return 0


def attended(layout):
    """(query, key): True where the query may attend."""
    order = torch.arange(len(layout.input_ids))
    integers = order, order, *map(torch.as_tensor, (layout.source_unit, layout.num_read))
    return may_attend(*(values[None] for values in integers))[0, 0].numpy()


def is_look_ahead(layout):
    """True for the rows that nobody sees."""
    return layout.source_unit == len(layout.example.source_lengths)


def predictions(layout):
    """Yield (row, token that it predicts)."""
    for row, label in enumerate(layout.labels[1:].tolist()):
        if label >= 0:
            yield row, label


# Streaming


def open_greedy(model, encoder, **options):
    """A session that writes what the model likes best, after every word of source if it can."""
    config = encoder.settings.config
    if config.policy.asks_model:
        decision = Decision.from_dict({"read_threshold": 1e-9})
    else:
        decision = Decision.from_dict({"policy": "wait_k", "k": 1, "recompute": config.layout.splits})
    return open_session(model, encoder, decision, **options)


def open_forced(model, encoder, row):
    """A session that writes a row of data by its schedule; the layout; the logits of each row's first call."""
    config, example = encoder.settings.config, encoder.encode(row)
    column = row.schedule if config.has_schedule_column else None
    schedule = schedule_of(example, column, config)
    pairs = list(config.layout.split(example, schedule))
    layout = lay_out(config, *pairs[-1])
    session, _, _ = force(model, encoder, row, schedule, layout)
    rows = {}
    session.trace = lambda *row: rows.setdefault(row[:-1], row[-1])
    return session, layout, rows


def ends_of(encoder):
    """The tokens that end a WRITE or the sentence."""
    _, _, next_header = encoder.frame(None, None)
    return {encoder.tokenizer.eos_token_id, *next_header[:1]}
