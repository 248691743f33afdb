"""Random schedules of a training, and policies that look at the model while streaming: what they decide, and parity."""

import numpy as np
import pytest
import torch
from driving import encoder_of, layout_of, steps
from hypothesis import given
from hypothesis import strategies as st

from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.attention.mask import training_inputs
from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import Row, ScheduleSampler
from simulmask_plugin.policies import (
    POLICIES,
    AlignAtt,
    Confidence,
    Divergence,
    Entropy,
    Evidence,
    LocalAgreement,
    RandomWalk,
    WaitK,
    roll_out,
)
from simulmask_plugin.policies.adaptive import Adaptive
from simulmask_plugin.streaming.aids import Aids
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.parity import scored_rows, training_logits
from simulmask_plugin.streaming.probe import Probe

VOCAB = 320
WORDS = "the dog abc house cd xyz a".split()
ADAPTIVE = {
    "confidence": {"probability": 0.085},
    "entropy": {"entropy": 4.5},
    "local_agreement": {},
    "divergence": {"divergence": 0.04},
    "stability": {"stability": 0.5},
    "alignatt": {"last": 2},
}
HEADS = ((0, 0), (1, 1))
BLOCKS = {
    "prefix": {},
    "alibi": {"positions": "modified_alibi"},
    "tokens": {"target_units": "token"},
    "slots": {"layout": "slots", "slot_length": 5},
}


# Random schedules


@given(
    st.integers(1, 9), st.integers(0, 9), st.floats(0, 5), st.integers(1, 30), st.integers(0, 30), st.integers(0, 99)
)
def test_random_schedules_stay_in_their_band(least, width, wander, num_source, num_target, seed):
    policy = RandomWalk(least=least, most=least + width, wander=wander)
    g = policy.make_schedule(num_source, num_target, np.random.default_rng(seed)).num_read
    assert len(g) == num_target + 1
    for t, read in enumerate(g):
        assert min(t + least, num_source) <= read <= min(t + policy.most, num_source)


def test_without_wandering_it_is_multi_path():
    policy = RandomWalk(least=2, most=4, wander=0.0)
    drawn = {policy.make_schedule(9, 6, np.random.default_rng(seed)) for seed in range(60)}
    assert drawn == {roll_out(WaitK(k=k), 9, 6) for k in (2, 3, 4)}


def test_with_wandering_it_waits_here_and_catches_up_there():
    policy = RandomWalk(least=1, most=8, wander=2.0)
    g = np.array(policy.make_schedule(200, 150, np.random.default_rng(0)).num_read)
    assert {0, 1, 2, 3} <= set(np.diff(g))
    assert {1, 8} <= set(g - np.arange(151))


def test_the_longest_row_is_that_of_the_schedule_that_reads_most_often():
    assert RandomWalk(least=2).make_schedule(9, 6, None) == roll_out(WaitK(k=2), 9, 6)


def test_schedules_differ_from_epoch_to_epoch_and_come_again_after_a_resume(byte_level):
    encoder = encoder_of(byte_level, policy="random")
    sampler, example = (
        ScheduleSampler(encoder.settings, 42),
        encoder.encode(Row("a b c d e f g h", "a b c d", "English", "German")),
    )
    drawn = [sampler.draw(example, (), epoch)[0] for epoch in range(6)]
    assert len(set(drawn)) > 2
    assert drawn == [ScheduleSampler(encoder.settings, 42).draw(example, (), epoch)[0] for epoch in range(6)]


# What is accepted


def evidence(now, fewer=None):
    """Of two probabilities, or of those of a row with fewer units as well."""
    return Evidence(torch.tensor(now).log(), None, None if fewer is None else torch.tensor(fewer).log())


def looks_at(*units):
    """Of the attention to source units."""
    return Evidence(torch.zeros(2), attention=torch.tensor(units))


@pytest.mark.parametrize(
    ("policy", "accepted", "refused"),
    [
        (Confidence(probability=0.7), evidence([0.7001, 0.2999]), evidence([0.6, 0.4])),
        (Entropy(entropy=0.5), evidence([0.9, 0.1]), evidence([0.5, 0.5])),  # 0.325 and 0.693 nats
        (LocalAgreement(), evidence([0.6, 0.4], [0.9, 0.1]), evidence([0.6, 0.4], [0.4, 0.6])),
        (LocalAgreement(), evidence([0.6, 0.4], [0.9, 0.1]), evidence([0.6, 0.4])),
        (Divergence(divergence=0.1), evidence([0.6, 0.4], [0.5, 0.5]), evidence([0.9, 0.1], [0.5, 0.5])),  # 0.02, 0.37
        (AlignAtt(last=2), looks_at(0.1, 0.5, 0.2, 0.2), looks_at(0.1, 0.2, 0.5, 0.2)),
        (Divergence(divergence=9.0), evidence([0.6, 0.4], [0.5, 0.5]), evidence([0.6, 0.4])),
    ],
)
def test_a_policy_accepts_what_its_paper_accepts(policy, accepted, refused):
    assert policy.accepts(accepted)
    assert not policy.accepts(refused)


