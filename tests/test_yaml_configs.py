"""Every YAML of yaml_configs/ is read by the parser that it is written for; nothing is downloaded."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from driving import llama_factory

from simulmask_plugin.cli import main
from simulmask_plugin.commands import stand_ins
from simulmask_plugin.commands.smoke_plan import apply
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.evaluation.config import load_evaluation
from simulmask_plugin.evaluation.study import load_study
from simulmask_plugin.text.prompts import LATENCIES, READ_END

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "yaml_configs"
CONFIGS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}
EVALUATIONS = [name for name, keys in CONFIGS.items() if "policies" in keys]
MERGES = [name for name, keys in CONFIGS.items() if "export_dir" in keys]
STUDIES = [name for name, keys in CONFIGS.items() if "systems" in keys]
"""Read in test_study.py."""
TRAININGS = [name for name in CONFIGS if name not in (*EVALUATIONS, *MERGES, *STUDIES)]
LANGUAGES = {"German": "de", "French": "fr", "Dutch": "nl", "Italian": "it", "Romanian": "ro"}
"""The targets of IWSLT 2017 that the YAMLs of slots are for, the first by themselves."""
DEEPSPEED = sorted(FOLDER.glob("deepspeed/*.json"))

MODELS = {name: keys["model_name_or_path"].replace("/", "_") for name, keys in CONFIGS.items() if name in TRAININGS}
"""Names of models that are nowhere, and still tell their families."""

# bf16 asks for a GPU unless the CPU is asked for, and deepspeed for a process that torchrun has started.
ON_A_CPU = ["use_cpu=true", "deepspeed=null"]

PARSE = f"""
import json, sys
from llamafactory.hparams import parser
from simulmask_plugin.training.llamafactory_seams import training_arguments
from simulmask_plugin.options import read_yaml
parsed = {{}}
for name, (path, *overrides) in json.loads(sys.argv[1]).items():
    if path.endswith("_merge.yaml"):
        sys.argv[1:] = [path, *overrides]
        arguments = parser.get_infer_args()
    else:
        arguments = training_arguments(read_yaml(path, [*overrides, *{ON_A_CPU}]))
    keys = {{}}
    for one in arguments:
        keys |= vars(one)
    parsed[name] = keys
