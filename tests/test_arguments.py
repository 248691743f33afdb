"""What does not go with the block or the model is refused by `simulmask validate` and by training, and nothing else."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from driving import error, llama_factory, write_setup

from simulmask_plugin.attention import families
from simulmask_plugin.attention.families import FAMILIES, tiny_config
from simulmask_plugin.attention.versions import LOCKED
from simulmask_plugin.cli import main
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.training_yaml import load_training
from simulmask_plugin.training.arguments import attention_of

ROOT = Path(__file__).parents[1]
EAST = sorted(ROOT.glob("yaml_configs/llama3_8b_east_stage*.yaml"))

pytestmark = llama_factory


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training YAML of the layout `interleaved`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        yield write_setup(
            tmp_path_factory.mktemp("arguments"), simulmask={"layout": "interleaved"}, template="empty", bf16=False
        )


@pytest.fixture(autouse=True)
def flash_attention_2_that_starts(monkeypatch):
    """What is tested here does not hang on the installed version of transformers, unless a test says so."""
    monkeypatch.setattr(families, "version", lambda package: LOCKED)


def without_weights(name, folder, tokens=()):
    """The override that names a model of a family, with these tokens; nobody could load it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    tiny_config(name, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"model_name_or_path={folder}"


ACCEPTED = [
    ("llama", "flash_attn=fa2", "flash_attention_2 (flash_attn: fa2)"),
    ("llama", "packing=true", "sdpa (flash_attn: auto)"),
    ("falcon_rope", "neat_packing=true", "sdpa (flash_attn: auto)"),
    ("falcon", "flash_attn=sdpa", "sdpa (flash_attn: sdpa)"),
    ("gemma2", "flash_attn=auto", "eager (flash_attn: auto)"),
    ("gemma2", "flash_attn=fa2", "flash_attention_2 (flash_attn: fa2)"),
]


@pytest.mark.parametrize("name, override, attention", ACCEPTED)
def test_plain_causal_layouts_take_what_needs_no_mask(training, capsys, tmp_path, name, override, attention):
    assert main(["validate", str(training), without_weights(name, tmp_path), override]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"attention {attention}" in output
    assert output.endswith("Valid.")


@pytest.mark.parametrize("path", EAST, ids=lambda path: path.stem)
def test_shipped_recipes_of_east_are_valid(training, capsys, tmp_path, path):
    """As they are shipped, but for the model and the data."""
    assert "flash_attn: fa2" in path.read_text()
    data = (f"dataset_dir={training.parent}", "dataset=rows", "preprocessing_num_workers=1")
    model = without_weights("llama", tmp_path, ["<|eot_id|>", "<|eom_id|>"])  # of the template llama3
    assert main(["validate", str(path), model, *data]) == 0
    assert capsys.readouterr().out.endswith("Valid.\n")


ALIBI = [name for name, family in FAMILIES.items() if family.position == "alibi"]
REFUSED = [
    *((name, "packing=true", f"packing does not work with {name}, whose ALiBi .*packing: false") for name in ALIBI),
    *((name, "neat_packing=true", f"packing does not work with {name}, ") for name in ALIBI),
    *((name, "flash_attn=fa2", f"flash_attn: fa2 does not work with {name}, .*; set flash_attn: ") for name in ALIBI),
    ("bloom", "flash_attn=sdpa", "Attention 'sdpa' cannot .* for bloom; expected eager"),
    ("gemma2", "flash_attn=sdpa", "Attention 'sdpa' cannot .* for gemma2; expected eager"),
    ("gemma4", "bf16=false", "gemma4_text share keys and values.* set use_reentrant_gc: false"),
    ("mistral", "cutoff_len=5000", "a sliding window of 4096 tokens"),
]


@pytest.mark.parametrize("name, override, message", REFUSED)
def test_a_model_that_does_not_suit_is_refused_before_its_weights_are_loaded(
    training, capsys, tmp_path, name, override, message
):
    overrides = [without_weights(name, tmp_path), override]
    setup = load_training(str(training), overrides)
    run_sft = import_module("llamafactory.train.sft.workflow").run_sft
    with pytest.raises(ValueError, match=message) as refused:
        run_sft(setup.model_args, setup.data_args, setup.training_args, setup.finetuning_args, None)
    assert error(capsys, "validate", training, *overrides) == str(refused.value)


def test_packing_and_soft_capping_need_more_than_sdpa(training, capsys, tmp_path):
    overrides = [without_weights("gemma2", tmp_path), "packing=true", "flash_attn=sdpa"]
    assert "Attention 'sdpa' cannot" in error(capsys, "validate", training, *overrides)


def test_flash_attention_2_that_cannot_start_is_refused(training, capsys, tmp_path, monkeypatch):
    """By its version, before anything is loaded."""
    overrides = [without_weights("llama", tmp_path), "simulmask={layout: interleaved}", "flash_attn=fa2"]
    setup = load_training(str(training), overrides)
    monkeypatch.setattr(families, "version", lambda package: "5.6.0")
    message = "flash_attn: fa2 does not work with transformers 5.6.0, .* transformers==5.5.4.*set flash_attn: sdpa"
    run_sft = import_module("llamafactory.train.sft.workflow").run_sft
    with pytest.raises(ValueError, match=message) as refused:
        run_sft(setup.model_args, setup.data_args, setup.training_args, setup.finetuning_args, None)
    assert error(capsys, "validate", training, *overrides) == str(refused.value)


@pytest.mark.parametrize(
    "value, message",
    [
        ("fa3", "flash_attn: fa3 does not work with the simulmask: block; LLaMA-Factory only has it for gpt_oss"),
        ("flex", "flash_attn: unknown value 'flex'; expected one of auto, sdpa, disabled, fa2"),
    ],
)
def test_attention_that_llama_factory_does_not_give_these_models_is_refused(training, capsys, value, message):
    assert message in error(capsys, "validate", training, f"flash_attn={value}")


@pytest.mark.parametrize("name, expected", [("gemma2", "disabled"), ("llama", "sdpa")])
def test_training_takes_the_attention_that_validate_says_whatever_is_installed(training, tmp_path, name, expected):
    """Left to LLaMA-Factory, Gemma 2 would get FlashAttention 2 where it is installed."""
    setup = load_training(str(training), [without_weights(name, tmp_path)])
    assert setup.model_args.flash_attn == "auto"
    run_sft = import_module("llamafactory.train.sft.workflow").run_sft
    with pytest.raises(OSError, match="no file named"):  # the weights
        run_sft(setup.model_args, setup.data_args, setup.training_args, setup.finetuning_args, None)
    assert setup.model_args.flash_attn == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_a_training_that_says_nothing_is_that_of_streaming(name):
    assert attention_of(tiny_config(name, 50), "auto") == FAMILIES[name].attention


KEYS = {
    "mask_history=true": "mask_history .*; remove it; it trains only the last turn",
    "split_special_tokens=true": "split_special_tokens .*; remove it; the prompt contains special tokens",
    "shift_attn=true": "shift_attn .*; remove it; it hides tokens that our mask shows",
    "rope_scaling=linear": "rope_scaling .*; remove it, and write rope_parameters, .* into the model's config.json",
    "mixture_of_depths=convert": "mixture_of_depths .*; remove it",
    "use_kt=true": "use_kt .*; remove it",
    "use_asft_loss=true": "use_asft_loss .*; remove it",
    "use_hyper_parallel=true": "use_hyper_parallel .*; remove it",
    "use_unsloth=true": "use_unsloth .*; remove it; use_unsloth_gc saves memory",
    "train_on_prompt=true": "train_on_prompt .*; remove it; the loss is on what follows the prompt",
    "tokenized_path=x": "tokenized_path .*; remove it; the map cache does the same",
    "streaming=true": "streaming .*; set streaming: false",
    "finetuning_type=freeze": "finetuning_type: freeze .*; set freeze_extra_modules to the embedding and the head",
    "finetuning_type=oft": "finetuning_type: oft .*; set additional_target to the embedding and the head",
    "parallelism_config={}": "parallelism_config .*; remove it; our mask needs whole rows",
    "predict_with_generate=true": "predict_with_generate .*; use `simulmask eval`",
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_change_mask_text_or_loss_are_refused_by_name(training, capsys, key):
    pattern = KEYS[key].replace(" .*; ", " does not work with the simulmask: block; ", 1)
    assert re.match(pattern, error(capsys, "validate", training, key))


OWN_LOSS = ("label_smoothing_factor=0.1", "use_dft_loss=true", "use_eaft_loss=true", "use_liger_kernel=true")


@pytest.mark.parametrize("key", [*OWN_LOSS, "enable_liger_kernel=true"])
def test_another_loss_is_refused_beside_our_own(training, capsys, key):
    message = error(capsys, "validate", training, key, "simulmask.special_token_weight=2.0")
    assert message == (
        f"{key.partition('=')[0]} does not work with the simulmask: block; "
        "remove it, or loss_on: target and special_token_weight."
    )


@pytest.mark.parametrize("key", OWN_LOSS)
def test_another_loss_is_taken_where_there_is_none_of_our_own(training, capsys, key):
    assert main(["validate", str(training), key]) == 0


def test_a_package_that_is_missing_is_named(training, capsys):
    """LLaMA-Factory asks for it while it parses."""
    assert "galore_torch" in error(capsys, "validate", training, "use_galore=true", "finetuning_type=full")
