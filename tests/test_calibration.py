"""What simulmask.json says of calibrated thresholds, and what a run that names a laal finds there."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from reference import settings_of

from simulmask_plugin.commands.verify_merge import check_settings
from simulmask_plugin.config.calibration import Calibrated
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.streaming.options import Decision, check_policies
from simulmask_plugin.training.exporting import exported_settings

BAND = {"least": 1, "most": 4}


def entry(**changes):
    keys = {"policy": "confidence", "parameters": BAND, "language_pair": ("English", "German"), "laal": 2.0}
    keys |= {"threshold": 0.5, "reached": 2.01, "latency_unit": "word", "sentences": 9, "files": {"dev.en": "0" * 64}}
    return Calibrated(**keys | changes)


def settings_with(*entries, **block):
    return settings_of(**{"policy": "random"} | block).calibrated(entries)


def test_settings_come_back_with_their_calibration(tmp_path):
    settings = settings_with(entry(), entry(policy="entropy", laal=3.0))
    settings.save(tmp_path)
    assert ModelSettings.load(tmp_path) == settings
    settings.uncalibrated().save(tmp_path)
    assert ModelSettings.load(tmp_path).calibration == ()
    assert "calibration" not in json.loads((tmp_path / "simulmask.json").read_text())


def test_a_merge_is_another_model(tmp_path):
    settings_with(entry()).save(tmp_path)
    args = SimpleNamespace(
        adapter_folder=None, adapter_name_or_path=None, model_name_or_path=str(tmp_path), rope_scaling=None
    )
    assert exported_settings(args) == settings_with()
    assert check_settings(settings_with(), str(tmp_path)).passed, "calibrated again"
    assert check_settings(settings_with(entry()), str(tmp_path)).passed


@pytest.mark.parametrize("changes", [{"policy": "confident"}, {"laal": "three"}, {"reach": 2}])
def test_damaged_calibration_is_refused(tmp_path, changes):
    settings_with(entry()).save(tmp_path)
    content = json.loads((tmp_path / "simulmask.json").read_text())
    content["calibration"][0] |= changes
    content.pop("sha256")
    (tmp_path / "simulmask.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged.*calibration|is damaged.*confident"):
        ModelSettings.load(tmp_path)


def test_new_threshold_takes_the_place_of_that_of_its_latency_alone():
    others = entry(laal=3.0), entry(policy="entropy"), entry(parameters=BAND | {"most": 6})
    settings = settings_with(entry(), *others)
    assert settings.calibrated([entry(threshold=0.7)]).calibration == (*others, entry(threshold=0.7))


def resolved(settings, **keys):
    return Decision.from_dict(keys).resolve(settings)[0]


def test_laal_stands_for_the_threshold_of_its_policy_and_of_what_goes_with_it():
    settings = settings_with(
        entry(),
        entry(threshold=0.6, parameters={"least": 2, "most": 6}),
        entry(threshold=0.7, laal=2.5),
        entry(policy="divergence", threshold=0.1, parameters=BAND | {"units": 1}),
    )
    assert resolved(settings, policy="confidence", laal=2).probability == 0.5
    assert resolved(settings, policy="confidence", laal=2, least=1).probability == 0.5
    assert resolved(settings, policy="confidence", laal=2.0, least=2, most=6).probability == 0.6
    assert resolved(settings, policy="confidence", laal=2.5).probability == 0.7
    assert resolved(settings, policy="divergence", laal=2).divergence == 0.1


def test_laal_of_another_slot_length_is_one_of_its_own():
    settings = settings_with(entry(), entry(threshold=0.6, parameters=BAND | {"slot_length": 4}), layout="slots")
    assert resolved(settings, policy="confidence", laal=2, slot_length=4).probability == 0.6
    assert resolved(settings, policy="confidence", laal=2).probability == 0.5
    with pytest.raises(ValueError, match="--slot-length 5 --laal 2 --source"):
        resolved(settings, policy="confidence", laal=2, slot_length=5)


def test_laal_of_a_model_that_decides_itself_belongs_to_a_latency():
    low, high = (
        entry(policy="model_driven", threshold=p, parameters={"latency": n}) for n, p in (("low", 0.2), ("high", 0.4))
    )
    settings = settings_with(low, high, layout="interleaved", policy="model_driven")
    settings = replace(settings, trained_on=TrainedOn((), ("low", "high")))
    assert resolved(settings, latency="low", laal=2).read_threshold == 0.2
    assert resolved(settings, policy="model_driven", latency="high", laal=2).read_threshold == 0.4


def test_laal_of_a_language_pair():
    pairs = ("English", "French"), ("English", "German")
    settings = settings_with(entry(), entry(threshold=0.6, language_pair=pairs[0]))
    settings = replace(settings, trained_on=TrainedOn(pairs))
    for pair, threshold in zip(pairs, (0.6, 0.5), strict=True):
        assert resolved(settings.for_pair(*pair), policy="confidence", laal=2).probability == threshold
    with pytest.raises(ValueError, match="several language pairs.*Say which one"):
        resolved(settings, policy="confidence", laal=2)


REFUSED = [
    (
        {"policy": "confidence", "laal": 4},
        r"laal: 4 was not calibrated for confidence least=1 most=4, English to German; calibrated: confidence least=1 "
        r"most=4, English to German: laal 2, 2\.5\. Add it: simulmask calibrate MODEL --policy confidence --least 1 "
        r"--most 4 --laal 4 --source FILE --target FILE",
    ),
    ({"policy": "entropy", "laal": 2}, "laal: 2 was not calibrated for entropy"),
    ({"policy": "confidence", "laal": 2, "probability": 0.5}, "laal stands for a value of probability, which is set"),
    ({"policy": "wait_k", "k": 3, "laal": 2}, "Policy wait_k has no threshold that a laal could stand for; these"),
    ({"policy": "confidence", "laal": -1}, r"laal must be above 0 \(source units\), got -1"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_laal_that_means_nothing_is_refused(keys, message):
    settings = settings_with(entry(), entry(laal=2.5))
    with pytest.raises(ValueError, match=f"policies, entry 1: {message}"):
        check_policies([keys], settings, "policies")


def test_laal_alone_means_the_only_policy_that_was_calibrated():
    assert resolved(settings_with(entry()), laal=2).probability == 0.5
    with pytest.raises(ValueError, match="choose a policy"):
        resolved(settings_with(entry(), entry(policy="entropy")), laal=2)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"policy": "confidence", "laal": 4}, "confidence-laal4"),
        ({"policy": "confidence", "laal": 2.5, "most": 6}, "confidence-most6-laal2.5"),
        ({"policy": "model_driven", "latency": "low", "laal": 4}, "low-laal4"),
        ({"laal": 4}, "laal4"),
    ],
)
def test_golden_names(keys, name):
    assert Decision.from_dict(keys).name == name
    assert Decision.from_name(name).name == name
