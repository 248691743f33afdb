"""What every layout promises, whatever it looks like: a layout is tested by being in the table."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from driving import is_valid
from hypothesis import given
from hypothesis import strategies as st
from layouts_driver import BLOCKS, attended, drawn_blocks, family_of, is_look_ahead, least_read, predictions, trained
from reference import settings_of

from simulmask_plugin.attention.mask import may_attend
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.streaming.parity import training_logits

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def lay_out(layout, data):
    """Draw an example; return (block, pieces, g, sequences)."""
    settings = settings_of(**data.draw(drawn_blocks(layout)))
    pieces, g = data.draw(reference.scheduled_pieces(num_next_header=2, least=least_read(settings)))
    return settings.config, pieces, g, list(trained(settings, pieces.example(), g))


def target_of(pieces):
    """The tokens that have to be learned, in order, and the unit of each."""
    units = [*pieces.target, [pieces.eos]]
    return [token for unit in units for token in unit], {token: t for t, unit in enumerate(units) for token in unit}


def seen_units(layout):
    """How many source units each row may see; they are the first ones."""
    seen = []
    for line in attended(layout):
        units = {unit for unit in layout.source_unit[line].tolist() if 0 <= unit < len(layout.example.source_lengths)}
        assert units == set(range(len(units)))
        seen.append(len(units))
    return seen


@every_layout
@given(st.data())
def test_a_row_predicts_the_next_token_of_the_target(layout, data):
    """Behind all of the target that it stands behind itself; what is no target is predicted where it follows."""
    _, pieces, _, sequences = lay_out(layout, data)
    target, units = target_of(pieces)
    for one, _, _ in sequences:
        ids = one.input_ids.tolist()
        for row, token in predictions(one):
            written = len(units.keys() & set(ids[: row + 1]))
            assert token == (target[written] if token in units else ids[row + 1])


@every_layout
@given(st.data())
def test_every_target_token_is_learned_once_for_what_is_seen_of_the_source(layout, data):
    """Also in the rows that stand twice, and in several sequences of one example."""
    _, pieces, _, sequences = lay_out(layout, data)
    learned = Counter()
    for one, _, _ in sequences:
        seen = seen_units(one)
        learned.update((token, seen[row]) for row, token in predictions(one))
    target, units = target_of(pieces)
    assert {token for token, _ in learned} >= set(target)
    assert {count for (token, _), count in learned.items() if token in units} == {1}


@every_layout
@given(st.data())
def test_a_target_token_is_predicted_from_what_has_been_read(layout, data):
    """g(t) units; `query_unit` shows inner tokens up to g(t + 1), `own_unit` the first one g(t - 1)."""
    config, pieces, g, sequences = lay_out(layout, data)
    target, unit_of = target_of(pieces)
    seen_for = {token: set() for token in target}
    for one, _, _ in sequences:
        seen = seen_units(one)
        for row, token in predictions(one):
            if token in unit_of:
                seen_for[token].add(seen[row])
    for before, token in zip([None, *target], target, strict=False):
        t = unit_of[token]
        if before is None or unit_of[before] != t:
            least = g[t - 1] if not config.convention.last_waits and not config.layout.in_chunks and t else g[t]
            assert least <= max(seen_for[token]) <= g[t]
        else:
            most = g[t + 1] if config.convention.inner_waits else g[t]
            assert all(g[t] <= count <= most for count in seen_for[token])


@every_layout
@given(st.data())
def test_a_look_ahead_row_is_its_kept_row_at_the_same_position_seen_by_nobody(layout, data):
    _, _, _, sequences = lay_out(layout, data)
    for one, positions, _ in sequences:
        sees = attended(one)
        for row in np.flatnonzero(is_look_ahead(one)):
            assert one.input_ids[row] == one.input_ids[row + 1]
            assert positions[row] == positions[row + 1]
            assert np.flatnonzero(sees[:, row]).tolist() == [row]


@every_layout
@given(st.data())
def test_prompt_source_and_target_each_keep_their_order(layout, data):
    """Of the source at least what has been read; the positions of the target go up."""
    _, pieces, g, sequences = lay_out(layout, data)
    one, positions, _ = sequences[-1]
    kept = ~is_look_ahead(one)
    ids = one.input_ids[kept].tolist()
    target, units = target_of(pieces)
    assert ids[: len(pieces.prompt)] == pieces.prompt
    assert [token for token in ids if token in units] == target
    source = one.input_ids[kept & (one.source_unit >= 0)].tolist()
    assert source == sum(pieces.source, [])[: len(source)]
    assert len(source) >= sum(map(len, pieces.source[: g[-1]]))
    for unit in range(g[-1]):
        assert one.input_ids[one.source_unit == unit].tolist() == pieces.source[unit]
    places = [place for token, place in zip(ids, np.asarray(positions)[kept], strict=True) if token in units]
    assert all(place < after for place, after in zip(places, places[1:], strict=False))


@every_layout
@given(st.data())
def test_no_sequence_is_longer_than_what_cutoff_len_is_compared_with(layout, data):
    *_, sequences = lay_out(layout, data)
    for one, _, longest in sequences:
        assert len(one.input_ids) <= longest


# No peeking

SOURCE, TARGET, G = [1, 3, 2, 1, 2, 4], [2, 1, 3, 1, 1], (1, 2, 2, 4, 5, 5)
LAYERS = {"llama": "num_hidden_layers", "falcon": "num_hidden_layers", "mpt": "n_layers", "bloom": "n_layer"}


def check_that_unread_source_changes_nothing(model, settings):
    """Change one source unit after the other, and the look-ahead rows: only who may see them changes by a bit."""
    pieces = reference.pieces_of(2, SOURCE, 1, TARGET, 1)
    for layout, _, _ in trained(settings, pieces.example(), G):
        seen = torch.tensor(seen_units(layout))
        before = training_logits(model, settings, layout)
        for unit in range(len(layout.example.source_lengths) + 1):
            ids = np.where(layout.source_unit == unit, 7, layout.input_ids)
            other = training_logits(model, settings, replace(layout, input_ids=ids))
            changed = (before != other).any(-1)
            own = torch.from_numpy(layout.source_unit == unit)
            assert torch.equal(changed, own | (seen > unit)), f"rows have seen source unit {unit}, or have not"


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("alibi", [False, True])
def test_unread_source_cannot_change_target(model_of, name, alibi):
    """Through four layers; what has been read does change it."""
    block = BLOCKS[name]
    family = "mpt" if alibi else family_of(block)
    keys = {"slot_length": 3}
    settings = settings_of(**block | (keys if is_valid(block | keys) else {}))
    check_that_unread_source_changes_nothing(model_of(family, 450, 0, **{LAYERS[family]: 4}), settings)


MUTATIONS = {
    "<= for <": lambda query, key, unit, num_read: may_attend(query, key, unit - 1, num_read),
    "not causal": lambda query, key, unit, num_read: may_attend(query + 10_000, key, unit, num_read),
    "no schedule": lambda query, key, unit, num_read: may_attend(query, key, unit, num_read + 10_000),
}


@pytest.mark.parametrize("name", ["llama", "falcon", "bloom", "mpt"])
@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_the_check_notices_a_wrong_mask(model_of, name, mutation, monkeypatch):
    model = model_of(name, 450, 0, **{LAYERS[name]: 4})
    positions = "group" if name == "llama" else "modified_alibi"
    settings = settings_of(policy="schedule", positions=positions)
    check_that_unread_source_changes_nothing(model, settings)
    monkeypatch.setattr("simulmask_plugin.attention.mask.may_attend", mutation)
    with pytest.raises(AssertionError, match="rows have seen source unit"):
        check_that_unread_source_changes_nothing(model, settings)
