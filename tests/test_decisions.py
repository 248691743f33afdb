"""Decisions: what a run may choose, and a name that can be read back."""

import pytest
from driving import CatchUp
from layouts_driver import block_of
from reference import settings_of

from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.options import Decision


@pytest.mark.parametrize("name", ["", "wait-k 3", "-3", "medium-x", "wait_k-3-slotx", "wait_k-3-4", "low-1"])
def test_what_is_no_name_of_a_run_is_refused(name):
    with pytest.raises(ValueError, match=r"is no name of a run such as wait_k-3, low-0\.3 or wait_k-3-slot8"):
        Decision.from_name(name)


def test_a_policy_of_ones_own_may_have_two_numbers(monkeypatch):
    """As the page on policies adds one."""
    monkeypatch.setitem(POLICIES, "catch_up", CatchUp)
    decision = Decision.from_dict({"policy": "catch_up", "k": 3, "n": 4, "slot_length": 8})
    assert decision.name == "catch_up-3-4-slot8"
    assert Decision.from_name(decision.name) == decision


@pytest.mark.parametrize(
    "keys, name",
    [
        ({"policy": "wait_k", "k": 3, "slot_length": 8}, "wait_k-3-slot8"),
        ({"policy": "offline", "slot_length": 8}, "offline-slot8"),
        ({"policy": "wait_k", "k": 3, "recompute": True}, "wait_k-3-recompute"),
        ({"policy": "wait_k", "k": 3, "recompute": False, "slot_length": None}, "wait_k-3"),
        ({"latency": "low", "read_threshold": 0.3, "beam_width": 4}, "low-0.3-beam4"),
    ],
)
def test_golden_names(keys, name):
    assert Decision.from_dict(keys).name == name


CHOSEN_BY = {"beam_width": ("interleaved", "turns"), "recompute": ("prefix",), "slot_length": ("slots",)}
CHOSEN = {"beam_width": 4, "recompute": True, "slot_length": 8}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", CHOSEN_BY)
def test_what_a_run_may_choose_is_a_matter_of_the_layout(layout, key):
    settings = settings_of(**block_of(layout, **({"positions": "contiguous"} if layout == "prefix" else {})))
    decision = Decision.from_dict({key: CHOSEN[key]} | ({} if layout == "interleaved" else {"policy": "offline"}))
    if layout in CHOSEN_BY[key]:
        _, options = decision.resolve(settings)
        assert getattr(options, key) == CHOSEN[key]
    else:
        with pytest.raises(ValueError, match=f"^{key} has no meaning for a model of layout: {layout}; remove it"):
            decision.resolve(settings)


INTERLEAVED, WAIT_3 = {"layout": "interleaved"}, {"policy": "wait_k", "k": 3}
NEEDS_CONTIGUOUS = "recompute .* needs a model of positions: contiguous, but this one was trained with positions: "
REFUSED = [
    (WAIT_3, {"beams": 4}, "^unknown key 'beams'; known keys: policy, k, n, latency, "),
    (INTERLEAVED, {"beam_width": 0}, r"^beam_width must be an integer of at least 1 .*, got 0\.$"),
    (WAIT_3, {"recompute": "no"}, "recompute must be true or false, got 'no'"),
    (WAIT_3, {"recompute": True}, NEEDS_CONTIGUOUS + "group"),
    (WAIT_3 | {"positions": "modified_alibi"}, {"recompute": True}, NEEDS_CONTIGUOUS + "modified_alibi"),
    (
        WAIT_3 | {"layout": "slots"},
        {"slot_length": 0},
        r"slot_length must be an integer of at least 1 .*\(tokens\), got 0",
    ),
    (WAIT_3, {"latency": "low"}, "latency has no meaning for a model of layout: prefix; remove it"),
    (
        WAIT_3 | {"layout": "turns"},
        {"read_threshold": 0.4},
        "read_threshold has no meaning for a model of layout: turns",
    ),
    (INTERLEAVED, {"latency": "lowest"}, "latency 'lowest'; expected one of low, low-medium"),
    (INTERLEAVED, {"read_threshold": 0}, "read_threshold must lie between 0 and 1 .*got 0"),
    (INTERLEAVED, WAIT_3, "trained with policy model_driven; "),
    (INTERLEAVED, {"k": 3}, "k has no meaning for a model of layout: interleaved"),
    (WAIT_3, {"policy": "model_driven"}, "other models cannot decide for themselves"),
]


@pytest.mark.parametrize("block, values, message", REFUSED)
def test_decision_that_the_model_cannot_take_is_refused(block, values, message):
    with pytest.raises(ValueError, match=message):
        Decision.from_dict(values).resolve(settings_of(**block))
