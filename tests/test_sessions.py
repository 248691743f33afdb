"""Decisions: a name can be read back."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.policies import POLICIES, Policy
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.text.prompts import LATENCIES

counts = st.integers(1, 200)
thresholds = st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([0.0001, 0.5, 1e-5])
policies = st.one_of(
    st.builds(dict, policy=st.just("wait_k"), k=st.none() | counts),
    st.builds(dict, policy=st.just("read_n"), n=st.none() | counts),
    st.builds(dict, policy=st.just("offline")),
    st.builds(dict, latency=st.sampled_from(LATENCIES), read_threshold=thresholds),
)


@given(policies, st.none() | counts, st.booleans(), st.none() | counts)
def test_a_name_gives_its_decision_back(keys, beam_width, recompute, slot_length):
    decision = Decision.from_dict(
        {**keys, "beam_width": beam_width, "recompute": recompute, "slot_length": slot_length}
    )
    assert Decision.from_name(decision.name) == decision


@pytest.mark.parametrize("name", ["", "wait-k 3", "-3", "medium-x", "wait_k-3-slotx", "wait_k-3-4", "low-1"])
def test_what_is_no_name_of_a_run_is_refused(name):
    with pytest.raises(ValueError, match=r"is no name of a run such as wait_k-3, low-0\.3 or wait_k-3-slot8"):
        Decision.from_name(name)


@dataclass(frozen=True, kw_only=True)
class CatchUp(Policy):
    name = "catch_up"
    k: int
    n: int


def test_a_policy_of_ones_own_may_have_two_numbers(monkeypatch):
    """As the page on policies adds one."""
    monkeypatch.setitem(POLICIES, "catch_up", CatchUp)
    decision = Decision.from_dict({"policy": "catch_up", "k": 3, "n": 4, "slot_length": 8})
    assert decision.name == "catch_up-3-4-slot8"
    assert Decision.from_name(decision.name) == decision
