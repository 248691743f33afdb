"""LLaMA-Factory's features beside the block: what must not change a training does not, and the rest is taken.

docs/llamafactory.md has a line for every key; the cases here are what it calls works.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from driving import llama_factory
from in_process import ROWS, losses

from simulmask_plugin.commands.verify_merge import verify_merge
from simulmask_plugin.config.model_settings import FILE_NAME

pytestmark = llama_factory

PAGE = Path(__file__).parents[1] / "docs" / "llamafactory.md"
FULL = {"finetuning_type": "full", "learning_rate": 1e-3, "max_steps": 3}
EVALUATED = {"eval_dataset": "rows", "eval_strategy": "steps", "eval_steps": 1}
BEST = {**EVALUATED, "load_best_model_at_end": True, "save_steps": 1, "metric_for_best_model": "eval_loss"}
TWICE = {"dataset": "rows,rows", "interleave_probs": "0.5,0.5"}

SAME = {
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "no checkpointing, other precision of layers": {
        "disable_gradient_checkpointing": True,
        "upcast_layernorm": True,
        "upcast_lmhead_output": True,
        "low_cpu_mem_usage": False,
    },
    "other checkpointing, smaller maps": {
        "use_reentrant_gc": False,
        "preprocessing_batch_size": 3,
        "print_param_status": True,
    },
    "workers": {"preprocessing_num_workers": 2, "overwrite_cache": True, "dataloader_num_workers": 2},
    "evaluation on each": {**EVALUATED, "eval_dataset": "rows,rows", "eval_on_each_dataset": True},
    "best model": BEST,
    "early stopping, accuracy": {**BEST, "early_stopping_steps": 5, "compute_accuracy": True},
    "interleave_under": {**TWICE, "mix_strategy": "interleave_under"},
    "interleave_over": {**TWICE, "mix_strategy": "interleave_over"},
    "interleave_once": {**TWICE, "mix_strategy": "interleave_once"},
    "plots and counts": {
        "plot_loss": True,
        "include_effective_tokens_per_second": True,
        "include_num_input_tokens_seen": "non_padding",
    },
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "keys without effect": {
        "preserve_thinking": True,
        "tool_format": "qwen",
        "ignore_pad_token_for_loss": False,
        "top_k": 1,
    },
}
"""What must leave every loss as it is: twice the same data, mixed in any way, is that data, too."""


@pytest.fixture(scope="module")
def base(bench):
    return bench.model("base")


@pytest.fixture(scope="module")
def plain(bench, base):
    """Losses of a training without any of it."""
    return losses(bench.train("plain", base, **FULL))


@pytest.mark.parametrize("feature", SAME)
def test_losses_are_those_of_the_plain_training(bench, base, plain, feature):
    output = bench.train(feature, base, **{**FULL, **SAME[feature]})
    assert losses(output) == pytest.approx(plain, abs=1e-5)
    assert (output / FILE_NAME).is_file()


def test_tensorboard_has_the_losses(bench, base, plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = bench.train("events", base, **FULL, report_to="tensorboard", logging_dir=str(bench.folder / "events_log"))
    (file,) = [path for folder in (output, bench.folder / "events_log") for path in folder.rglob("events.out.*")]
    events = EventAccumulator(str(file)).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(plain)


OTHER = {
    "max_samples": {"max_samples": 4},
    "disable_shuffling": {"disable_shuffling": True},
    "train_sampling_strategy": {"train_sampling_strategy": "group_by_length"},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5},
    "train_from_scratch": {"train_from_scratch": True},
    "use_dft_loss": {"use_dft_loss": True},
    "use_eaft_loss": {"use_eaft_loss": True},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    "bf16": {"bf16": True},
}


@pytest.mark.parametrize("feature", OTHER)
def test_what_changes_the_losses_is_taken(bench, base, plain, feature):
    found = losses(bench.train(feature, base, **{**FULL, **OTHER[feature]}))
    assert len(found) == 3
    assert found[0] != pytest.approx(plain[0], abs=1e-6)


OPTIMIZERS = {"use_muon": {"use_muon": True}, "optim": {"optim": "adafactor"}, "weight_decay": {"weight_decay": 0.5}}


@pytest.mark.parametrize("feature", OPTIMIZERS)
def test_other_optimizers_start_from_the_same_loss(bench, base, plain, feature):
    found = losses(bench.train(feature, base, **{**FULL, **OPTIMIZERS[feature]}))
    assert found[0] == pytest.approx(plain[0], abs=1e-5)
    assert found[1] != pytest.approx(plain[1], abs=1e-6)


def test_validation_and_metrics_are_written(bench, base):
    output = bench.train(
        "metrics", base, **FULL, eval_strategy="steps", eval_steps=1, val_size=0.25, compute_accuracy=True
    )
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert len(evaluations) == 3
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in evaluations)


def test_a_model_is_evaluated_without_a_training(bench, base):
    keys = {**FULL, "do_train": False, "do_eval": True, "eval_dataset": "rows"}
    metrics = json.loads((bench.train("evaluated", base, **keys) / "eval_results.json").read_text())
    assert metrics["eval_loss"] > 1


def test_processes_leave_together_once_all_is_saved(bench, base, monkeypatch):
    def record():
        saved.extend(path.name for path in (bench.folder / "together").iterdir())

    saved = []
    monkeypatch.setattr("simulmask_plugin.training.llamafactory_seams.leave_together", record)
    bench.train("together", base, **FULL)
    assert {"model.safetensors", "trainer_state.json", FILE_NAME} <= set(saved)


def test_a_program_for_gpus_is_refused_where_there_is_none(bench, base, monkeypatch):
    monkeypatch.setattr("simulmask_plugin.training.machine.has_gpu", lambda: False)
    with pytest.raises(ValueError, match="use_unsloth_gc: true needs a GPU, and torch sees none here"):
        bench.train("unsloth", base, **FULL, use_unsloth_gc=True)


LORA = {
    "lora": {},
    "use_dora": {"use_dora": True},
    "use_rslora": {"use_rslora": True},
    "loraplus_lr_ratio": {"loraplus_lr_ratio": 16.0},
    "use_llama_pro": {"use_llama_pro": True, "freeze_trainable_layers": 1},
    "lora_target": {"lora_target": "q_proj,v_proj", "lora_alpha": 4, "lora_dropout": 0.1},
}


@pytest.mark.parametrize("feature", LORA)
def test_adapters_of_every_kind_learn_and_merge(bench, base, plain, feature):
    adapter = bench.train(f"{feature} adapter", base, **LORA[feature])
    if feature != "lora_target":  # dropout
        assert losses(adapter)[0] == pytest.approx(plain[0], abs=1e-5)
    assert losses(adapter)[1] < losses(adapter)[0]
    merged = bench.export(f"{feature} merged", base, adapter)
    assert [check for check in verify_merge(base, str(adapter), str(merged)) if not check.passed] == []


def test_neat_packing_trains_on_the_same_sentences(bench, base):
    """In the layout interleaved; a mean over one step that holds all rows does not depend on how they are packed."""
    east = {"simulmask": {"layout": "interleaved"}, **FULL, "max_steps": 1}
    count = len(ROWS)
    (single,) = losses(bench.train("single", base, **east, gradient_accumulation_steps=count // 4))
    packed = {"packing": True, "neat_packing": True, "cutoff_len": 600, "gradient_accumulation_steps": count}
    (other,) = losses(bench.train("packed", base, **{**east, **packed}, per_device_train_batch_size=1))
    assert other == pytest.approx(single, abs=1e-4)


# The page


def keys_of_llama_factory():
    from llamafactory import hparams
    from llamafactory.hparams import parser

    classes = {*parser._TRAIN_ARGS, *parser._INFER_ARGS, *parser._EVAL_ARGS, hparams.RayArguments}
    return {field.name for one in classes for field in dataclasses.fields(one) if field.init} - {"simulmask"}


def rows_of_page():
    """(keys, what becomes of them, remark) of every row of its tables."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            keys, status, remark = (cell.strip() for cell in line.strip("|").split("|"))
            yield re.findall(r"`(\w+)`", keys), status, remark


STATUSES = ("works", "refused", "no effect", "unchanged")


def test_page_has_every_key_once_and_says_what_becomes_of_it():
    keys = [key for row, _, _ in rows_of_page() for key in row]
    assert sorted(set(keys)) == sorted(keys)
    assert set(keys) == keys_of_llama_factory()
    assert {status for _, status, _ in rows_of_page()} == set(STATUSES)


def test_page_names_tests_that_exist():
    tests = Path(__file__).parent
    for keys, status, remark in rows_of_page():
        named = re.findall(r"`(test_\w+\.py)`", remark)
        assert bool(named) or status not in ("works", "refused"), keys
        for name in named:
            assert (tests / name).is_file(), name
