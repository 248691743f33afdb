"""`llamafactory-cli export`: the merged model is streamed as trained, and ends a sentence with the trained token."""

import json
import shutil
from types import SimpleNamespace

import pytest
from driving import drive, llama_factory
from in_process import TURN_END, load

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.commands.verify_merge import verify_merge
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.policies import Offline
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.training.exporting import arguments_with_template

pytestmark = llama_factory

END, OTHER = TURN_END, "</s>"
"""What the template `qwen` ends an answer with, and what the tokenizer did before."""


@pytest.fixture(scope="module")
def base(bench):
    return bench.model("base", extra=[END])


@pytest.fixture(scope="module")
def adapter(bench, base):
    """Trained until it knows its four sentences by heart, with a template that replaces the end of sentence."""
    return bench.train(
        "adapter", base, template="qwen", max_steps=60, lora_rank=16, additional_target="embed_tokens,lm_head"
    )


def stream(folder, words):
    """What the model writes at wait-2, and whether it ended the sentence itself."""
    model, tokenizer = load(folder)
    encoder = ExampleEncoder(tokenizer, ModelSettings.load(folder))
    session = open_session(model, encoder, Decision.from_dict({"policy": "wait_k", "k": 2}), max_target_tokens=30)
    return " ".join(drive(session, words)), not session.truncated


def test_settings_say_how_sentences_ended_and_by_which_template(adapter):
    settings = ModelSettings.load(adapter)
    assert (settings.template, settings.end_of_sentence) == ("qwen", END)


@pytest.mark.parametrize("template", ["qwen", None])
def test_merge_ends_sentences_as_trained(bench, base, adapter, template):
    merged = bench.export(f"merged_{template}", base, adapter, template=template)
    assert load(merged)[1].eos_token == END
    assert stream(merged, ["zwei", "katzen", "am", "see"]) == ("two cats at the lake", True)
    generation = json.loads((merged / "generation_config.json").read_text())
    assert generation["eos_token_id"][0] == load(merged)[1].convert_tokens_to_ids(END)
    assert all(check.passed for check in verify_merge(base, str(adapter), str(merged)))


def test_merge_with_another_template_says_which_one_to_set(bench, base, adapter):
    message = r"template: empty is not the template of the training, qwen .*; set template: qwen, or remove the key"
    with pytest.raises(ValueError, match=message):
        bench.export("other", base, adapter, template="empty")
    assert not (bench.folder / "other").exists()


@pytest.mark.parametrize("args", [{"a": 1}, ["--a", "1"]])
def test_template_of_the_training_is_added_to_arguments_of_either_kind(args):
    added = arguments_with_template(args, None, SimpleNamespace(template="qwen"))
    assert added == ({"a": 1, "template": "qwen"} if isinstance(args, dict) else ["--a", "1", "--template", "qwen"])


def test_streaming_takes_the_trained_end_of_sentence_whatever_the_tokenizer_file_says(bench, base, adapter):
    """As earlier exports left it."""
    merged = bench.export("damaged", base, adapter)
    path = merged / "tokenizer_config.json"
    content = json.loads(path.read_text())
    assert content["eos_token"] == END
    path.write_text(json.dumps(content | {"eos_token": OTHER}))
    tokenizer = load(merged)[1]
    assert tokenizer.eos_token == OTHER
    assert stream(merged, ["wir", "gehen", "heim"]) == ("we go home", True)
    assert ExampleEncoder(tokenizer, ModelSettings.load(merged)).tokenizer.eos_token == END
    assert tokenizer.eos_token == OTHER


def test_a_tokenizer_without_the_trained_end_of_sentence_is_refused(bench, adapter):
    tokenizer = load(bench.model("without"))[1]
    message = r"trained to end a sentence with '<\|im_end\|>' .* does not have; .* export again with template: qwen"
    with pytest.raises(ValueError, match=message):
        ExampleEncoder(tokenizer, ModelSettings.load(adapter))


