"""Decisions: what a run may choose, and a name that can be read back."""

import pytest
from driving import CatchUp, encoder_of
from layouts_driver import block_of
from reference import settings_of

from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.chunk_session import ChunkedSession
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.recompute_session import RecomputeSession
from simulmask_plugin.streaming.slots_session import SlotsSession
from simulmask_plugin.streaming.unit_session import StreamingSession


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


OPENED = [
    ({"layout": "slots"}, {}, SlotsSession),
    ({"layout": "turns"}, {}, ChunkedSession),
    ({"positions": "contiguous"}, {}, StreamingSession),
    ({"positions": "contiguous"}, {"recompute": True}, RecomputeSession),
    ({"positions": "contiguous", "prefix_pairs": True}, {}, StreamingSession),
    ({"positions": "contiguous", "prefix_pairs": True}, {"recompute": True}, RecomputeSession),
]


@pytest.mark.parametrize("block, run, session", OPENED)
def test_layout_and_run_choose_the_session(model_of, byte_level, block, run, session):
    decision = Decision.from_dict({"policy": "wait_k", "k": 2, **run})
    encoder = encoder_of(byte_level, policy="offline", **block)
    assert type(open_session(model_of("llama", len(byte_level), 0), encoder, decision)) is session


INTERLEAVED, WAIT_3 = {"layout": "interleaved"}, {"policy": "wait_k", "k": 3}
SLOTS, TURNS = WAIT_3 | {"layout": "slots"}, WAIT_3 | {"layout": "turns"}
NEEDS_CONTIGUOUS = "recompute .* needs a model of positions: contiguous, but this one was trained with positions: "
REFUSED = [
    (WAIT_3, {"beams": 4}, "^unknown key 'beams'; known keys: policy, k, n, latency, "),
    (INTERLEAVED, {"beam_width": 0}, r"^beam_width must be an integer of at least 1 .*, got 0\.$"),
    (WAIT_3, {"recompute": "no"}, "recompute must be true or false, got 'no'"),
    (WAIT_3, {"recompute": True}, NEEDS_CONTIGUOUS + "group"),
    (WAIT_3 | {"positions": "modified_alibi"}, {"recompute": True}, NEEDS_CONTIGUOUS + "modified_alibi"),
    (SLOTS, {"slot_length": 0}, r"slot_length must be an integer of at least 1 .*\(tokens\), got 0"),
    (WAIT_3, {"latency": "low"}, "latency has no meaning for a model of layout: prefix; remove it"),
    (TURNS, {"read_threshold": 0.4}, "read_threshold has no meaning for a model of layout: turns"),
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
