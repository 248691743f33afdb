"""A base with its adapter streams as the merged model does, from every place that loads a model."""

import json
import shutil

import pytest
import torch
from driving import agent_of, error, llama_factory, write_model
from in_process import load

import simulmask_plugin
from simulmask_plugin.cli import main
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.batched import stream_batched
from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.evaluation.runs import close, undone
from simulmask_plugin.files import loading
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.text.prompts import READ_END, WRITE_END
from simulmask_plugin.training.quantization import num_quantized

pytestmark = llama_factory

EAST = {"layout": "interleaved"}
NEW_TOKENS = {"add_special_tokens": f"{READ_END},{WRITE_END}", "resize_vocab": True}
WAIT_2 = {"policy": "wait_k", "k": 2}
ALIBI = {**WAIT_2, "positions": "modified_alibi"}
CASES = {
    "lora": ("untied", {"lora_rank": 2}, {}),
    "dora": ("untied", {"use_dora": True}, {}),
    "oft": ("untied", {"finetuning_type": "oft", "oft_block_size": 4}, {}),
    "falcon": ("falcon", {"simulmask": ALIBI, "additional_target": "word_embeddings"}, {}),
    "east": ("tied", {"simulmask": EAST}, {}),
    "east on a stock base": ("stock", {"simulmask": EAST, **NEW_TOKENS}, NEW_TOKENS),
    "east on separate matrices": ("untied stock", {"simulmask": EAST, **NEW_TOKENS}, NEW_TOKENS),
}


@pytest.fixture(scope="module")
def models(bench):
    """Folders of tiny models by name."""
    return {
        "untied": bench.model("untied"),
        "tied": bench.model("tied", tied=True),
        "stock": bench.model("stock", tied=True, ends=False),
        "untied stock": bench.model("untied stock", ends=False),
        "falcon": bench.model("falcon", "falcon", tied=True),
        "wide": bench.model("wide", hidden_size=96),
        "deep": bench.model("deep", num_hidden_layers=3),
        "shallow": bench.model("shallow", num_hidden_layers=1),
    }


@pytest.fixture(scope="module")
def lora(bench, models):
    """An adapter on the model "untied", and the two merged."""
    adapter = bench.train("adapter", models["untied"], simulmask=WAIT_2)
    return str(adapter), str(bench.export("merged", models["untied"], adapter))