def test_adaptive_policies_have_a_band():
    policy = Confidence(least=2, most=5)
    assert [policy.wanted(t) for t in (1, 2, 3)] == [2, 3, 4]
    assert [policy.latest(t) for t in (1, 2, 3)] == [5, 6, 7]
    with pytest.raises(ValueError, match="least is 6, more than most, which is 5"):
        Confidence(least=6, most=5)


# Streaming


def stream(model, encoder, decision, *, words=WORDS):
    """The session, the logits of each row, and the units read and tokens of every write."""
    rows, writes = {}, []
    probe = Probe(torch.linspace(-1, 1, encoder.num_tokens), torch.zeros(5), torch.tensor(0.0))
    session = open_session(model, encoder, decision, max_target_tokens=60, aids=Aids(probe, HEADS))
    session.max_unit_tokens = 3
    session.trace = lambda *row: rows.__setitem__(row[:-1], row[-1])
    for _ in steps(session, words):
        num_tokens = len(session.target_ids) - sum(num for _, num in writes)
        if num_tokens:
            writes.append((session.num_read, num_tokens))
    return session, rows, writes


def model_for(model_of, family, policy, seed=0):
    """A tiny model, which tells its attention where the policy looks at that."""
    return model_of(family, VOCAB, seed, *(["eager"] if POLICIES[policy].needs_heads else []))


def assert_parity(model, encoder, decision):
    session, rows, writes = stream(model, encoder, decision)
    layout = layout_of(encoder, session, writes, WORDS)
    training = training_logits(model, encoder.settings, layout)
    keys = {(token, kind): index for index, token, kind in scored_rows(layout)}
    fed = keys.keys() & rows.keys()
    assert len(fed) >= len(session.target_ids)
    for key in fed:
        torch.testing.assert_close(rows[key], training[keys[key]], atol=1e-4, rtol=0)
    return [g for g, _ in writes]


@pytest.mark.parametrize("policy", ADAPTIVE)
@pytest.mark.parametrize("name", BLOCKS)
def test_schedule_that_a_model_made_has_parity(model_of, byte_level, name, policy):
    encoder = encoder_of(byte_level, policy="random", **BLOCKS[name])
    decision = Decision.from_dict({"policy": policy, "most": 6, **ADAPTIVE[policy]})
    made = [
        assert_parity(model_for(model_of, "falcon" if name == "alibi" else "llama", policy, seed), encoder, decision)
        for seed in range(3)
    ]
    lags = {g - t for schedule in made for t, g in enumerate(schedule) if g < len(WORDS)}
    assert len(lags) > 1, "it has neither always waited nor never"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_parity(model_of, byte_level, family):
    positions = "modified_alibi" if FAMILIES[family].position == "alibi" else "group"
    encoder = encoder_of(byte_level, policy="random", positions=positions)
    assert_parity(model_of(family, VOCAB, 0), encoder, Decision.from_dict({"policy": "divergence", "divergence": 0.04}))


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_the_band_holds(model_of, byte_level, policy):
    """Strict: unit t waits for `most`, except at the end; loose: it is written with `least`."""
    encoder, model = encoder_of(byte_level, policy="random"), model_for(model_of, "llama", policy)
    strict = {"confidence": {"probability": 0.999}, "entropy": {"entropy": 0.0}, "divergence": {"divergence": 0.0}}
    loose = {"confidence": {"probability": 1e-9}, "entropy": {"entropy": 99.0}, "divergence": {"divergence": 99.0}}
    for keys, lag in ((strict, 4), (loose, 2)):
        if policy in keys:
            decision = Decision.from_dict({"policy": policy, "least": 2, "most": 4, **keys[policy]})
            _, _, writes = stream(model, encoder, decision)
            assert [g for g, _ in writes] == [min(t + lag, len(WORDS)) for t in range(len(writes))]


