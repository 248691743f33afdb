"""What a study YAML may say, and what is refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from simulmask_plugin.evaluation.study import load_study

ROOT = Path(__file__).parents[1]
STAGE1, STAGE2, MERGE = (
    str(ROOT / "yaml_configs" / f"toy_{name}.yaml") for name in ("wait_k_stage1_full", "wait_k_stage2_lora", "merge")
)


@pytest.fixture
def study(tmp_path):
    """Writes a study with changed keys and loads it."""
    texts = [tmp_path / "a", tmp_path / "b"]
    for text in texts:
        text.write_text("one\n" * 9)

    def load(*overrides, **changes):
        values = {
            "output": str(tmp_path / "out"),
            "plain": "plain",
            "reference": "SimulMask",
            "training": {"dataset_dir": "here", "max_steps": 7},
            "evaluation": {"source": str(texts[0]), "target": str(texts[1]), "limit": 5},
            "models": {
                "plain": [{"train": STAGE1, "simulmask.policy": "offline", "simulmask.k": None}],
                "two stages": [{"train": STAGE1, "simulmask.k": 5}, {"train": STAGE2}, {"export": MERGE}],
            },
            "systems": {
                "offline": {"model": "plain", "policies": [{"policy": "offline"}]},
                "SimulMask": {"model": "two stages", "policies": [{"policy": "wait_k", "k": 3}]},
            },
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
        return load_study(str(path), overrides)

    return load


def test_stage_is_summed_up_by_what_its_yaml_says(study):
    first, _, merge = study().models["two stages"]
    keys = ("finetuning_type", "lora_rank", "max_steps")
    assert first.summary(keys) == "train: finetuning_type: full, max_steps: 7"
    assert merge.summary(("max_steps",)) == "export"


def test_title_is_a_text(study):
    assert study(title="Wait-k").title == "Wait-k"
    with pytest.raises(ValueError, match=r"title must be a text, got \['a'\]"):
        study(title=["a"])


def test_stages_have_their_overrides(study):
    plain, two = study().models.values()
    assert plain[0].values["simulmask"] | {"policy": "offline", "k": None} == plain[0].values["simulmask"]
    assert plain[0].values["dataset_dir"] == two[0].values["dataset_dir"] == "here"
    assert [stage.kind for stage in two] == ["train", "train", "export"]
    assert [stage.makes_adapter for stage in two] == [False, True, False]
    assert two[0].values["simulmask"]["k"] == 5
    assert two[0].values["max_steps"] == 7
    assert two[1].values["max_steps"] != 7, "the common overrides are for the first stage"


def test_model_may_start_from_an_earlier_one(study, tmp_path):
    training = {"dataset_dir": "here", "model_name_or_path": "tiny"}
    own = [{"train": STAGE1, "simulmask.k": 5}, {"train": STAGE2}, {"export": MERGE}]
    loaded = study(training=training, models={"plain": PLAIN, "two stages": [{"from": "plain"}, *own]})
    assert loaded.bases == {"two stages": "plain"}
    (base,), (first, *_) = loaded.models.values()
    assert base.values["model_name_or_path"] == "tiny"
    assert "model_name_or_path" not in first.values, "of this the base decides"
    assert first.values["dataset_dir"] == "here" and first.values["simulmask"]["k"] == 5
    assert Path(loaded.systems["SimulMask"].evaluation.model).name == "stage3", "to start from a model is no stage"


def test_models_whose_folders_would_be_one_are_refused(study):
    stages = [{"train": STAGE1}]
    with pytest.raises(ValueError, match="models 'a b' and 'a_b' would share a folder; rename one"):
        study(models={"a b": stages, "a_b": stages})


def test_systems_stream_the_last_stage_of_their_model(study, tmp_path):
    system = study("threads=3").systems["SimulMask"]
    assert system.evaluation.model == str(tmp_path / "out" / "models" / "two_stages" / "stage3")
    assert system.evaluation.output == str(tmp_path / "out" / "systems" / "SimulMask")
    assert (system.evaluation.source, system.evaluation.limit, system.evaluation.threads) == (str(tmp_path / "a"), 5, 3)


def test_results_of_other_texts_may_lie_elsewhere(study, tmp_path):
    evaluation = study(f"results={tmp_path / 'val'}").systems["SimulMask"].evaluation
    assert evaluation.model == str(tmp_path / "out" / "models" / "two_stages" / "stage3")
    assert evaluation.output == str(tmp_path / "val" / "systems" / "SimulMask")


def test_a_model_of_several_seeds_is_trained_and_streamed_with_each(study):
    loaded = study(seeds={"two stages": [43, 44]})
    assert list(loaded.models) == ["plain", "two stages", "two stages seed 43", "two stages seed 44"]
    trained = loaded.models["two stages seed 43"]
    assert [stage.values.get("seed") for stage in trained] == [43, 43, None]
    assert trained[0].values == loaded.models["two stages"][0].values | {"seed": 43}
    assert loaded.repeats == {"SimulMask seed 43": "SimulMask", "SimulMask seed 44": "SimulMask"}
    assert loaded.systems["SimulMask seed 43"].model == "two stages seed 43"
    assert loaded.systems["SimulMask seed 43"].evaluation.policies == loaded.systems["SimulMask"].evaluation.policies


def test_seeds_of_a_model_have_its_base(study):
    loaded = study(models={"plain": PLAIN, "two stages": [{"from": "plain"}, *PLAIN]}, seeds={"two stages": [1]})
    assert loaded.bases == {"two stages": "plain", "two stages seed 1": "plain"}


def test_overrides_reach_every_depth(study):
    changed = study("jobs=4", "evaluation.limit=9", "training.max_steps=2")
    assert changed.jobs == 4
    assert changed.systems["offline"].evaluation.limit == 9
    assert changed.models["plain"][0].values["max_steps"] == 2


def test_empty_keys_are_defaults(study):
    empty = study(jobs=None, threads=None, training=None)
    assert (empty.jobs, empty.threads, empty.training) == (1, None, {})


@pytest.mark.parametrize(
    ("reference", "expected"), [("offline", ("offline", None)), ("offline/offline", ("offline", "offline"))]
)
def test_reference_is_a_system_or_one_of_its_runs(study, reference, expected):
    assert study(reference=reference).reference_run == expected


PLAIN = [{"train": STAGE1}]
OFFLINE = {"model": "plain", "policies": [{"policy": "offline"}]}
BAD = {
    "no models": ({"models": {}}, r"study\.yaml: models is missing or empty; it must be a mapping"),
    "name that is no folder": ({"models": {"a/b": PLAIN}}, r"models\.a/b: a name is made of letters, digits"),
    "stages that are no list": ({"models": {"plain": PLAIN[0]}}, r"models\.plain must be a list of stages such as"),
    "stage of no kind": (
        {"models": {"plain": [{"merge": MERGE}]}},
        r"plain, stage 1: expected one of train and export",
    ),
    "adapter at the end": ({"models": {"plain": [*PLAIN, {"train": STAGE2}]}}, r"plain ends without a whole model"),
    "adapter on an adapter": (
        {"models": {"plain": [{"train": STAGE2}, {"train": STAGE2}]}},
        r"stage 2: expected an export behind the training of an adapter, got train",
    ),
    "nothing to merge": (
        {"models": {"plain": [*PLAIN, {"export": MERGE}]}},
        r"plain, stage 2: expected a training, got export",
    ),
    "base alone": ({"models": {"plain": PLAIN, "a": [{"from": "plain"}]}}, r"models\.a ends without a whole model"),
    "merge of a base": (
        {"models": {"plain": PLAIN, "a": [{"from": "plain"}, {"export": MERGE}]}},
        r"a, stage 1: expected a training, got export",
    ),
    "base of the first": (
        {"models": {"plain": [{"from": "a"}, *PLAIN], "a": PLAIN}},
        r"models\.plain: from: expected a model that stands before it \(none, for it is the first\), got 'a'",
    ),
    "itself as base": (
        {"models": {"plain": PLAIN, "a": [{"from": "a"}, *PLAIN]}},
        r"models\.a: from: expected a model that stands before it \(plain\), got 'a'",
    ),
    "base that is no name": (
        {"models": {"plain": PLAIN, "a": [{"from": ["plain"]}, *PLAIN]}},
        r"models\.a: from: expected a model .* got \['plain'\]",
    ),
    "base behind a stage": (
        {"models": {"plain": PLAIN, "a": [*PLAIN, {"from": "plain"}]}},
        r"models\.a: \{from: NAME\} must stand alone, before all stages",
    ),
    "two bases": (
        {"models": {"plain": PLAIN, "a": [{"from": "plain"}, {"from": "plain"}, *PLAIN]}},
        r"models\.a: \{from: NAME\} must stand alone, before all stages",
    ),
    "base within a stage": (
        {"models": {"plain": PLAIN, "a": [{"from": "plain", "train": STAGE1}]}},
        r"models\.a: \{from: NAME\} must stand alone, before all stages",
    ),
    "base and a model": (
        {"models": {"plain": PLAIN, "a": [{"from": "plain"}, {"train": STAGE1, "model_name_or_path": "b"}]}},
        r"a, stage 1: it starts from the model before it; leave out model_name_or_path",
    ),
    "seeds of nothing": ({"seeds": {"a": [1]}}, r"seeds: unknown value 'a'; expected one of plain, two stages"),
    "seed twice": ({"seeds": {"plain": [1, 1]}}, r"seeds\.plain must be a list of different seeds such as \[43, 44\]"),
    "no seed": ({"seeds": {"plain": []}}, r"seeds\.plain must be a list of different seeds"),
    "seed that is a text": ({"seeds": {"plain": ["a"]}}, r"seeds\.plain, entry 1 must be an integer"),
    "its own seed": ({"seeds": {"plain": [42]}}, r"seeds\.plain: 42 is the seed that it has; name others"),
    "name of another seed": (
        {"models": {"plain": PLAIN, "plain seed 1": PLAIN}, "seeds": {"plain": [1]}},
        r"study\.yaml: 'plain seed 1' is what seeds calls another training of it; rename the other one",
    ),
    "merge without the tokens of its training": (
        {"models": {"plain": [{"train": STAGE2, "add_special_tokens": "<x>"}, {"export": MERGE}]}},
        r"plain, stage 2: a merge needs add_special_tokens as its training has it: <x>",
    ),
    "system without a model": ({"systems": {"a": {"policies": []}}}, r"systems\.a must be a mapping such as"),
    "key of no evaluation": ({"systems": {"a": {**OFFLINE, "beams": 1}}}, r"systems\.a: unknown key 'beams'"),
    "policy that the model cannot": (
        {"systems": {"a": {"model": "plain", "policies": [{"latency": "low"}]}}},
        r"systems\.a: policies, entry 1: latency has no meaning for a model of layout: prefix",
    ),
    "reference that is no text": ({"reference": 3}, r"study\.yaml: reference must be a text, got 3"),
    "stage without a YAML": ({"models": {"plain": [{"train": None}]}}, r"plain, stage 1: expected one of train and"),
    "other sentences": (
        {"systems": {"a": {**OFFLINE, "limit": 3}}},
        r"systems\.a\.limit must be the same for all systems",
    ),
    "another count of the target": (
        {"systems": {"a": {**OFFLINE, "bleu_tokenize": "char"}}},
        r"systems\.a\.bleu_tokenize must be the same for all systems",
    ),
    "policy twice": (
        {"systems": {"a": {**OFFLINE, "policies": [{"policy": "offline"}] * 2}}},
        r"systems\.a: policies: two entries are the same \(offline, offline\)",
    ),
    "policy without a name": (
        {"systems": {"a": {**OFFLINE, "policies": [{}]}}},
        r"systems\.a: .*needs a policy or a latency",
    ),
    "contradiction": (
        {"systems": {"a": {**OFFLINE, "simulmask": {"positions": "group"}}}},
        r"systems\.a: simulmask\.positions is 'group', but the model was trained with 'modified_alibi'",
    ),
    "missing text": ({"evaluation": {"source": "none", "target": "none"}}, r"offline: source: none: no such file"),
    "unknown reference": (
        {"reference": "SimulMask/wait_k-9"},
        r"reference: no system or run 'SimulMask/wait_k-9'; expected one of offline, offline/offline, SimulMask, ",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_study_is_refused(study, changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_study_of_the_toy_is_accepted(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    texts = [tmp_path / "source", tmp_path / "target"]
    for text in texts:
        text.write_text("one\n")
    study = load_study(
        "yaml_configs/toy_compare.yaml", [f"evaluation.source={texts[0]}", f"evaluation.target={texts[1]}"]
    )
    assert {system.model for system in study.systems.values()} | {"base"} == set(study.models)
    assert set(study.bases) == set(study.models) - {"base"}, "every method fine-tunes the base"
