"""The layouts slots and turns from a YAML to a report, through the programs that a user calls."""

import json

import pytest
from end_to_end import NUM_TEST, ROOT, losses

from simulmask_plugin.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

YAMLS = ROOT / "yaml_configs"
NUM_STEPS = 100  # after fewer, nothing is written but the end of sentence
SETTINGS = (f"max_steps={NUM_STEPS}", "learning_rate=3e-3")


@pytest.fixture(scope="module")
def slots(workshop):
    return workshop.train("slots", *SETTINGS, config=YAMLS / "toy_slots_full.yaml")


@pytest.fixture(scope="module")
def turns(workshop):
    return workshop.train("turns", *SETTINGS, config=YAMLS / "toy_turns_full.yaml")


def evaluate(workshop, model, policies):
    """Stream the test set with the toy's YAML and return the output folder; in process, which saves its imports."""
    data, output = workshop.folder / "data", workshop.folder / f"{model.name}_eval"
    paths = [f"model={model}", f"source={data / 'test.source'}", f"target={data / 'test.target'}", f"output={output}"]
    yaml = YAMLS / f"toy_{model.name}_eval.yaml"
    assert main(["eval", str(yaml), *paths, "max_target_tokens=24", f"policies={policies}"]) == 0
    return output


def logged(folder, file):
    records = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    assert len(records) == NUM_TEST
    return records


@pytest.mark.parametrize("name", ["slots", "turns"])
def test_training_learns_and_saves_its_settings(request, name):
    output = request.getfixturevalue(name)
    found = losses(output)
    assert found[NUM_STEPS] < 0.8 * found[1]
    block = json.loads((output / "simulmask.json").read_text())["config"]
    expected = {
        "slots": {"positions": "slots", "slot_length": 8, "policy": "wait_k", "k": [1, 3, 5, 9, 100]},
        "turns": {"positions": "contiguous", "policy": "read_n", "n": 2},
    }
    assert block.items() >= {"layout": name, **expected[name]}.items()


def test_another_slot_length_reaches_the_session_and_the_report(workshop, slots):
    output = evaluate(workshop, slots, "[{policy: wait_k, k: 1}, {policy: wait_k, k: 1, slot_length: 4}]")
    fed = {}
    for name in ("wait_k-1", "wait_k-1-slot4"):
        assert all(one["delays"][:1] in ([], [1]) for one in logged(output / name, "instances.log"))
        fed[name] = [session["fed_tokens"] for session in logged(output / name, "sessions.jsonl")]
    assert fed["wait_k-1"] != fed["wait_k-1-slot4"]  # shorter slots are more segments with their headers
    rows = (output / "scores.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["name", "wait_k-1", "wait_k-1-slot4"]
    note = "Streamed with another slot_length than trained with (8): wait_k-1-slot4."
    assert note in (output / "report.md").read_text().splitlines()


def test_turns_are_streamed_by_the_policy(workshop, turns):
    output = evaluate(workshop, turns, "[{policy: read_n, n: 2}]")
    for one in logged(output / "read_n-2", "instances.log"):
        assert one["delays"] == sorted(one["delays"])
        assert all(delay >= 2 for delay in one["delays"])
    assert "another slot_length" not in (output / "report.md").read_text()
