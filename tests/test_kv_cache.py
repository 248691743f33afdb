"""The cache that grows in place."""

import pytest
import torch
from transformers import DynamicCache

from simulmask_plugin.streaming.cache import GrowingCache, GrowingLayer
from simulmask_plugin.streaming.feeder import Feeder
from simulmask_plugin.streaming.lane import ALL, FedRow, Request


@pytest.fixture
def layer(monkeypatch):
    """A layer with the smallest buffers."""
    monkeypatch.setattr(GrowingLayer, "initial_capacity", 4)
    return GrowingLayer()


def feed(layer, *numbers):
    """Write one entry per number: keys hold the number, values its double. Return all keys and values."""
    states = torch.tensor(numbers, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 3)
    keys, values = layer.update(states, 2 * states)
    assert torch.equal(2 * keys, values)
    return keys[0, 0, :, 0].tolist()


def test_update_returns_all_that_is_in_use(layer):
    assert feed(layer, 1, 2, 3) == [1, 2, 3]
    assert feed(layer, 4) == [1, 2, 3, 4]
    assert feed(layer, 5, 6) == [1, 2, 3, 4, 5, 6]
    assert layer.get_seq_length() == 6
    assert layer.get_mask_sizes(2) == (8, 0)


def test_nothing_is_copied_until_the_capacity_doubles(layer):
    places = []
    for number in range(17):
        feed(layer, number)
        places.append((layer.keys.data_ptr(), layer.values.data_ptr(), layer.keys.shape[2]))
    assert [capacity for *_, capacity in places] == [4] * 4 + [8] * 4 + [16] * 8 + [32]
    assert len({pointers[:2] for pointers in places[:4]}) == 1
    assert len({pointers[:2] for pointers in places[8:16]}) == 1


def test_update_returns_views(layer):
    keys, _ = layer.update(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
    assert keys.data_ptr() == layer.keys.data_ptr()


@pytest.mark.parametrize("first", [3, 9])
def test_first_update_may_be_longer_than_the_first_buffers(layer, first):
    assert feed(layer, *range(first)) == list(range(first))
    assert feed(layer, *range(20)) == [*range(first), *range(20)]


@pytest.mark.parametrize("index, left", [(3, [1, 2, 3]), (2, [1, 2, 4])])
def test_dropping_one_of_the_last_two_moves_at_most_one(layer, index, left):
    feed(layer, 1, 2, 3, 4)
    layer.drop(index)
    assert layer.get_seq_length() == 3
    assert feed(layer, 5) == [*left, 5]


@pytest.mark.parametrize("index", [0, 1, 4])
def test_dropping_another_entry_is_our_own_mistake(layer, index):
    feed(layer, 1, 2, 3, 4)
    with pytest.raises(AssertionError, match=rf"\({index}, 3\)"):
        layer.drop(index)


def test_cropping_forgets_the_end(layer):
    feed(layer, 1, 2, 3, 4)
    layer.crop(2)
    assert feed(layer, 5) == [1, 2, 5]
    layer.crop(9)
    assert layer.get_seq_length() == 3


@pytest.mark.parametrize(
    "start, indices, left",
    [
        (2, [3, 5], [1, 2, 4, 6]),  # of a search's entries, the winner's
        (2, [2, 3], [1, 2, 3, 4]),  # they stand there already: nothing moves
        (2, [], [1, 2]),
        (0, [0, 1, 4, 5], [1, 2, 5, 6]),  # a sentence leaves behind the prompt
        (0, [], []),
        (0, [3, 4, 5], [4, 5, 6]),  # overlapping move
    ],
)
def test_keeping_entries_moves_them_together(layer, start, indices, left):
    feed(layer, 1, 2, 3, 4, 5, 6)
    place = layer.keys.data_ptr()
    layer.keep(start, indices)
    assert layer.get_seq_length() == len(left)
    assert feed(layer, 7) == [*left, 7]
    assert layer.keys.data_ptr() == place


@pytest.mark.parametrize("indices", [[3, 2], [2, 2]])
def test_keeping_entries_in_another_order_is_our_own_mistake(layer, indices):
    feed(layer, 1, 2, 3, 4)
    with pytest.raises(AssertionError, match=r"\[\d, 2\]"):
        layer.keep(2, indices)


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_kept_rows_are_those_of_a_feeder_that_never_had_the_others(model_of, name):
    """Dropped rows were seen by none that stays."""
    model = model_of(name, 450, 0)
    one, two = Feeder(model), Feeder(model)
    rows = [FedRow(20 + i, i, -1, ALL, i) for i in range(6)]
    hidden = torch.ones((1, 1, 3, 6), dtype=torch.bool)
    hidden[..., 3:] = torch.eye(3, dtype=torch.bool)  # three branches at one place
    branches = [FedRow(token, 3, -1, ALL, 3) for token in (50, 51, 52)]
    one.feed(Request(rows[:3], num_predicting=1))
    one.feed(Request(branches, num_predicting=3, visible=hidden))
    one.lane.keep(3, [4])
    two.feed(Request([*rows[:3], branches[1]], num_predicting=1))
    assert one.lane.fed_ids == two.lane.fed_ids == one.lane.kept_ids() == [20, 21, 22, 51]
    assert one.lane.num_keys == 4
    assert (one.lane.keys[:, :4] == two.lane.keys[:, :4]).all()
    after = Request([FedRow(60, 4, -1, ALL, 4)], num_predicting=1)
    torch.testing.assert_close(*(f.feed(after) for f in (one, two)), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("forget", [lambda layer: layer.drop(1), lambda layer: layer.keep(0, [0, 2])])
def test_entries_written_by_inference_can_leave_outside_of_it(layer, forget):
    """As a session does: the forward call is in inference mode, what comes after it need not be."""
    feed(layer, 1, 2, 3)
    with torch.inference_mode(False):
        forget(layer)
    assert feed(layer, 4) == [1, 3, 4]


@pytest.mark.parametrize("name", ["llama", "gemma3", "falcon"])
@torch.no_grad()
def test_a_model_computes_the_same_as_with_its_own_cache(model_of, name):
    model = model_of(name, 450, 0)
    ids = torch.randint(3, 400, (1, 12), generator=torch.Generator().manual_seed(0))
    ours, stock = GrowingCache(), DynamicCache()
    for start, end in [(0, 5), (5, 6), (6, 10), (10, 12)]:
        one, other = (model(ids[:, start:end], past_key_values=cache).logits for cache in (ours, stock))
        assert torch.equal(one, other)
    assert ours.get_seq_length() == stock.get_seq_length() == 12
