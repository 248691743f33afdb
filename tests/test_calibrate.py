"""Thresholds for latencies: how they are found, what simulmask.json keeps of them, and who streams with them."""

import json
from statistics import mean

import numpy as np
import pytest
import torch
import yaml
from driving import agent_of, encoder_of, error, write_model
from hypothesis import given
from hypothesis import strategies as st
from test_calibration import entry

import simulmask_plugin
from simulmask_plugin.cli import main
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation import engines
from simulmask_plugin.evaluation.calibrate import NEAR, Trial, Trials, find_thresholds
from simulmask_plugin.evaluation.run import run_evaluation
from simulmask_plugin.evaluation.scores import read_jsonl
from simulmask_plugin.policies import POLICIES, Evidence, Threshold
from simulmask_plugin.streaming.simulation import laal

SOURCES = ["the dog abc house cd", "cat xyz the", "xyz cd the abcde dog a b", "abc cat the house dog dog", "a cat cd"]
WITH_THRESHOLD = [policy for policy in POLICIES.values() if policy.threshold]


# Thresholds


@pytest.mark.parametrize("policy", WITH_THRESHOLD)
def test_scale_goes_from_loosest_to_strictest_through_values_that_the_policy_takes(policy):
    scale = policy.threshold
    values = [scale.at(share) for share in np.linspace(0, 1, 50)]
    assert [values[0], values[-1]] == pytest.approx([scale.loosest, scale.strictest])
    steps = np.diff(values)
    assert (steps > 0).all() or (steps < 0).all()
    assert all(getattr(policy(**{scale.key: value}), scale.key) == value for value in values)


def test_scale_of_a_probability_leaves_as_much_room_near_one_as_near_nought():
    scale = Threshold("p", 0.001, 0.999, in_odds=True)
    assert [scale.at(share) for share in (0.25, 0.5, 0.75)] == [0.0306683, 0.5, 0.969332]


@pytest.mark.parametrize("policy", WITH_THRESHOLD)
@given(st.data())
def test_what_a_stricter_threshold_accepts_a_looser_one_accepts(policy, data):
    logits = st.lists(st.floats(-5, 5), min_size=4, max_size=4).map(torch.tensor)
    evidence = Evidence(
        data.draw(logits), read_end=1, fewer=data.draw(logits), probe=lambda row, fewer: float(row.sigmoid()[0])
    )
    shares = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    loose, strict = (policy(**{policy.threshold.key: policy.threshold.at(share)}) for share in shares)
    assert loose.accepts(evidence) or not strict.accepts(evidence)


# The search


class Scripted(Trials):
    """Has a function of the share in place of a model; notes the shares of every round."""

    def __init__(self, lag):
        super().__init__(None, None, Threshold("x", 1.0, np.e), lambda what: self.rounds.append(what))
        self.lag, self.rounds = lag, []

    def _streamed(self, thresholds):
        return [Trial(value, self.lag(float(np.log(value))), 0.0, 0.0) for value in thresholds]


def test_latencies_are_found_side_by_side():
    trials = Scripted(lambda share: 1 + 7 * share**3)
    found = find_thresholds(trials, [1.5, 3.0, 6.0])
    assert all(abs(trial.laal - wanted) <= NEAR for wanted, trial in found.items())
    assert list(found) == [1.5, 3.0, 6.0]
    assert len(trials.rounds) < 7
    assert len(trials.found) < 20, "what has been streamed is not streamed again"


def test_of_a_latency_that_is_jumped_over_the_nearest_is_taken():
    trials = Scripted(lambda share: 2.0 if share < 0.37 else 4.0)
    found = find_thresholds(trials, [2.9, 3.2])
    assert {wanted: trial.laal for wanted, trial in found.items()} == {2.9: 2.0, 3.2: 4.0}
    assert len(trials.rounds) <= 12


def test_latency_beyond_the_strictest_threshold_is_not_found():
    trials = Scripted(lambda share: 1 + share)
    assert find_thresholds(trials, [0.9, 0.97, 2.04, 2.1]).keys() == {0.97, 2.04}
    assert len(trials.rounds) == 1


# The command


@pytest.fixture
def folder(tmp_path, model_of, byte_level):
    """Of a tiny model that was trained with random schedules, beside a dev set."""
    for side, texts in {"source": SOURCES, "target": reversed(SOURCES)}.items():
        (tmp_path / f"dev.{side}").write_text("\n".join(texts) + "\n")
    settings = encoder_of(byte_level, policy="random").settings
    return write_model(tmp_path / "model", model_of("llama", len(byte_level), 0), byte_level, settings)


def calibrate(folder, *options):
    files = [f"--{side}={folder.parent / f'dev.{side}'}" for side in ("source", "target")]
    return ["calibrate", str(folder), *files, "--max-target-tokens=12", *options]


def evaluate(folder, monkeypatch, *policies):
    """Streams the dev set side by side, with a SimulEval that scores nothing."""
    keys = {"model": folder, "source": folder.parent / "dev.source", "target": folder.parent / "dev.target"}
    keys |= {"output": folder.parent / "out"}
    values = {key: str(path) for key, path in keys.items()} | {"policies": list(policies), "max_target_tokens": 12}
    (folder.parent / "eval.yaml").write_text(yaml.safe_dump(values | {"engine": "batched", "audit": 0}))

    def score(config, calls, environment):
        for _, output, _ in calls:
            lines = ["AL\tLAAL\tAP\tDAL", "1\t2.5\t3\t4", ""]
            with open(f"{output.removeprefix('--output=')}/scores.tsv", "w") as file:
                file.write("\n".join(lines))

    monkeypatch.setattr(engines, "_call_simuleval", score)
    assert run_evaluation(folder.parent / "eval.yaml") == 0
    return folder.parent / "out"


