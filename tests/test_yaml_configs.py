"""Every YAML of yaml_configs/ is read by the parser that it is written for; nothing is downloaded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from simulmask_plugin.config import SimulMaskConfig
from simulmask_plugin.evaluation import load_evaluation
from simulmask_plugin.prompts import LATENCIES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "yaml_configs"
CONFIGS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}
EVALUATIONS = [name for name, keys in CONFIGS.items() if "policies" in keys]
MERGES = [name for name, keys in CONFIGS.items() if "export_dir" in keys]
TRAININGS = [name for name in CONFIGS if name not in (*EVALUATIONS, *MERGES)]
DEEPSPEED = sorted(FOLDER.glob("deepspeed/*.json"))

# bf16 asks for a GPU unless the CPU is asked for, and deepspeed for a process that torchrun has started.
ON_A_CPU = ["use_cpu=true", "deepspeed=null"]

PARSE = f"""
import json, sys
from llamafactory.hparams import parser
from omegaconf import OmegaConf
from simulmask_plugin.factory import training_arguments
parsed = {{}}
for path in sys.argv[1:]:
    if path.endswith("_merge.yaml"):
        *_, finetuning, _ = arguments = parser.get_infer_args(OmegaConf.to_container(OmegaConf.load(path)))
    else:
        *_, finetuning, _ = arguments = training_arguments(path, {ON_A_CPU})
    keys = {{}}
    for one in arguments:
        keys |= vars(one)
    parsed[path] = keys
json.dump(parsed, open("parsed.json", "w"), default=str)
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """What LLaMA-Factory's parser makes of each training and merge: key -> value; in a process of its own."""
    folder = tmp_path_factory.mktemp("parsed")
    paths = [str(FOLDER / f"{name}.yaml") for name in (*TRAININGS, *MERGES)]
    result = subprocess.run(
        [sys.executable, "-c", PARSE, *paths],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    content = json.loads((folder / "parsed.json").read_text(encoding="utf-8"))
    return {Path(path).stem: keys for path, keys in content.items()}


def test_every_model_can_be_trained_merged_and_evaluated():
    models = {re.sub(r"_(merge|eval)$", "", name) for name in (*MERGES, *EVALUATIONS)}
    assert models >= {"toy", "falcon_rw_1b", "llama_3_1_8b", "qwen_2_5_7b"}
    for model in models:
        assert {f"{model}_merge", f"{model}_eval"} <= set(CONFIGS)
        assert any(name.startswith(model) for name in TRAININGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_header_says_what_it_does_and_its_command(name):
    header = re.match(r"(#.*\n)+", (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")).group()
    program = "llamafactory-cli train"
    if name in EVALUATIONS:
        program = "simulmask eval"
    elif name in MERGES:
        program = "llamafactory-cli export"
    assert re.search(rf"^#   .*\b{program} yaml_configs/{name}\.yaml\b", header, re.MULTILINE), header
    assert not header.startswith("#  ")


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


@pytest.mark.parametrize("name", TRAININGS)
def test_block_is_valid_and_suits_the_family(name):
    config = SimulMaskConfig.from_dict(CONFIGS[name]["simulmask"])
    positions = "group" if name.startswith(("llama", "qwen")) else "modified_alibi"
    assert config.positions == {"interleaved": "contiguous", "slots": "slots"}.get(config.layout, positions)
    assert (config.prompt == "template") == (CONFIGS[name]["template"] != "empty")


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
