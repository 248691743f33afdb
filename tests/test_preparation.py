"""Probes, heads and thresholds that a study makes of its models before it streams them."""

from dataclasses import fields

import pytest
import yaml
from copied_study import SOURCES, STAGE1, WAIT_1, make_study, runs_of
from driving import encoder_of, write_model

from simulmask_plugin.cli import parse
from simulmask_plugin.commands.arguments import COMMANDS
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation import preparation, run_study
from simulmask_plugin.evaluation.preparation import PREPARATIONS
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.study import load_study
from simulmask_plugin.streaming.probe import FILE_NAME

STABILITY = {"policy": "stability", "most": 3}


@pytest.fixture
def study(tmp_path, model_of, byte_level, monkeypatch):
    """Runs a study whose first model has preparations; returns their programs by name of what was run."""
    settings = encoder_of(byte_level, policy="random").settings
    model = write_model(tmp_path / "tiny", model_of("llama", len(byte_level), 0), byte_level, settings)
    for side, texts in {"source": SOURCES, "target": SOURCES[::-1]}.items():
        (tmp_path / f"dev.{side}").write_text("\n".join(texts * 10) + "\n")
    (tmp_path / "links").write_text("0-0\n" * 30)

    def run(name, command, log, environment):
        run_.programs.append(name)
        options = parse(command[3:])
        if options.run(options):
            raise ProgramFailed(f"{name} stopped with code 1")

    def run_(*stages, policies=(STABILITY | {"laal": 2.3}, WAIT_1), **changes):
        texts = {side: str(tmp_path / f"dev.{side}") for side in ("source", "target")}
        texts_of = {"heads": texts | {"alignments": str(tmp_path / "links")}}
        prepared = [{kind: texts_of.get(kind, texts) | keys} for stage in stages for kind, keys in stage.items()]
        models = {"first": [{"train": STAGE1}, *prepared], "second": [{"from": "first"}, {"train": STAGE1}]}
        systems = {"first": {"model": "first", "policies": list(policies)}}
        path = make_study(tmp_path, monkeypatch, model, models=models, systems=systems, reference="first/wait_k-1")
        values = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
        monkeypatch.setattr(preparation, "run_program", run)
        run_.programs = []
        run_.path = path
        return run_study.run_compare(str(path))

    return run_


PROBE = {"probe": {"batch_size": 4, "sentences": 24}}
CALIBRATE = {"calibrate": {"policies": [STABILITY], "laal": [2.3], "limit": 3}}


def settings_of(study):
    return ModelSettings.load(study.path.parent / "out/models/first/stage1")


def test_models_are_prepared_once_and_streamed_with_what_was_found(study, capsys):
    assert study(PROBE, CALIBRATE) == 0
    assert study.programs == ["first: probe", "first: calibrate-stability-most3"]
    assert runs_of(study.path) == ["first/stability-most3-laal2.3", "first/wait_k-1"]
    assert [(one.policy, one.laal, one.sentences) for one in settings_of(study).calibration] == [("stability", 2.3, 3)]
    report = (study.path.parent / "out/compare.html").read_text()
    assert "calibrate-stability-most3" in report
    assert study(PROBE, CALIBRATE) == 0
    assert study.programs == [], "neither again, nor are the models that start from it refused"
    assert "first: probe: done before" in capsys.readouterr().out


def test_what_has_changed_is_made_again_with_what_depends_on_it(study, tmp_path):
    study(PROBE, CALIBRATE, policies=[WAIT_1])
    before = (tmp_path / "out/models/first/stage1" / FILE_NAME).read_bytes()
    study({"probe": PROBE["probe"] | {"seed": 1}}, CALIBRATE, policies=[WAIT_1])
    assert study.programs == ["first: probe", "first: calibrate-stability-most3"]
    assert (tmp_path / "out/models/first/stage1" / FILE_NAME).read_bytes() != before
    study(
        {"probe": PROBE["probe"] | {"seed": 1}},
        {"calibrate": CALIBRATE["calibrate"] | {"laal": [2.3, 2.35]}},
        policies=[WAIT_1],
    )
    assert study.programs == ["first: calibrate-stability-most3"]
    assert runs_of(study.path) == ["first/wait_k-1"], "which asks no probe, and is not refused"


