"""EAST from chunks to a merged model that decides for itself, through the programs that a user calls."""

import json

import pytest
from end_to_end import NUM_TEST, ROOT, SCRIPTS, losses

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.text.prompts import READ_END, WRITE_END

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

EAST_STAGE1, EAST_STAGE2 = (ROOT / "yaml_configs" / f"toy_east_{name}.yaml" for name in ("stage1_full", "stage2_lora"))
LLAMA = ("--family", "llama")
TWO_PROCESSES = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


@pytest.fixture(scope="module")
def stage1(workshop):
    return workshop.train("east_stage1", "max_steps=30", "learning_rate=3e-3", config=EAST_STAGE1)


@pytest.fixture(scope="module")
def stage2(workshop, stage1):
    return workshop.train("east_stage2", f"model_name_or_path={stage1}", config=EAST_STAGE2)


@pytest.fixture(scope="module")
def merged(workshop, stage1, stage2):
    output = workshop.folder / "east_merged"
    workshop.run(
        "east_merge",
        *(SCRIPTS / "llamafactory-cli", "export", "yaml_configs/toy_east_merge.yaml"),
        *(f"model_name_or_path={stage1}", f"adapter_name_or_path={stage2}", f"export_dir={output}"),
    )
    return output


def test_each_stage_saves_what_its_own_data_named(stage1, merged):
    """The second stage has sentences that come whole beside the chunks."""
    chunks = ("low", "medium", "high")
    found = [ModelSettings.load(folder).trained_on for folder in (stage1, merged)]
    assert found == [TrainedOn((("X", "Y"),), of_stage) for of_stage in (chunks, (*chunks, "offline"))]


def embeddings(folder):
    """Rows of the two special tokens in the embedding, and the model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    ids = tokenizer.convert_tokens_to_ids([READ_END, WRITE_END])
    assert [tokenizer.encode(token, add_special_tokens=False) for token in (READ_END, WRITE_END)] == [[i] for i in ids]
    return model.get_input_embeddings().weight.detach()[ids], model


def test_full_training_adds_two_tokens_that_differ_and_learns(stage1):
    rows, model = embeddings(stage1)
    assert (rows[0] - rows[1]).abs().max() > 1e-2
    assert model.config.tie_word_embeddings
    found = losses(stage1)
    assert found[30] < 0.9 * found[1]


def test_lora_trains_the_tokens_and_the_merge_keeps_them(workshop, stage1, stage2, merged):
    before, _ = embeddings(stage1)
    after, model = embeddings(merged)
    assert ((before - after).abs().amax(dim=1) > 1e-3).all()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    command = (SCRIPTS / "simulmask", "verify-merge", "--base", stage1, "--adapter", stage2, "--merged", merged)
    assert "were trained" in workshop.run("east_verify", *command)


def test_sweep_over_latency_prompts_and_thresholds(workshop, merged):
    data, output = workshop.folder / "data", workshop.folder / "east_eval"
    workshop.run(
        "east_eval",
        *(SCRIPTS / "simulmask", "eval", ROOT / "yaml_configs" / "toy_east_eval.yaml"),
        *(f"model={merged}", f"source={data / 'test.source'}", f"target={data / 'test.target'}"),
        *(f"output={output}", "jobs=1", "max_target_tokens=24"),
        "policies=[{latency: low}, {latency: high, read_threshold: 0.001}, {latency: high, beam_width: 3}]",
    )
    for name in ("low", "high-0.001", "high-beam3"):
        instances = [json.loads(line) for line in (output / name / "instances.log").read_text().splitlines()]
        assert len(instances) == NUM_TEST
        assert all(one["delays"] == sorted(one["delays"]) for one in instances)
    eager = (output / "high-0.001" / "instances.log").read_text().splitlines()
    assert all(json.loads(line)["delays"][:1] in ([], [1]) for line in eager)  # P reaches 0.001 after the first word


def test_two_processes_give_the_losses_of_one(workshop, stage1):
    output = workshop.train(
        "east_ddp",
        *("max_steps=10", "learning_rate=3e-3", "per_device_train_batch_size=4"),
        config=EAST_STAGE1,
        **TWO_PROCESSES,
    )
    assert ModelSettings.load(output) == ModelSettings.load(stage1)
    one = losses(stage1)
    for step, loss in losses(output).items():
        assert loss == pytest.approx(one[step], abs=1e-4)


@pytest.mark.parametrize("loss_on", ["all", "target"])
def test_packed_training_is_that_of_single_examples(workshop, loss_on):
    """LLaMA-Factory's own packing: with neat_packing no example sees another, so the mean loss is the same."""
    model = workshop.folder / "packing_llama"
    workshop.run(
        "packing_llama",
        *("python", "data/make_model.py", "--text", workshop.folder / "data" / "train.jsonl", "--output", model),
        *(*LLAMA, "--layers", 2, "--hidden", 32, "--heads", 2, "--vocab-size", 400),
    )
    common = (f"model_name_or_path={model}", "learning_rate=0", "num_train_epochs=1", "max_steps=-1", "seed=1")
    common += (f"simulmask.loss_on={loss_on}", "gradient_accumulation_steps=100")
    single = workshop.train(f"unpacked_{loss_on}", *common, config=EAST_STAGE1)
    packed = workshop.train(
        f"packed_{loss_on}", *common, "packing=true", "neat_packing=true", "cutoff_len=512", config=EAST_STAGE1
    )
    (one,), (other,) = losses(single).values(), losses(packed).values()
    assert one == pytest.approx(other, abs=1e-4)