def test_training_without_a_template_is_merged_without_one_and_not_with_another_end(bench, base):
    adapter = bench.train("no_template", base, template=None)
    assert ModelSettings.load(adapter).template is None
    merged = bench.export("no_template_merged", base, adapter, template=None)
    assert load(merged)[1].eos_token == OTHER == ModelSettings.load(merged).end_of_sentence
    with pytest.raises(ValueError, match=r"end a sentence with '</s>' .* would end it with '<\|im_end\|>'"):
        bench.export("no_template_other", base, adapter, template="qwen")


def test_settings_of_earlier_versions_are_read_and_merged_as_before(bench, base, adapter):
    old = bench.folder / "old"
    shutil.copytree(adapter, old)
    content = json.loads((old / FILE_NAME).read_text())
    del content["template"], content["end_of_sentence"], content["sha256"]
    (old / FILE_NAME).write_text(json.dumps(content))
    settings = ModelSettings.load(old)
    assert (settings.template, settings.end_of_sentence) == (None, None)
    merged = bench.export("old_merged", base, old, template="empty")
    assert ModelSettings.load(merged) == settings
    assert ExampleEncoder(load(merged)[1], settings).tokenizer.eos_token == OTHER


def test_adapter_without_settings_on_a_base_that_has_them_is_refused(bench, base, adapter):
    first = bench.export("first", base, adapter)
    second = bench.train("second", first, template="qwen", simulmask={"policy": "offline"})
    lost = bench.folder / "lost"
    shutil.copytree(second, lost)
    (lost / FILE_NAME).unlink()
    message = rf"lost has no {FILE_NAME}, but .*first has, .* Copy the {FILE_NAME} of the training that made"
    with pytest.raises(ValueError, match=message):
        bench.export("second_merged", first, lost)
    assert ModelSettings.load(bench.export("second_merged", first, second)).config.policy is Offline


def test_settings_of_an_adapter_in_a_folder_of_its_own_are_found(bench, base, adapter):
    (bench.folder / "nested").mkdir()
    shutil.copytree(adapter, bench.folder / "nested" / "inner")
    merged = bench.export("nested_merged", base, bench.folder / "nested", adapter_folder="inner")
    assert ModelSettings.load(merged) == ModelSettings.load(adapter)


def test_model_that_is_not_ours_is_exported_as_ever(bench, base):
    merged = bench.export("plain", base)
    assert not (merged / FILE_NAME).exists()


def test_east_without_its_tokens_is_not_exported(bench):
    base, tokens = bench.model("stock", ends=False), {"add_special_tokens": "<|end-of-read|>,<|end-of-write|>"}
    adapter = bench.train("east", base, resize_vocab=True, simulmask={"layout": "interleaved"}, **tokens)
    with pytest.raises(ValueError, match=r"has no token <\|end-of-read\|>, .* add to the YAML add_special_tokens: "):
        bench.export("east_merged", base, adapter)
    merged = bench.export("east_merged", base, adapter, resize_vocab=True, **tokens)
    assert all(check.passed for check in verify_merge(base, str(adapter), str(merged)))


def test_rope_scaling_of_the_merge_is_refused(bench, base, adapter):
    with pytest.raises(ValueError, match="rope_scaling would change the positions that the model was trained with"):
        bench.export("scaled", base, adapter, rope_scaling="linear")


@pytest.mark.parametrize("kind", ["checkpoint", "only_model"])
def test_every_checkpoint_has_settings(bench, base, kind):
    output = bench.train(kind, base, save_steps=1, save_only_model=kind == "only_model")
    assert all((output / f"checkpoint-{step}" / FILE_NAME).is_file() for step in (1, 2))
    merged = bench.export(f"{kind}_merged", base, output / "checkpoint-1")
    assert ModelSettings.load(merged) == ModelSettings.load(output)
