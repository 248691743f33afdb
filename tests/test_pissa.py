"""PiSSA: what is merged is what was trained, with all of its weights and its settings."""

import pytest
from driving import llama_factory
from in_process import load, losses
from safetensors.torch import load_file

from simulmask_plugin.commands.verify_merge import verify_merge
from simulmask_plugin.config.model_settings import ModelSettings

pytestmark = llama_factory

PISSA = {"pissa_init": True, "pissa_convert": True}
CASES = {
    "prefix": (False, {}),
    "interleaved": (False, {"simulmask": {"layout": "interleaved"}}),
    "interleaved and tied": (True, {"simulmask": {"layout": "interleaved"}}),
    "embeddings": (False, {"additional_target": "embed_tokens,lm_head"}),
}


@pytest.fixture(scope="module")
def models(bench):
    return {tied: bench.model(f"tied {tied}", tied=tied) for tied in (True, False)}


@pytest.mark.parametrize("case", CASES)
def test_converted_adapter_merges_into_what_was_trained(bench, models, case):
    tied, keys = CASES[case]
    output = bench.train(case, models[tied], **PISSA, **keys)
    converted = output / "pissa_converted"
    merged = bench.export(f"{case} merged", models[tied], converted)
    checks = list(verify_merge(models[tied], str(converted), str(merged)))
    assert [check.detail for check in checks if not check.passed] == []
    assert ModelSettings.load(merged) == ModelSettings.load(output)


def test_exact_pissa_needs_no_conversion(bench, models):
    output = bench.train("exact", models[False], pissa_init=True, pissa_iter=-1)
    merged = bench.export("exact merged", models[False], output)
    assert all(check.passed for check in verify_merge(models[False], str(output), str(merged)))


def test_estimated_pissa_without_conversion_is_refused(bench, models):
    message = r"pissa_iter: 16 estimates .* set pissa_convert: true .* or set pissa_iter: -1"
    with pytest.raises(ValueError, match=message):
        bench.train("lost", models[False], pissa_init=True)


def test_estimated_adapter_is_neither_merged_nor_trained_further(bench, models):
    output = bench.train("estimated", models[False], **PISSA)
    message = "estimated is a PiSSA adapter over weights that were estimated .* take pissa_converted"
    with pytest.raises(ValueError, match=message):
        bench.export("estimated merged", models[False], output)
    with pytest.raises(ValueError, match=message):
        bench.train("further", models[False], adapter_name_or_path=str(output))
    assert load(bench.export("converted merged", models[False], output / "pissa_converted"))


def test_conversion_of_a_training_that_goes_on_is_refused_and_exact_pissa_goes_on(bench, models):
    """LLaMA-Factory would take the adapter of the checkpoint for the initial one."""
    bench.train("whole", models[False], **PISSA, save_steps=1)
    message = "pissa_convert mistakes the adapter that a training resumes from for the one that it began with"
    with pytest.raises(ValueError, match=message):
        bench.train("goes on", models[False], **PISSA, resume_from_checkpoint=str(bench.folder / "whole/checkpoint-1"))
    exact = {"pissa_init": True, "pissa_iter": -1}
    whole = bench.train("whole exact", models[False], **exact, save_steps=1)
    resumed = bench.train("exact goes on", models[False], **exact, resume_from_checkpoint=str(whole / "checkpoint-1"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    adapters = [load_file(output / "adapter_model.safetensors") for output in (whole, resumed)]
    assert all((adapters[0][name] - adapters[1][name]).abs().max() < 1e-5 for name in adapters[0])