def test_what_was_deleted_is_made_again_with_what_depends_on_it(study, tmp_path):
    study(PROBE, CALIBRATE, policies=[WAIT_1])
    (tmp_path / "out/models/first/stage1" / FILE_NAME).unlink()
    study(PROBE, CALIBRATE, policies=[WAIT_1])
    assert study.programs == ["first: probe", "first: calibrate-stability-most3"]


def test_results_of_another_probe_are_refused(study):
    uncalibrated = {"policy": "stability"}
    assert study(PROBE, policies=[uncalibrated, WAIT_1]) == 0
    with pytest.raises(ValueError, match=rf"stability holds results made with other .* \({FILE_NAME} changed\)"):
        study({"probe": PROBE["probe"] | {"seed": 1}}, policies=[uncalibrated, WAIT_1])


def test_latency_that_cannot_be_reached_costs_only_its_run(study, capsys):
    keys = CALIBRATE["calibrate"] | {"laal": [2.3, 40]}
    policies = [STABILITY | {"laal": laal} for laal in (2.3, 40)]
    assert study(PROBE, {"calibrate": keys}, policies=[*policies, WAIT_1]) == 1
    assert runs_of(study.path) == ["first/stability-most3-laal2.3", "first/wait_k-1"]
    printed = capsys.readouterr().err
    assert "Failed: first: calibrate-stability-most3: first: calibrate-stability-most3 stopped" in printed
    assert "Failed: first/stability-most3-laal40: laal: 40 was not calibrated for stability" in printed


def test_heads_are_found(study, tmp_path):
    assert study({"heads": {"top": 2}}, policies=[WAIT_1]) == 0
    assert (tmp_path / "out/models/first/stage1/simulmask_heads.json").is_file()


REFUSED = {
    "no probe": ([CALIBRATE], "calibrate-stability-most3 needs a probe; put {probe: {...}} before it"),
    "no stage": ([], "laal: 2.3 was not calibrated for stability"),
    "policy without a probe": ([], "policy: stability needs a stage {probe: {...}} behind"),
    "twice": ([PROBE, PROBE], "first, probe: probe stands there twice"),
    "unknown key": ([{"probe": {"lanes": 3}}], "first, probe: unknown key 'lanes'; known keys: source, target, sent"),
    "threshold": (
        [PROBE, {"calibrate": {"policies": [STABILITY | {"stability": 0.5}], "laal": [2]}}],
        "has stability, which it is to find",
    ),
    "no threshold": ([{"calibrate": {"policies": [WAIT_1], "laal": [2]}}], "Policy wait_k has no threshold"),
    "no latency": ([{"calibrate": {"policies": [STABILITY]}}], "laal is missing or empty"),
    "no such latency": (
        [{"calibrate": {"policies": [STABILITY], "laal": [2, -1]}}],
        "laal must be a list of latencies ab",
    ),
    "no file": ([{"probe": {"source": "nowhere"}}], "first, probe: source: nowhere: no such file"),
    "no links": ([{"heads": {"alignments": "nowhere"}}], "nowhere"),
    "training behind": ([PROBE, {"train": {}}], "expected one of {probe: {...}}, {heads: {...}}, {calibrate: {...}} b"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_refused_before_anything_is_trained(study, name, tmp_path):
    stages, message = REFUSED[name]
    policies = [{"policy": "stability"} if name == "policy without a probe" else STABILITY | {"laal": 2.3}, WAIT_1]
    with pytest.raises((ValueError, OSError)) as error:
        study(*stages, policies=policies)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", PREPARATIONS)
def test_keys_are_options_of_the_command(kind):
    options = {field.name for field in fields(COMMANDS[kind][0])}
    own = {field.name for field in fields(PREPARATIONS[kind])} - {"policies"}
    assert own <= options and set(preparation.SHARED) <= options
    assert kind != "calibrate" or set(preparation.OF_TRIALS) <= options


def test_seeds_are_prepared_each(study):
    study(PROBE, policies=[WAIT_1])
    loaded = load_study(str(study.path), ["seeds.first=[1]"])
    assert loaded.preparations["first seed 1"] == loaded.preparations["first"] != ()
