"""`simulmask verify-merge`: a faithful merge passes every check, and each kind of damage fails its own."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from simulmask_plugin.attention.families import tiny_model
from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.verify_merge import Stored, check_logits
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.text.prompts import Prompt

SETTINGS = ModelSettings(SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3}), Prompt("T:", "\nA:"))


def make(folder, *, family="llama", tied=False, dtype=torch.float32, merged_dtype=None, new_tokens=(), saved=None):
    """Write base, adapter and merged model, as two trainings and an export would."""
    tokenizer = byte_tokenizer()
    model = tiny_model(family, len(tokenizer), 0, tie_word_embeddings=tied).to(dtype)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    if new_tokens:
        tokenizer.add_tokens(list(new_tokens), special_tokens=True)
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", r=4, modules_to_save=saved))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    merged = adapted.to(merged_dtype or dtype).merge_and_unload()  # `infer_dtype` casts before it merges, too
    merged.save_pretrained(folder / "merged")
    for name in ("adapter", "merged"):
        tokenizer.save_pretrained(folder / name)
        SETTINGS.save(folder / name)


def verify(capsys, folder, *, adapter="adapter", merged="merged"):
    """Exit code, and the failed checks with what they say."""
    arguments = ["verify-merge", "--json"]
    for option, name in (("--base", "base"), ("--adapter", adapter), ("--merged", merged)):
        arguments += [option, str(folder / name)]
    capsys.readouterr()
    code = main(arguments)
    checks = json.loads(capsys.readouterr().out)
    return code, {check["name"]: check["detail"] for check in checks if not check["passed"]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make(folder)
    return folder


@pytest.mark.parametrize("family, tied", [("llama", True), ("falcon", False), ("falcon", True)])
def test_faithful_merge_passes(tmp_path, capsys, family, tied):
    make(tmp_path, family=family, tied=tied)
    assert verify(capsys, tmp_path) == (0, {})


def test_table_names_every_check(llama, capsys):
    options = ["--base", "base", "--adapter", "adapter", "--merged", "merged"]
    options[1::2] = [str(llama / name) for name in options[1::2]]
    assert main(["verify-merge", *options]) == 0
    output = capsys.readouterr().out
    for name in ("logits", "vocabulary", "tied weights", "dtype", "tokenizer", FILE_NAME):
        assert name in output
    assert "FAILED" not in output


@pytest.mark.parametrize(("largest", "allowed"), [(0.5, 1e-5), (20.0, 2e-4)])
@pytest.mark.parametrize(("share", "passed"), [(0.9, True), (1.1, False)])
def test_logits_are_equal_to_a_share_of_the_largest_and_it_is_said_which(largest, allowed, share, passed):
    stored = Stored(torch.float32, 10, 10, True, [])
    reference = torch.tensor([[largest, 0.0]], dtype=torch.float64)
    check = check_logits([reference], [reference + torch.tensor([0.0, share * allowed])], stored, stored)
    of = "no logit is over 1" if largest < 1 else "1e-05 of the largest logit, 20.0"
    assert check.passed == passed
    assert check.detail == f"largest difference {share * allowed:.1e}, allowed {allowed:.1e} ({of})"


def test_cast_to_bfloat16_is_named_with_its_remedy(tmp_path, capsys):
    make(tmp_path, merged_dtype=torch.bfloat16)
    code, failed = verify(capsys, tmp_path)
    assert code == 1
    assert set(failed) == {"dtype", "logits"}
    assert "changed float32 to bfloat16" in failed["dtype"]
    assert "by infer_dtype of the merge YAML or, where that says none, by LLaMA-Factory's default" in failed["dtype"]
    assert "set infer_dtype: float32" in failed["dtype"]


@pytest.mark.parametrize("merged_dtype", [torch.bfloat16, torch.float32])
def test_base_in_bfloat16_may_stay_so_or_be_widened(tmp_path, capsys, merged_dtype):
    make(tmp_path, dtype=torch.bfloat16, merged_dtype=merged_dtype)
    assert verify(capsys, tmp_path) == (0, {})


def test_unmerged_model_fails(llama, capsys):
    SETTINGS.save(llama / "base")
    code, failed = verify(capsys, llama, merged="base")
    assert (code, set(failed)) == (1, {"logits"})


def test_tied_weights_that_came_apart_fail(tmp_path, capsys):
    make(tmp_path, tied=True)
    config = tmp_path / "merged" / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    code, failed = verify(capsys, tmp_path)
    assert code == 1
    assert set(failed) == {"weights", "tied weights", "logits"}
    assert failed["weights"] == "missing: lm_head.weight"


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # it has not; PEFT reads the class alone
def test_new_tokens_that_the_adapter_holds_pass(tmp_path, capsys):
    make(tmp_path, new_tokens=["<x>", "<y>"], saved=["embed_tokens", "lm_head"])
    assert verify(capsys, tmp_path) == (0, {})


def test_new_tokens_that_the_adapter_lacks_fail(tmp_path, capsys):
    make(tmp_path, new_tokens=["<x>", "<y>"])
    code, failed = verify(capsys, tmp_path)
    assert (code, set(failed)) == (1, {"logits"})
    assert "additional_target" in failed["logits"]


def test_published_tokenizer_with_more_tokens_than_the_model_has_rows_passes(tmp_path, capsys):
    """Nothing is ever encoded with them; where the merge brings new tokens they need rows."""
    make(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<1>", "<2>"], special_tokens=True)
    for folder in ("base", "adapter", "merged"):
        tokenizer.save_pretrained(tmp_path / folder)
    assert verify(capsys, tmp_path) == (0, {})
    byte_tokenizer().save_pretrained(tmp_path / "base")
    code, failed = verify(capsys, tmp_path)
    assert (code, set(failed)) == (1, {"vocabulary", "logits"})
    assert failed["logits"] == "not compared: 2 tokens have no row"


def test_other_tokenizer_fails(tmp_path, capsys):
    make(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["Satz"])
    tokenizer.save_pretrained(tmp_path / "merged")
    code, failed = verify(capsys, tmp_path)
    assert code == 1
    assert "other ids for 'Ein Satz, 3.5 Wörter lang.'" in failed["tokenizer"]


def test_missing_or_other_settings_fail(tmp_path, capsys):
    make(tmp_path)
    path = tmp_path / "merged" / FILE_NAME
    replace(SETTINGS, config=SETTINGS.config.with_keys({"k": 5})).save(path.parent)
    assert verify(capsys, tmp_path) == (1, {FILE_NAME: "differs from the adapter's; copy that file"})
    path.unlink()
    code, failed = verify(capsys, tmp_path)
    assert code == 1
    assert failed[FILE_NAME].startswith("missing; merge again with the plugin installed")
