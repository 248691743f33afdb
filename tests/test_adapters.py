"""LoRA and its kin train what they must beside their layers, and one matrix stays one, also after a merge."""

import json

import pytest
import torch
from driving import llama_factory
from in_process import load, losses

from simulmask_plugin.commands.verify_merge import verify_merge

pytestmark = llama_factory

EAST = {"layout": "interleaved"}
ALIBI = {"policy": "wait_k", "k": 2, "positions": "modified_alibi"}
NEW_TOKENS = {"add_special_tokens": "<|end-of-read|>,<|end-of-write|>", "resize_vocab": True}


@pytest.fixture(scope="module")
def models(bench):
    """Folders of tiny models by name."""
    return {
        "tied": bench.model("tied", tied=True),
        "untied": bench.model("untied"),
        "stock": bench.model("stock", tied=True, ends=False),
        "falcon": bench.model("falcon", "falcon", tied=True),
        "gemma": bench.model("gemma", "gemma3", tied=True),
        "falcon_stock": bench.model("falcon_stock", "falcon", tied=True, ends=False),
    }


def failed(base, adapter, merged):
    return {
        check.name: check.detail for check in verify_merge(str(base), str(adapter), str(merged)) if not check.passed
    }


TIED = {
    "embedding": ("tied", {"additional_target": "embed_tokens"}, {}),
    "embedding and head": ("tied", {"additional_target": "embed_tokens,lm_head"}, {}),
    "head alone": ("tied", {"additional_target": "lm_head"}, {}),
    "east": ("tied", {"simulmask": EAST}, {}),
    "embedding that is scaled": ("gemma", {"simulmask": EAST}, {}),
    "east with embedding": ("tied", {"simulmask": EAST, "additional_target": "embed_tokens"}, {}),
    "east with both": ("tied", {"simulmask": EAST, "additional_target": "embed_tokens,lm_head"}, {}),
    "resized stock base": ("stock", {"simulmask": EAST, **NEW_TOKENS}, NEW_TOKENS),
    "falcon embedding": ("falcon", {"simulmask": ALIBI, "additional_target": "word_embeddings"}, {}),
    "falcon with both": ("falcon", {"simulmask": ALIBI, "additional_target": "word_embeddings,lm_head"}, {}),
    "falcon with east": ("falcon", {"simulmask": EAST, "additional_target": "word_embeddings"}, {}),
    "falcon resized": ("falcon_stock", {"simulmask": ALIBI, **NEW_TOKENS}, NEW_TOKENS),
}


@pytest.mark.parametrize("case", TIED)
def test_tied_heads_stay_tied_and_the_merge_is_what_was_trained(bench, models, case):
    name, keys, merge = TIED[case]
    adapter = bench.train(case, models[name], **keys)
    merged = bench.export(f"{case} merged", models[name], adapter, **merge)
    assert failed(models[name], adapter, merged) == {}
    model, _ = load(merged)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = load(models[name])[0].get_input_embeddings().weight
    assert not torch.equal(model.get_input_embeddings().weight[: len(before)], before)


