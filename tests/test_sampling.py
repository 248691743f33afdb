"""Batches of similar length in random order."""

import itertools

from simulmask_plugin.training.batch_order import ShuffledGroups

LENGTHS = [(7 * i) % 60 + 1 for i in range(1000)]
STEP = 8


def steps(sampler):
    indices = list(sampler)
    return [indices[i : i + STEP] for i in range(0, len(indices), STEP)]


def test_every_example_comes_once():
    assert sorted(ShuffledGroups(LENGTHS, step_size=STEP, seed=1)) == list(range(1000))


def test_the_examples_of_a_step_are_of_similar_length():
    """But for one step: transformers puts the longest example of all first, to run out of memory at once or never."""
    spans = []
    for step in steps(ShuffledGroups(LENGTHS, step_size=STEP, seed=1)):
        lengths = [LENGTHS[i] for i in step]
        spans.append(max(lengths) - min(lengths))
    assert sorted(spans)[-2] <= 3


def test_steps_do_not_go_from_long_to_short():
    longest = [max(LENGTHS[i] for i in step) for step in steps(ShuffledGroups(LENGTHS, step_size=STEP, seed=1))]
    falling = sum(later <= earlier for earlier, later in itertools.pairwise(longest))
    assert 0.3 < falling / len(longest) < 0.7


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0)):
        sampler = ShuffledGroups(LENGTHS, step_size=STEP, seed=seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] and orders[0] != orders[2]


def test_what_is_too_little_for_a_step_comes_last():
    order = list(ShuffledGroups(LENGTHS[:13], step_size=STEP, seed=1))
    assert sorted(order) == list(range(13)) and len(order) == 13