json.dump(parsed, open("parsed.json", "w"), default=str)
"""


def header(name):
    """The comment that a YAML opens with."""
    return re.match(r"(#.*\n)+", (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")).group()


def overrides_of(name):
    """Language -> the overrides that the header of a YAML gives for it, as the shell would hand them over."""
    joined = re.sub(r"\\\n# *", "", header(name))
    return {
        language: shlex.split(line) for language, line in re.findall(r"^#   ([A-Z]\w+): +(.*)$", joined, re.MULTILINE)
    }


OVERRIDES = {name: overrides_of(name) for name in CONFIGS if overrides_of(name)}


def trainings_of_studies(folder):
    """Study and model -> YAMLs of the trainings, as the study has them run."""
    (folder / "text").write_text("one\n")
    texts = [*(f"evaluation.{side}={folder / 'text'}" for side in ("source", "target")), "evaluation.limit=null"]
    with contextlib.chdir(ROOT):
        studies = {path.stem: load_study(str(path), texts) for path in sorted(FOLDER.glob("studies/*.yaml"))}
    result = {}
    for study, loaded in studies.items():
        for name, stages in loaded.models.items():
            for number, stage in enumerate(stages):
                if stage.kind == "train":
                    path = folder / f"{study}_{name}_{number}.yaml"
                    path.write_text(
                        yaml.safe_dump({"model_name_or_path": "nowhere", **stage.values, "output_dir": "x"})
                    )
                    result[f"{study}, {name}, {number}"] = path
    return result


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """What LLaMA-Factory's parser makes of each training and merge: key -> value; in a process of its own.

    A name alone is the YAML as it stands, "name language" the YAML with the overrides of its header, "study, model,
    number" a training of a study.
    """
    folder = tmp_path_factory.mktemp("parsed")
    commands = {name: [str(path)] for name, path in trainings_of_studies(folder).items()}
    for name in (*TRAININGS, *MERGES):
        path = str(FOLDER / f"{name}.yaml")
        commands[name] = [path]
        commands |= {f"{name} {language}": [path, *given] for language, given in OVERRIDES.get(name, {}).items()}
    result = subprocess.run(
        [sys.executable, "-c", PARSE, json.dumps(commands)],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "parsed.json").read_text(encoding="utf-8"))


def training_of(evaluation):
    """The training of the model that is evaluated, merged or not."""
    adapters = {keys["export_dir"]: keys["adapter_name_or_path"] for keys in map(CONFIGS.get, MERGES)}
    model = CONFIGS[evaluation]["model"]
    (training,) = (k for k in map(CONFIGS.get, TRAININGS) if k["output_dir"] == adapters.get(model, model))
    return training


def test_every_model_can_be_trained_merged_and_evaluated():
    models = {re.sub(r"_(merge|eval)$", "", name) for name in (*MERGES, *EVALUATIONS)}
    assert models >= {"toy", "toy_slots", "toy_turns", "llama_3_1_8b", "qwen_2_5_7b"}
    assert models >= {"falcon_rw_1b", "falcon_rw_1b_slots", "falcon_rw_1b_turns"}
    for model in models:
        assert f"{model}_eval" in CONFIGS
        assert f"{model}_merge" in CONFIGS or f"{model}_full" in CONFIGS
        assert any(name.startswith(model) for name in TRAININGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_header_says_what_it_does_and_its_command(name):
    program = "llamafactory-cli train"
    if name in EVALUATIONS:
        program = "simulmask eval"
    elif name in MERGES:
        program = "llamafactory-cli export"
    elif name in STUDIES:
        program = "simulmask compare"
    assert re.search(rf"^#   .*\b{program} yaml_configs/{name}\.yaml\b", header(name), re.MULTILINE)
    assert not header(name).startswith("#  ")


@pytest.mark.parametrize("name", TRAININGS)
def test_llama_factory_parses_training(parsed, name):
    keys = CONFIGS[name]
    assert parsed[name]["simulmask"] == keys["simulmask"]
    for key in keys.keys() - {"deepspeed", "simulmask", "report_to"}:
        expected = keys[key]
        if isinstance(expected, list):
            continue
        found = parsed[name][key]
        found = ",".join(found) if isinstance(found, list) else found
        assert str(found).removeprefix("SaveStrategy.").lower() == str(expected).lower(), key


def test_llama_factory_parses_every_training_of_the_studies(parsed):
    of_studies = {name: keys for name, keys in parsed.items() if "," in name}
    assert len(of_studies) > 20
    assert all(keys["simulmask"] for keys in of_studies.values())


@pytest.mark.parametrize("name", TRAININGS)
def test_block_is_valid_and_suits_the_family(name):
    config = SimulMaskConfig.from_dict(CONFIGS[name]["simulmask"])
    positions = "group" if name.startswith(("llama", "qwen", "smollm2")) else "modified_alibi"
    own = {"interleaved": "contiguous", "turns": "contiguous", "slots": "slots"}
    assert config.layout.positions == own.get(config.layout.name, positions)
    assert (config.prompt == "template") == (CONFIGS[name]["template"] != "empty")


@pytest.fixture
def in_place(tmp_path):
    """Overrides that put a tiny model of its family and toy sentences in the place of a recipe's own."""

    def overrides(name):
        values = CONFIGS[name] | {"dataset_dir": "nowhere", "model_name_or_path": f"nowhere/{MODELS[name]}"}
        replaced = stand_ins.data(values, tmp_path / "data")
        replaced += stand_ins.model(apply(values, replaced), tmp_path / "model")
        given = {one.key: one.value for one in replaced if one.value is not None}
        if "eval_dataset" in values:
            given["eval_dataset"] = values["dataset"]
        return [f"{key}={value}" for key, value in given.items()] + ["preprocessing_num_workers=1"]

    return overrides