def same(one, other):
    """Whether two models have the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("case", CASES)
def test_base_with_its_adapter_is_the_merged_model(bench, models, case):
    base, keys, merge = CASES[case]
    adapter = bench.train(f"{case} adapter", models[base], **keys)
    merged = bench.export(f"{case} merged", models[base], adapter, **merge)
    adapted, whole = simulmask_plugin.load(models[base], str(adapter)), simulmask_plugin.load(str(merged))
    assert type(adapted.model) is type(whole.model)
    assert same(adapted.model, whole.model)
    assert adapted.encoder.settings == whole.encoder.settings == ModelSettings.load(adapter)
    texts = [list(one.stream("ein haus am see", max_target_tokens=12)) for one in (adapted, whole)]
    assert texts[0] == texts[1]


def test_chained_adapters_are_merged_in_their_order(bench, models):
    first = bench.train("first", models["tied"], simulmask={"policy": "wait_k", "k": 3}, lora_rank=2)
    second = bench.train("second", models["tied"], adapter_name_or_path=str(first), create_new_adapter=True)
    merged = bench.export("merged both", models["tied"], first, second)
    both = TrainedModel.of(models["tied"], f"{first}, {second}")
    assert same(both.load(attention="sdpa"), load(merged)[0])
    assert both.settings() == ModelSettings.load(second) != ModelSettings.load(first)


def records(config, folder):
    """What the engine `batched` writes of two policies."""
    runs = {folder / decision.name: decision for decision in (Decision(), Decision.from_dict({"policy": "offline"}))}
    for run in runs:
        run.mkdir(parents=True)
    assert stream_batched(config, runs, undone(runs, 2)) == {}
    for run in runs:
        close(run)
    return [(run / "instances.log").read_text() for run in runs]


def test_both_engines_write_what_they_write_with_the_merged_model(models, lora, tmp_path):
    adapter, merged = lora
    (tmp_path / "text").write_text("ein haus am see\nder hund\n")
    paths = {"source": str(tmp_path / "text"), "target": str(tmp_path / "text"), "output": str(tmp_path)}
    config = {**paths, "policies": (), "latency_unit": "word", "attn_implementation": "sdpa", "max_target_tokens": 12}
    of_two = EvaluationConfig(model=models["untied"], adapter=adapter, **config)
    assert records(of_two, tmp_path / "two") == records(EvaluationConfig(model=merged, **config), tmp_path / "merged")
    agent, expected = agent_of(models["untied"], "--adapter", adapter), agent_of(merged)
    assert same(agent.model, expected.model)
    assert agent.encoder.settings == expected.encoder.settings


def test_evaluation_notes_its_adapter_and_refuses_another(models, lora, tmp_path, capsys):
    adapter = shutil.copytree(lora[0], tmp_path / "adapter")
    (tmp_path / "text").write_text("ein haus am see\nder hund\n")
    keys = dict.fromkeys(("source", "target"), str(tmp_path / "text"))
    keys |= {"model": models["untied"], "adapter": str(adapter), "output": str(tmp_path / "out")}
    keys |= {"policies": [{"policy": "offline"}], "engine": "batched", "audit": 0, "max_target_tokens": 12}
    (tmp_path / "eval.yaml").write_text(json.dumps(keys))
    command = ["eval", str(tmp_path / "eval.yaml")]
    assert main(["validate", command[1]]) == main(command) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"`{models['untied']}` with the adapter `{adapter}` translates 2 sentences" in report
    scores = tmp_path / "out" / "offline" / "scores.tsv"
    before = scores.stat().st_mtime_ns
    moved = shutil.move(adapter, tmp_path / "moved")
    assert main([*command, f"adapter={moved}"]) == 0
    assert scores.stat().st_mtime_ns == before, "the same adapter elsewhere is the same"
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    changed = error(capsys, *command, f"adapter={moved}")
    assert "holds results made with other settings or files (adapter 1: adapter_config.json changed)" in changed


@pytest.mark.parametrize(
    "command",
    [
        ["parity", "--json", "--length", "0", "--model"],
        ["attention", "--json", "--source", "ein haus", "--target", "a house"],
        ["translate", "--text", "ein haus", "--max-target-tokens", "12", "--actions"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_what_they_say_of_the_merged_model(models, lora, capsys, command):
    adapter, merged = lora
    said = []
    for model in ([models["untied"], "--adapter", adapter], [merged]):
        assert main([*command, *model]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_tokens_that_no_training_has_seen_are_refused(models, lora, tmp_path):
    """A tokenizer with more tokens than the base, and an adapter without rows for them."""
    adapter = shutil.copytree(lora[0], tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not fit .*no adapter has trained the others. It was trained on"):
        simulmask_plugin.load(models["stock"], str(adapter))


MISFITS = {
    "wide": r"base_model\..* and \d+ more: expected \(96, 4\), got \(64, 4\)",
    "deep": r"base_model\..*layers\.2\..* and \d+ more: expected \(.*\), got nothing",
    "shallow": r"base_model\..*layers\.1\..* and \d+ more: expected nothing, got \(.*\)",
    "falcon": r".* not found in the base model.*",
}


@pytest.mark.parametrize("name", MISFITS)
def test_adapter_of_another_model_is_refused(models, lora, name):
    message = rf"{name}: {MISFITS[name]}\. It was trained on .*untied; take that model"
    with pytest.raises(ValueError, match=message):
        simulmask_plugin.load(models[name], lora[0])


def test_adapter_in_the_place_of_the_model_names_its_base_and_the_merge(models, lora, capsys):
    base, (adapter, _) = models["untied"], lora
    for arguments in (["parity", "--model", adapter], ["translate", adapter, "--text", "a"]):
        message = error(capsys, *arguments)
        assert f"{adapter} is an adapter, trained on {base}. Set model: {base} and adapter: {adapter}" in message
        assert f"llamafactory-cli export --model_name_or_path {base} --adapter_name_or_path {adapter}" in message


def damaged(adapter, folder, name, content=None):
    """A copy of an adapter in which a file has other content, or is missing."""
    path = shutil.copytree(adapter, folder / "adapter") / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    return str(folder / "adapter")


DAMAGES = {
    "no settings": ("simulmask.json", None, "adapter has no simulmask.json: expected a checkpoint, adapter or"),
    "no weights": (
        "adapter_model.safetensors",
        None,
        r"adapter has no weights; expected adapter_model\.safetensors or",
    ),
    "cut weights": ("adapter_model.safetensors", "x", "adapter: the weights cannot be read"),
    "no configuration": ("adapter_config.json", None, "has no adapter_config.json; expected the output_dir of a LoRA"),
    "another kind": ("adapter_config.json", '{"peft_type": "P_TUNING"}', "'P_TUNING'; expected LORA or OFT"),
    "a list": ("adapter_config.json", "[]", r"adapter_config\.json: expected an object, got \[\]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_adapter_is_refused(models, lora, tmp_path, name):
    *change, message = DAMAGES[name]
    with pytest.raises(ValueError, match=message):
        simulmask_plugin.load(models["untied"], damaged(lora[0], tmp_path, *change))


def test_adapter_stays_beside_quantized_weights(lora, models, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    quantized = AutoModelForCausalLM.from_pretrained(models["untied"], quantization_config=four_bits)
    base = str(write_model(tmp_path / "base", quantized, load(models["untied"])[1], ModelSettings.load(lora[0])))
    loaded = simulmask_plugin.load(base, lora[0])
    assert num_quantized(loaded.model) == num_quantized(quantized)
    assert any("lora_B" in name for name in loaded.model.state_dict())
    assert list(loaded.stream("ein haus", max_target_tokens=12))
    with pytest.raises(ValueError, match="base is quantized: one adapter can stay"):
        simulmask_plugin.load(base, f"{lora[0]},{lora[0]}")


# Names on the hub, offline: what is in its cache


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a folder into the cache of the hub, under a name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loading._from_hub.cache_clear()

    def write(folder, name, *, without=""):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40), ignore=shutil.ignore_patterns(without))
        return name

    yield write
    loading._from_hub.cache_clear()


def test_names_on_the_hub_are_found_in_its_cache(models, lora, hub):
    base, adapter, whole = hub(models["untied"], "org/base"), hub(lora[0], "org/adapter"), hub(lora[1], "org/whole")
    expected = simulmask_plugin.load(lora[1]).model
    assert same(simulmask_plugin.load(base, adapter).model, expected)
    assert same(simulmask_plugin.load(base, lora[0]).model, expected)
    assert same(simulmask_plugin.load(whole).model, expected)


def test_name_that_is_not_there_is_refused_with_what_was_tried(hub, capsys):
    message = error(capsys, "parity", "--model", "org/none")
    assert message.startswith("model: org/none: no such folder, and no model of that name from the Hugging Face hub or")
    assert "outgoing traffic has been disabled" in message


def test_what_the_hub_has_of_a_model_is_said(models, lora, hub):
    with pytest.raises(ValueError, match=r"has no simulmask\.json: .* of a base, name the adapter"):
        simulmask_plugin.load(hub(models["untied"], "org/base"))
    name = hub(lora[1], "org/cut", without="*.safetensors")
    TrainedModel.of(name).settings()
    with pytest.raises(ValueError, match="model: org/cut: .* has no weights"):
        simulmask_plugin.load(name)
