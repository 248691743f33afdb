"""What every policy of the table promises: one is tested by being in the table."""

import pytest
from driving import is_valid
from hypothesis import assume, given
from hypothesis import strategies as st

from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig, block_keys
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.options import choices_of, type_of
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.options import Decision, run_keys

STREAMING = [name for name, policy in POLICIES.items() if policy.streams]
TRAINING = [name for name, policy in POLICIES.items() if policy.trains and not policy.from_data]
every_policy = pytest.mark.parametrize("name", STREAMING)
NUMBERS = {
    int: st.integers(1, 200),
    float: st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([1e-5, 0.5]),
    bool: st.booleans(),
}


def drawn(data, owner, key):
    """A value that a field of a dataclass may have."""
    choices = choices_of(owner, key)
    return data.draw(st.sampled_from(choices) if choices else NUMBERS[type_of(owner, key)])


def parameters_of(data, name):
    """Values of all parameters of a policy."""
    values = {key: drawn(data, POLICIES[name], key) for key in POLICIES[name].parameters()}
    return values | ({"most": max(values["least"], values["most"])} if "most" in values else {})


def block_of(name, parameters):
    """A block of the policy, of the first layout that goes with it."""
    keys = {key: parameters[key] for key in block_keys(POLICIES[name])}
    blocks = ({"policy": name, "layout": layout, **keys} for layout in LAYOUTS)
    return next(filter(is_valid, blocks))


@every_policy
@given(st.data())
def test_wanted_units_never_decrease(name, data):
    policy = POLICIES[name](**parameters_of(data, name))
    wanted = [policy.wanted(t) for t in range(1, 50)]
    assert wanted == sorted(wanted)


@pytest.mark.parametrize("name", TRAINING)
@given(st.data())
def test_a_block_gives_its_policy_back(name, data):
    parameters = parameters_of(data, name)
    config = SimulMaskConfig.from_dict(block_of(name, parameters))
    assert SimulMaskConfig.from_dict(config.keys()) == config
    kept = {key: value for key, value in parameters.items() if key not in POLICIES[name].run_keys}
    assert config.policies == (POLICIES[name](**kept),)


@every_policy
@given(st.data())
def test_the_name_of_a_run_gives_its_decision_back(name, data):
    """Whatever is left out of the parameters, and whatever the run chooses beside them."""
    given = {key: value for key, value in parameters_of(data, name).items() if data.draw(st.booleans())}
    assume(given.get("latency") not in POLICIES)  # the latency `offline` alone has the name of the policy
    given |= {key: drawn(data, options, key) for key, options in run_keys().items() if data.draw(st.booleans())}
    decision = Decision.from_dict({"policy": name, **given})
    again = Decision.from_name(decision.name)
    assert again.name == decision.name
    assert again.values == decision.values
    assert again.policy == name or not POLICIES[name].in_label


@pytest.mark.parametrize("name", [*TRAINING, "model_driven"])
def test_show_draws_it(name, capsys):
    """With numbers of one, where it has some."""
    block = block_of(name, dict.fromkeys(POLICIES[name].parameters(), 1) | {"latency": None, "read_threshold": 0.5})
    options = [f"--{key.replace('_', '-')}={value}" for key, value in block.items()]
    assert main(["show", *options, "--source", "a b", "--target", "x y"]) == 0
    assert capsys.readouterr().out.startswith(name)