def test_a_tied_embedding_is_trained_as_peft_trains_the_one_kind_that_it_ties(bench, models):
    """The same losses as with `ensure_weight_tying`, which works for `embed_tokens` alone."""
    import llamafactory.model.adapter
    from peft import LoraConfig

    ours = losses(bench.train("ours", models["tied"], additional_target="embed_tokens", max_steps=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulmask_plugin.training.run.lora_config", lambda stock, model, ids, **keys: tying(**keys))
        assert llamafactory.model.adapter.LoraConfig is LoraConfig

        def tying(**keys):
            return LoraConfig(**keys, ensure_weight_tying=True)

        theirs = losses(bench.train("theirs", models["tied"], additional_target="embed_tokens", max_steps=4))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < ours[0]


def test_separate_matrices_are_trained_as_the_yaml_names_them(bench, models):
    """Of EAST's tokens, the rows in the matrix that the YAML leaves out, too."""
    adapter = bench.train("head", models["untied"], simulmask=EAST, additional_target="lm_head")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head"]
    assert list(config["trainable_token_indices"]) == ["embed_tokens"]
    merged = bench.export("head merged", models["untied"], adapter)
    assert failed(models["untied"], adapter, merged) == {}
    (before, _), (after, _) = load(models["untied"]), load(merged)
    changed = (before.get_input_embeddings().weight != after.get_input_embeddings().weight).any(dim=1)
    assert changed.nonzero().flatten().tolist() == config["trainable_token_indices"]["embed_tokens"]


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_one_side_of_a_tied_matrix_is_refused(bench, models, target):
    message = "lora_target names embed_tokens or lm_head, which are one matrix .* set additional_target: embed_tokens"
    with pytest.raises(ValueError, match=message):
        bench.train(f"target {target}", models["tied"], lora_target=f"q_proj,{target}")


def test_chained_adapters_are_the_model_that_was_trained(bench, models):
    first = bench.train("first", models["tied"], additional_target="embed_tokens")
    second = bench.train("second", models["tied"], adapter_name_or_path=str(first), create_new_adapter=True)
    merged_first = bench.export("merged first", models["tied"], first)
    merged = bench.export("merged both", models["tied"], first, second)
    assert failed(merged_first, second, merged) == {}
    assert losses(second)[0] == pytest.approx(losses(bench.train("again", merged_first))[0], abs=1e-4)


OFT = {"finetuning_type": "oft", "oft_block_size": 4}
FREEZE = {"finetuning_type": "freeze", "freeze_trainable_layers": 1}
BOTH = "embed_tokens,lm_head"
UNTRAINED = {
    "oft": ("untied", OFT, r"oft does not work .* set additional_target to the embedding and the head"),
    "oft with one of two": ("untied", {**OFT, "additional_target": "lm_head"}, f"set additional_target: {BOTH}, or"),
    "oft tied": (
        "tied",
        {**OFT, "additional_target": "norm"},
        "finetuning_type: oft would not train .* set finetuning_type: lora or full",
    ),
    "freeze": ("untied", FREEZE, "freeze does not work .* set freeze_extra_modules to the embedding and the head"),
    "freeze with one of two": (
        "untied",
        {**FREEZE, "freeze_extra_modules": "embed_tokens"},
        f"set freeze_extra_modules: {BOTH}, or",
    ),
    "freeze tied": (
        "tied",
        {**FREEZE, "freeze_extra_modules": "norm"},
        "finetuning_type: freeze would not train .* set freeze_extra_modules: embed_tokens, or",
    ),
}


@pytest.mark.parametrize("case", UNTRAINED)
def test_special_tokens_that_would_stay_as_they_are_are_refused(bench, models, case):
    name, keys, message = UNTRAINED[case]
    with pytest.raises(ValueError, match=message):
        bench.train(case, models[name], simulmask=EAST, **keys)


TRAINED = {
    "oft": ("untied", {**OFT, "additional_target": BOTH}),
    "freeze": ("untied", {**FREEZE, "freeze_extra_modules": BOTH}),
    "freeze tied": ("tied", {**FREEZE, "freeze_extra_modules": "embed_tokens"}),
    "full": ("tied", {"finetuning_type": "full"}),
}


@pytest.mark.parametrize("case", TRAINED)
def test_special_tokens_are_trained_where_the_yaml_says_so(bench, models, case):
    name, keys = TRAINED[case]
    output = bench.train(f"{case} trained", models[name], simulmask=EAST, **keys)
    if case == "oft":
        merged = bench.export("oft merged", models[name], output)
        assert failed(models[name], output, merged) == {}
        output = merged
    (before, tokenizer), (after, _) = load(models[name]), load(output)
    ids = tokenizer.convert_tokens_to_ids(["<|end-of-read|>", "<|end-of-write|>"])
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        rows = [getattr(model, matrix)().weight[ids] for model in (before, after)]
        assert (rows[0] != rows[1]).any(dim=1).all()


def test_an_adapter_without_the_tokens_does_not_go_on_with_them(bench, models):
    adapter = bench.train("without tokens", models["untied"])
    keys = {"adapter_name_or_path": str(adapter), "simulmask": EAST}
    with pytest.raises(ValueError, match="set create_new_adapter: true, since the adapter that goes on was made"):
        bench.train("with tokens", models["untied"], **keys)
    bench.train("with new tokens", models["untied"], create_new_adapter=True, **keys)


def test_oft_of_tied_embeddings_is_refused(bench, models):
    message = "oft cannot train embed_tokens and lm_head, which are one matrix .* set finetuning_type: lora, or remove"
    with pytest.raises(ValueError, match=message):
        bench.train("oft tied", models["tied"], **OFT, additional_target=BOTH)
