"""Policies: the schedule in training and the decision while streaming come from one function."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import actions, average_lagging, lengths

from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.policies import (
    POLICIES,
    Action,
    Offline,
    ReadN,
    ReadSchedule,
    WaitK,
    decide,
    make_policy,
    roll_out,
)
from simulmask_plugin.text.prompts import Prompt

ks = st.integers(1, 12)
policies = st.one_of(
    ks.map(lambda k: make_policy("wait_k", k=k)),
    ks.map(lambda n: make_policy("read_n", n=n)),
    st.just(make_policy("offline")),
)


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


@given(policies, st.integers(0, 20), st.integers(0, 20))
def test_nothing_is_read_after_the_source_has_finished(policy, num_read, num_written):
    assert decide(policy.wanted(num_written + 1), num_read, source_finished=True) is Action.WRITE


@pytest.mark.parametrize(
    "name", [name for name, policy in POLICIES.items() if policy.streams and not policy.asks_model]
)
def test_no_policy_decreases(name):
    policy = make_policy(name, **dict.fromkeys(POLICIES[name].parameters(), 2))
    values = [policy.wanted(t) for t in range(1, 30)]
    assert values == sorted(values)


def test_offline_wants_everything():
    assert Offline().wanted(1) == math.inf


@pytest.mark.parametrize(
    "name, parameters, message",
    [
        ("wait_n", {}, r"Unknown policy 'wait_n'; expected one of model_driven, offline, read_n, schedule, wait_k"),
        ("wait_k", {}, r"wait_k takes the parameters \(k\), got \(none\)"),
        ("wait_k", {"n": 2}, r"wait_k takes the parameters \(k\), got \(n\)"),
        ("offline", {"k": 2}, r"offline takes the parameters \(none\), got \(k\)"),
        ("wait_k", {"k": 0}, r"wait_k: k must be an integer of at least 1 .*\(source units\), got 0"),
        ("wait_k", {"k": 1.5}, r"at least 1 .*\(source units\), got 1\.5"),
        ("wait_k", {"k": True}, r"at least 1 .*\(source units\), got True"),
        ("read_n", {"n": "2"}, r"read_n: n must be .* got '2'"),
    ],
)
def test_bad_policies_are_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_policy(name, **parameters)


@pytest.fixture
def catch_up(monkeypatch):
    """The policy of docs/add-a-policy.md, added as that page says."""
    page = Path(__file__).parents[1].joinpath("docs/add-a-policy.md").read_text(encoding="utf-8")
    code, entry = re.search(
        r"```python\n(.*?)^POLICIES = \{\.\.\., (.*?)\}\n```", page, re.DOTALL | re.MULTILINE
    ).groups()
    names = {}
    exec(code, names)
    monkeypatch.setitem(POLICIES, "catch_up", eval(f"{{{entry}}}", names)["catch_up"])


def test_added_policy_works_in_the_block_and_while_streaming(catch_up):
    block = SimulMaskConfig.from_dict({"policy": "catch_up", "k": [5, 7], "n": 4})
    assert [[policy(t) for t in (1, 4, 5, 9)] for policy in block.policies] == [[5, 8, 8, 11], [7, 10, 10, 13]]
    settings = ModelSettings(block, Prompt("T:", "A:"))
    assert [settings.inference_policy("catch_up", k=3, n=2)(t) for t in (1, 2, 3)] == [3, 4, 4]
    with pytest.raises(ValueError, match=r"simulmask\.n is missing: policy catch_up needs it"):
        SimulMaskConfig.from_dict({"policy": "catch_up", "k": 5})


def test_added_policy_is_shown(catch_up, capsys):
    options = "--policy catch_up --k 3 --n 2 --json --source".split()
    assert main(["show", *options, "a b c d e f", "--target", "v w x y"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == [3, 4, 4, 5, 5]