@pytest.mark.parametrize("name", BLOCKS)
def test_what_a_comparison_feeds_is_not_kept(model_of, byte_level, name):
    """A policy that compares and always accepts writes what wait-k writes, in as many calls."""
    encoder = encoder_of(byte_level, policy="random", **BLOCKS[name])
    model = model_of("falcon" if name == "alibi" else "llama", VOCAB, 0)
    decisions = [{"policy": "divergence", "divergence": 99.0, "least": 2}, {"policy": "wait_k", "k": 2}]
    (one, *_), (other, *_) = (stream(model, encoder, Decision.from_dict(keys)) for keys in decisions)
    assert one.target_ids == other.target_ids
    assert one.lane.num_keys == other.lane.num_keys
    assert one.counters.calls == other.counters.calls
    assert one.counters.fed_tokens > other.counters.fed_tokens, "the rows that see fewer units"


def test_comparison_without_such_rows_is_refused(byte_level):
    turns = encoder_of(byte_level, policy="random", layout="turns").settings
    plain = encoder_of(byte_level, policy="offline", positions="contiguous").settings
    for settings, run in ((turns, {}), (plain, {"recompute": True})):
        with pytest.raises(ValueError, match="local_agreement looks at how a row sees the source"):
            Decision.from_dict({"policy": "local_agreement", **run}).resolve(settings)
        Decision.from_dict({"policy": "confidence", **run}).resolve(settings)


def test_a_policy_that_asks_a_probe_needs_one(model_of, byte_level):
    encoder, model = encoder_of(byte_level, policy="random"), model_of("llama", VOCAB, 0)
    with pytest.raises(ValueError, match="stability needs a probe .*`simulmask probe .* the model has none"):
        open_session(model, encoder, Decision.from_dict({"policy": "stability"}))


def test_attention_is_only_told_by_eager(model_of, byte_level):
    encoder, decision = encoder_of(byte_level, policy="random"), Decision.from_dict({"policy": "alignatt"})
    with pytest.raises(ValueError, match="alignatt looks at the attention, which sdpa does not tell"):
        open_session(model_of("llama", VOCAB, 0), encoder, decision, aids=Aids(heads=HEADS))
    with pytest.raises(ValueError, match="alignatt needs attention heads .*`simulmask heads MODEL.* finds"):
        open_session(model_of("llama", VOCAB, 0, "eager"), encoder, decision)


@pytest.mark.parametrize("name", BLOCKS)
def test_attention_that_a_policy_sees_is_that_of_training(model_of, byte_level, name, monkeypatch):
    """By source unit, of the row that opens each unit, a mean over the heads."""
    seen = []
    monkeypatch.setattr(AlignAtt, "accepts", lambda policy, evidence: seen.append(evidence.attention) or True)
    encoder = encoder_of(byte_level, policy="random", **BLOCKS[name])
    model = model_of("falcon" if name == "alibi" else "llama", VOCAB, 2, "eager")
    session, _, writes = stream(model, encoder, Decision.from_dict({"policy": "alignatt", "least": 2}))
    layout = layout_of(encoder, session, writes, WORDS)
    batch = SimulMaskCollator(encoder.settings, pad_token_id=0).pad([layout])
    inputs = training_inputs(batch, model.config, model.dtype)
    del inputs["labels"]
    with torch.no_grad():
        attentions = model(**inputs, use_cache=False, output_attentions=True).attentions
    mean = torch.stack([attentions[layer][0, head] for layer, head in HEADS]).mean(dim=0)
    ends = {-1, *(np.cumsum([num for _, num in writes]) - 1).tolist()}
    rows = {token: row for row, token, kind in scored_rows(layout) if kind != "look_ahead" and token in ends}
    expected = [
        torch.stack([mean[row, torch.from_numpy(layout.source_unit == unit)].sum() for unit in range(len(WORDS))])
        for _, row in sorted(rows.items())
    ]
    assert len(seen) >= 3
    for one, other in zip(seen, expected, strict=False):
        torch.testing.assert_close(one, other[: len(one)], atol=1e-5, rtol=0)


def test_policies_of_streaming_are_no_policies_of_training(byte_level):
    for name in (name for name, policy in POLICIES.items() if issubclass(policy, Adaptive)):
        with pytest.raises(ValueError, match=f"policy: {name} decides while streaming.*Train with policy: random"):
            encoder_of(byte_level, policy=name)


def test_a_model_of_random_schedules_needs_a_policy_to_stream(byte_level):
    with pytest.raises(ValueError, match="Policy random, whose schedules are drawn at random, does not say how"):
        Decision().resolve(encoder_of(byte_level, policy="random").settings)
