"""Policies: the schedule in training and the decision while streaming come from one function."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import actions, average_lagging, lengths

from simulmask_plugin.policies import Action, Offline, ReadN, ReadSchedule, WaitK, decide, roll_out

ks = st.integers(1, 12)
policies = st.one_of(ks.map(lambda k: WaitK(k=k)), ks.map(lambda n: ReadN(n=n)), st.just(Offline()))


@pytest.mark.parametrize(
    "policy, num_source, num_target, num_read",
    [
        (WaitK(k=1), 3, 3, (1, 2, 3, 3)),
        (WaitK(k=2), 3, 3, (2, 3, 3, 3)),
        (WaitK(k=3), 5, 2, (3, 4, 5)),
        (WaitK(k=3), 5, 1, (3, 4)),
        (WaitK(k=50), 2, 2, (2, 2, 2)),
        (ReadN(n=1), 3, 3, (1, 2, 3, 3)),
        (ReadN(n=2), 5, 4, (2, 2, 4, 4, 5)),
        (ReadN(n=3), 4, 4, (3, 3, 3, 4, 4)),
        (Offline(), 3, 2, (3, 3, 3)),
    ],
)
def test_golden_schedules(policy, num_source, num_target, num_read):
    assert roll_out(policy, num_source, num_target) == ReadSchedule(num_read, num_source)


@given(policies, lengths, lengths)
def test_schedules_never_decrease_and_end_in_the_source(policy, num_source, num_target):
    num_read = roll_out(policy, num_source, num_target).num_read
    assert len(num_read) == num_target + 1
    assert list(num_read) == sorted(num_read)
    assert 1 <= num_read[0] <= num_read[-1] <= num_source


@given(ks, st.integers(1, 30))
def test_wait_k_of_equal_lengths_has_average_lagging_k(k, length):
    g = roll_out(WaitK(k=k), length, length).num_read
    assert average_lagging(g, length, length) == pytest.approx(min(k, length))


@given(policies, lengths, lengths)
def test_deciding_step_by_step_reproduces_the_training_schedule(policy, num_source, num_target):
    num_read, writes, taken = 0, 0, []
    while writes <= num_target:
        taken.append(decide(policy.wanted(writes + 1), num_read, source_finished=num_read == num_source))
        if taken[-1] is Action.READ:
            num_read += 1
        else:
            writes += 1
    assert taken == actions(roll_out(policy, num_source, num_target).num_read)


def test_offline_wants_everything():
    assert Offline().wanted(1) == math.inf


@pytest.mark.parametrize(
    "policy, parameters", [(WaitK, {"k": 0}), (WaitK, {"k": 1.5}), (WaitK, {"k": True}), (ReadN, {"n": "2"})]
)
def test_bad_parameters_are_refused(policy, parameters):
    (key, value), *_ = parameters.items()
    with pytest.raises(
        ValueError, match=rf"{policy.name}: {key} must be .* at least 1 .*\(source units\), got {value!r}"
    ):
        policy(**parameters)
