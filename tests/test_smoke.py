"""`simulmask smoke`: what it refuses, its stages, its streaming; from data to translation: test_end_to_end_smoke.py."""

import re

import pytest
import yaml
from driving import llama_factory, write_model, write_setup

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.batches.features import Row
from simulmask_plugin.cli import main
from simulmask_plugin.commands.arguments import SmokeOptions
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.smoke import Trial, _losses, _stream, adapt
from simulmask_plugin.commands.smoke_plan import Machine
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.training.chat_prompt import resolve_prompt


@pytest.fixture
def training(tmp_path):
    return write_setup(tmp_path)


def error(capsys, *words):
    assert main(["smoke", *map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulmask.k=3"], "Name at least one training YAML"),
        (["no.yaml"], "no.yaml: no such file"),
        (["yaml_configs/toy_merge.yaml"], "toy_merge.yaml is no training YAML; expected stage: sft"),
        (["yaml_configs/toy_eval.yaml"], "toy_eval.yaml is no training YAML"),
        (["yaml_configs/toy_slots_full.yaml", "simulmask.kk=1"], "simulmask: unknown key 'kk'"),
        (["yaml_configs/toy_slots_full.yaml", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["yaml_configs/toy_slots_full.yaml", "--output", "yaml_configs"], "yaml_configs exists and is not empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(capsys, words, message):
    text = error(capsys, *words)
    assert message in text
    assert "what was made" not in text


@llama_factory
def test_what_llama_factory_would_refuse_is_refused_before_it_starts(training, capsys, tmp_path):
    text = error(capsys, training, "unknown=1", "--output", tmp_path / "made")
    assert "['unknown']" in text
    assert f"what was made is in {tmp_path / 'made'}" in text


@llama_factory
def test_model_that_is_not_here_is_missed(training, capsys, tmp_path):
    text = error(capsys, training, "model_name_or_path=./no/model", "--output", tmp_path / "made")
    assert "./no/model: no such folder" in text
    assert "--tiny" in text


def test_stage_starts_from_the_model_of_the_one_before_and_says_so(training, capsys, tmp_path):
    values = yaml.safe_load(training.read_text()) | {"adapter_name_or_path": "saves/old"}
    trial = Trial(SmokeOptions(overrides=[], tiny=True), Machine(False, False), tmp_path)
    result = adapt("second.yaml", values, "stage2", tmp_path / "stage1" / "merged", trial)
    assert result["model_name_or_path"] == str(tmp_path / "stage1" / "merged")
    assert "adapter_name_or_path" not in result
    assert result["output_dir"] == str(tmp_path / "stage2" / "trained")
    assert {"bf16", "adapter_name_or_path"}.isdisjoint(result)
    printed = capsys.readouterr().out
    for line in (
        "bf16: true -> left out (for GPUs, of which there is none here)",
        "max_steps: - -> 3 (long enough to see it run)",
        f"output_dir: {values['output_dir']} -> {result['output_dir']} (yours stays as it is)",
    ):
        assert f"  {line}\n" in printed


@pytest.mark.parametrize("losses", ["[]", '[{"loss": NaN}]', '[{"loss": 1.0}, {"loss": Infinity}]'])
def test_training_without_a_loss_that_is_a_number_has_failed(tmp_path, losses):
    (tmp_path / "trainer_state.json").write_text(f'{{"log_history": {losses}}}')
    with pytest.raises((ProgramFailed, ValueError)):
        _losses(tmp_path)


@pytest.mark.parametrize(
    ("block", "num_read"),
    [
        ({"policy": "wait_k", "k": [1, 3]}, 3),
        ({"policy": "schedule"}, 3),
        ({"policy": "read_n", "n": 2, "layout": "turns"}, 2),  # a random model ends no turn before the last token
        ({"layout": "interleaved"}, 3),
        ({"policy": "offline", "layout": "slots"}, 3),
    ],
)
def test_every_layout_and_policy_streams(tmp_path, capsys, block, num_read):
    tokenizer = byte_tokenizer()
    config = SimulMaskConfig.from_dict(block)
    latencies = ("medium", "high") if config.layout.names_latency else ()
    trained_on = TrainedOn((("English", "German"), ("Greek", "Dutch")), latencies)
    settings = ModelSettings(config, resolve_prompt(config, None, tokenizer)).after_training_on(trained_on)
    write_model(tmp_path, tiny_model("llama", len(tokenizer), 0), tokenizer, settings)
    _stream(tmp_path, [Row("one big dog", "x", "Greek", "Dutch"), Row("two", "x", None, None)], "cpu")
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert re.findall("READ ([a-z]+)", first) == ["one", "big", "dog"][:num_read]
    assert re.findall("READ ([a-z]+)", second) == ["two"]
    assert "WRITE" in first + second