@llama_factory
@pytest.mark.parametrize("name", TRAININGS)
def test_training_is_validated_and_shown(in_place, capsys, monkeypatch, name):
    """Model and data stand in; all else is the YAML's own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
    path, given = str(FOLDER / f"{name}.yaml"), in_place(name)
    assert main(["validate", path, *given]) == 0
    assert capsys.readouterr().out.endswith("Valid.\n")
    assert main(["show", path, *given]) == 0
    labelled = f"not {READ_END}" in capsys.readouterr().out
    assert labelled == (CONFIGS[name]["simulmask"].get("loss_on") == "target")


@pytest.mark.parametrize("name", MERGES)
def test_llama_factory_parses_merge(parsed, name):
    assert parsed[name]["export_dir"] == CONFIGS[name]["export_dir"]
    assert parsed[name]["infer_dtype"] == CONFIGS[name]["infer_dtype"]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation_is_accepted(name):
    config = load_evaluation(FOLDER / f"{name}.yaml")
    if "east" in name:
        assert [policy["latency"] for policy in config.policies[:5]] == list(LATENCIES)
        thresholds = [policy["read_threshold"] for policy in config.policies[5:]]
        assert thresholds == sorted(thresholds)
    elif "turns" in name:
        numbers = [policy["n"] for policy in config.policies]
        assert training_of(name)["simulmask"]["n"] in numbers
        assert numbers == sorted(numbers)
    else:
        assert [policy.get("k") for policy in config.policies] == [1, 3, 5, 7, 9, None]


@pytest.mark.parametrize("family", [name.removesuffix("_merge") for name in MERGES])
def test_each_stage_reads_what_the_one_before_wrote(family):
    merge, evaluation = CONFIGS[f"{family}_merge"], CONFIGS[f"{family}_eval"]
    (adapter,) = (keys for keys in map(CONFIGS.get, TRAININGS) if keys["output_dir"] == merge["adapter_name_or_path"])
    assert adapter["finetuning_type"] == "lora"
    assert adapter["model_name_or_path"] == merge["model_name_or_path"]
    assert adapter["template"] == merge["template"]
    assert evaluation["model"] == merge["export_dir"]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_model_that_is_evaluated_has_its_training(name):
    training = training_of(name)
    assert (training["finetuning_type"] == "full") == (training["output_dir"] == CONFIGS[name]["model"])


# The other languages, as the headers say


def test_headers_of_slots_have_the_other_languages():
    models = ("llama_3_1_8b", "qwen_2_5_7b")
    assert set(OVERRIDES) == {f"{model}_slots_{stage}" for model in models for stage in ("lora", "merge", "eval")}
    for name, overrides in OVERRIDES.items():
        assert list(overrides) == list(LANGUAGES)[1:], name


@pytest.mark.parametrize("language", list(LANGUAGES)[1:])
@pytest.mark.parametrize("model", ["llama_3_1_8b_slots", "qwen_2_5_7b_slots"])
def test_overrides_of_the_headers_lead_from_one_stage_to_the_next(parsed, model, language):
    code = LANGUAGES[language]
    training, merge = (parsed[f"{model}_{stage} {language}"] for stage in ("lora", "merge"))
    evaluation = load_evaluation(FOLDER / f"{model}_eval.yaml", OVERRIDES[f"{model}_eval"][language])
    assert training["simulmask"] == CONFIGS[f"{model}_lora"]["simulmask"] | {"target_lang": language}
    assert training["dataset"] == [f"iwslt17_en_{code}_train"]
    assert merge["adapter_name_or_path"] == [training["output_dir"]]
    assert evaluation.model == merge["export_dir"]
    test_set = f"output/data/iwslt17_tst{2015 if code == 'fr' else 2010}_en_{code}"
    assert (evaluation.source, evaluation.target) == (f"{test_set}.source", f"{test_set}.target")
    for folder in (training["output_dir"], merge["export_dir"], evaluation.output):
        assert f"_slots_{code}" in folder


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_config_leaves_sizes_to_the_yaml(path):
    config = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == f"ds_z{config['zero_optimization']['stage']}_config.json"
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert config[key] == "auto"
    assert config["bf16"] == config["fp16"] == {"enabled": "auto"}


def test_deepspeed_configs_are_there_and_named_rightly():
    assert [path.stem for path in DEEPSPEED] == ["ds_z0_config", "ds_z2_config", "ds_z3_config"]
    for name in TRAININGS:
        if "deepspeed" in CONFIGS[name]:
            assert ROOT / CONFIGS[name]["deepspeed"] in DEEPSPEED