def test_command_writes_what_an_evaluation_then_reaches(folder, monkeypatch, capsys):
    assert main(calibrate(folder, "--policy=confidence", "--most=6", "--laal", "2.5", "3")) == 0
    printed = capsys.readouterr().out
    assert "Streaming with probability: 0.01, " in printed
    assert "LAAL never falls by more than" in printed
    entries = ModelSettings.load(folder).calibration
    assert [(one.policy, one.laal, one.sentences) for one in entries] == [
        ("confidence", 2.5, 5),
        ("confidence", 3.0, 5),
    ]
    assert entries[0].parameters == {"least": 1, "most": 6}
    assert entries[0].threshold < entries[1].threshold
    assert all(len(digest) == 64 for digest in entries[0].files.values())
    output = evaluate(
        folder, monkeypatch, *({"policy": "confidence", "most": 6, "laal": wanted} for wanted in (2.5, 3))
    )
    for one, name in zip(entries, ("confidence-most6-laal2.5", "confidence-most6-laal3"), strict=True):
        lags = [laal(record, "word") for record in read_jsonl(output / name / "instances.log") if record["delays"]]
        assert mean(lags) == pytest.approx(one.reached, abs=1e-4)
    row = (
        f"| confidence-most6-laal3 | 3.00 | 2.50 | {entries[1].reached:.2f} | probability {entries[1].threshold:g} | 5"
    )
    assert row in (output / "report.md").read_text()


def test_latency_that_cannot_be_reached_is_said_and_the_others_are_kept(folder, capsys):
    assert main(calibrate(folder, "--policy=entropy", "--most=2", "--laal", "1.5", "40", "--limit=3")) == 1
    assert "laal 40 cannot be reached: entropy goes from " in capsys.readouterr().err
    (one,) = ModelSettings.load(folder).calibration
    assert (one.laal, one.sentences) == (1.5, 3)


def test_nothing_is_written_where_nothing_is_reached(folder):
    before = (folder / "simulmask.json").read_bytes()
    assert main(calibrate(folder, "--policy=confidence", "--laal", "40")) == 1
    assert (folder / "simulmask.json").read_bytes() == before


def test_bad_calibrations_are_refused(folder, capsys, monkeypatch):
    has_none = "has no threshold that a laal could stand for; these have one: model_driven, confidence, "
    assert has_none in error(capsys, *calibrate(folder, "--laal", "3"))
    assert "model_driven" in error(capsys, *calibrate(folder, "--policy=model_driven", "--laal", "3"))
    assert "limit is 9, but" in error(capsys, *calibrate(folder, "--policy=entropy", "--laal", "3", "--limit=9"))
    for wanted in ("0", "-1", "nan", "inf"):
        refused = f"--laal must be a number of source units above 0, got {wanted}."
        assert refused in error(capsys, *calibrate(folder, "--policy=entropy", f"--laal={wanted}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    assert "hf download NAME --local-dir" in error(capsys, *calibrate(folder, "--policy=entropy", "--laal", "3"))


# What a changed threshold means for results


def test_other_runs_of_a_folder_do_not_depend_on_a_calibration(folder, monkeypatch):
    wait_1, wanted = {"policy": "wait_k", "k": 1}, {"policy": "confidence", "laal": 2.0}
    evaluate(folder, monkeypatch, wait_1)
    write_entry(folder, threshold=0.05)
    evaluate(folder, monkeypatch, wait_1, wanted)
    write_entry(folder, threshold=0.05, laal=3.0)
    evaluate(folder, monkeypatch, wait_1, wanted, wanted | {"laal": 3})
    write_entry(folder, threshold=0.06)
    with pytest.raises(
        ValueError, match=r"confidence-laal2 holds results made with other settings or files \(threshold "
    ):
        evaluate(folder, monkeypatch, wait_1, wanted)


# Who streams with them


def write_entry(folder, **changes):
    ModelSettings.load(folder).calibrated([entry(**changes)]).save(folder)


def test_laal_streams_as_its_threshold_does(folder, capsys):
    write_entry(folder, threshold=0.085)
    text = SOURCES[2]
    model = simulmask_plugin.load(str(folder))
    expected = list(model.stream(text, "confidence", probability=0.085, max_target_tokens=12))
    assert expected != list(model.stream(text, "confidence", probability=0.01, max_target_tokens=12))
    for policy in ("confidence", None):
        assert list(model.stream(text, policy, laal=2, max_target_tokens=12)) == expected
        decision = agent_of(folder, "--laal=2", *([f"--policy={policy}"] if policy else [])).decision
        assert decision.resolve(ModelSettings.load(folder))[0].probability == 0.085
    options = ["--policy=confidence", "--laal=2", "--max-target-tokens=12", "--actions", f"--text={text}"]
    assert main(["translate", str(folder), *options]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{step.action.name} {step.text}" for step in expected]


def test_file_is_still_sealed(folder):
    write_entry(folder)
    content = json.loads((folder / "simulmask.json").read_text())
    content["calibration"][0]["threshold"] = 0.9
    (folder / "simulmask.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not as the training wrote it"):
        ModelSettings.load(folder)
