"""What a model was trained on is what it is streamed with: language pairs and latencies."""

import json
from dataclasses import replace

import numpy as np
import pytest
from driving import agent_of, encoder_of, write_model
from reference import settings_of

from simulmask_plugin.batches.features import ExampleEncoder
from simulmask_plugin.cli import main
from simulmask_plugin.commands import attention
from simulmask_plugin.commands.parity import byte_tokenizer
from simulmask_plugin.commands.random_rows import random_row
from simulmask_plugin.commands.verify_merge import make_inputs
from simulmask_plugin.config.model_settings import FILE_NAME, ModelSettings
from simulmask_plugin.config.trained_on import TrainedOn
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.text.prompts import Prompt

DE_FR, DE_EN, ZH_EN = ("German", "French"), ("German", "English"), ("Chinese", "English")
ONE, SEVERAL = TrainedOn((DE_FR,)), TrainedOn((ZH_EN, DE_EN, DE_FR))
DEFAULT = ("English", "German")


def trained(trained_on, **block):
    return settings_of(**({"policy": "wait_k", "k": 1} | block)).after_training_on(trained_on)


CLEAR = {
    "nobody wrote it down": (TrainedOn(), (None, None), DEFAULT),
    "nobody wrote it down, told": (TrainedOn(), ("Dutch", None), ("Dutch", "German")),
    "one": (ONE, (None, None), DE_FR),
    "one, told": (ONE, DE_FR, DE_FR),
    "several, told": (SEVERAL, DE_EN, DE_EN),
    "several, told enough": (SEVERAL, (None, "French"), DE_FR),
    "several, told enough by the source": (SEVERAL, ("Chinese", ""), ZH_EN),
}


@pytest.mark.parametrize(("trained_on", "told", "pair"), CLEAR.values(), ids=CLEAR)
def test_pair_is_the_one_that_is_meant(trained_on, told, pair):
    settings = trained(trained_on)
    assert settings.pair(*told) == settings.for_pair(*told).pair() == pair


UNCLEAR = {
    "never trained": (ONE, DE_EN, r"never trained to translate from German to English; it was trained on German to Fr"),
    "default of the block": (ONE, DEFAULT, r"never trained to translate from English to German"),
    "other direction": (ONE, ("French", "German"), r"never trained to translate from French to German"),
    "code for a name": (ONE, ("de", None), r"from de to any language; .* Give source_lang and target_lang as they are"),
    "several": (
        SEVERAL,
        (None, None),
        r"several language pairs: Chinese to English, German to English, German to French\. Say which one with source",
    ),
    "several, half told": (SEVERAL, ("German", None), r"several language pairs"),
}


@pytest.mark.parametrize(("trained_on", "told", "message"), UNCLEAR.values(), ids=UNCLEAR)
def test_pair_that_was_never_trained_or_is_not_clear_is_refused(trained_on, told, message):
    settings = trained(trained_on)
    for refuse in (settings.pair, settings.for_pair):
        with pytest.raises(ValueError, match=message):
            refuse(*told)


@pytest.mark.parametrize(
    ("latencies", "asked", "used"),
    [
        ((), None, "medium"),
        ((), "high", "high"),
        (("low",), None, "low"),
        (("offline",), None, "offline"),
        (("low", "medium", "high"), None, "medium"),
        (("low", "medium", "high"), "low-medium", "low-medium"),
        (("low", "medium"), "low-medium", "low-medium"),
        (("low-medium",), "low-medium", "low-medium"),
        (("low", "offline"), "offline", "offline"),
    ],
)
def test_latency_is_one_that_was_trained_or_lies_between_two(latencies, asked, used):
    assert TrainedOn(latencies=latencies).latency(asked) == used


@pytest.mark.parametrize(
    ("latencies", "asked", "message"),
    [
        (("low", "high"), None, "never trained at the latency 'medium', only at low, high .*; choose one of these"),
        (("low", "high"), "medium", "never trained at the latency 'medium'"),
        (("low", "medium"), "medium-high", "never trained at the latency 'medium-high'"),
        (("low", "medium"), "offline", "never trained at the latency 'offline'"),
        ((), "lowest", "Unknown latency 'lowest'"),
        (("low",), "lowest", "Unknown latency 'lowest'"),
    ],
)
def test_latency_that_was_never_trained_is_refused(latencies, asked, message):
    trained_on = TrainedOn(latencies=latencies)
    with pytest.raises(ValueError, match=message):
        trained_on.latency(asked)
    with pytest.raises(ValueError, match=message):
        Decision.from_dict({"latency": asked}).resolve(
            trained(trained_on, policy="model_driven", k=None, layout="interleaved")
        )


# simulmask.json


def test_one_pair_takes_the_place_of_the_blocks_and_several_do_not():
    assert [getattr(trained(ONE).config, f"{side}_lang") for side in ("source", "target")] == list(DE_FR)
    assert trained(SEVERAL).config == trained(TrainedOn()).config


@pytest.mark.parametrize("trained_on", [ONE, SEVERAL, TrainedOn((DE_FR,), ("low", "offline")), TrainedOn()])
def test_simulmask_json_carries_what_was_trained(tmp_path, trained_on):
    settings = trained(trained_on)
    settings.save(tmp_path)
    assert ModelSettings.load(tmp_path) == settings


@pytest.mark.parametrize(
    "damage",
    [
        {"language_pairs": [["German"]]},
        {"language_pairs": [["German", 3]]},
        {"language_pairs": [["German", ""]]},
        {"language_pairs": None},
        {"latencies": ["lowest"]},
        {"latencies": 3},
        {"language_pairs": [["German", "English"]]},  # not that of the block, which was written beside it
    ],
)
def test_damaged_pairs_and_latencies_are_named_with_their_file(tmp_path, damage):
    trained(ONE).save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    content["trained_on"] |= damage
    del content["sha256"]
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"simulmask\.json is damaged"):
        ModelSettings.load(tmp_path)


def test_expected_languages_are_those_of_the_model():
    trained(ONE).check_overrides({"source_lang": "German", "target_lang": "French"})
    with pytest.raises(ValueError, match=r"target_lang is 'English', but the model was trained with 'French'"):
        trained(ONE).check_overrides({"target_lang": "English"})
    with pytest.raises(ValueError, match=r"target_lang: the model was trained on several; say which one with target_l"):
        trained(SEVERAL).check_overrides({"target_lang": "German"})


# Streaming


def prompt_of(session):
    """The text before the source."""
    ids = getattr(session, "_prompt", None) or [row.token_id for row in session._pending]
    return session.encoder.tokenizer.decode(ids)


INTERLEAVED = {"policy": "model_driven", "k": None, "layout": "interleaved"}


@pytest.mark.parametrize("block", [{}, {"layout": "turns"}, {"layout": "slots", "positions": "slots"}, INTERLEAVED])
def test_a_model_of_german_and_french_is_streamed_from_german_to_french(model_of, with_ends, block):
    encoder = encoder_of(with_ends, **({"policy": "wait_k", "k": 1} | block))
    prompt = type(encoder.settings.prompt)(
        "{source_lang} {target_lang}:", encoder.settings.prompt.header, encoder.settings.prompt.next_header
    )
    model = model_of("llama", len(with_ends), 0)

    def text(trained_on, **told):
        settings = ModelSettings(encoder.settings.config, prompt).after_training_on(trained_on)
        return prompt_of(open_session(model, encoder.with_settings(settings), Decision.from_dict({}), **told))

    assert text(ONE) == "German French:"
    assert text(SEVERAL, target_lang="French") == "German French:"
    assert text(TrainedOn()) == "English German:"
    with pytest.raises(ValueError, match="several language pairs"):
        text(SEVERAL)
    with pytest.raises(ValueError, match="never trained to translate from any language to German"):
        text(ONE, target_lang="German")


# Commands and the agent


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_of):
    """A tiny model trained on one language pair, on several, and in chunks at two latencies."""
    tokenizer = byte_tokenizer()
    chunks = TrainedOn((DE_EN,), ("low", "medium"))
    kinds = {"one": trained(ONE), "several": trained(SEVERAL), "chunks": trained(chunks, **INTERLEAVED)}
    folders = {name: tmp_path_factory.mktemp(name) for name in kinds}
    for name, settings in kinds.items():
        prompt = Prompt("{source_lang} {target_lang} {latency}:", settings.prompt.header, settings.prompt.next_header)
        model = model_of("llama", len(tokenizer), 0)
        write_model(folders[name], model, tokenizer, replace(settings, prompt=prompt))
    return folders


TEXTS = ("--source", "ein haus", "--target", "a house")
COMMANDS = {
    "attention": lambda folder: ["attention", str(folder), *TEXTS, "--json"],
    "parity": lambda folder: ["parity", "--model", str(folder), "--examples", "1", "--json"],
    "show": lambda folder: ["show", "--tokenizer", str(folder), *TEXTS, "--json"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_wants_to_be_told_which_of_several_pairs(folders, capsys, command):
    arguments = COMMANDS[command](folders["several"])
    assert main(arguments) == 2
    assert "Say which one with source_lang and target_lang" in capsys.readouterr().err
    assert main([*arguments, "--target-lang", "Dutch"]) == 2
    assert "was never trained to translate from any language to Dutch" in capsys.readouterr().err
    assert main([*arguments, "--source-lang", "German", "--target-lang", "French"]) == 0
    assert main(COMMANDS[command](folders["one"])) == 0


def test_languages_of_a_training_come_from_its_yaml(capsys):
    assert main(["parity", "--family", "llama", "--target-lang", "French"]) == 2
    assert "--source-lang and --target-lang go with --model" in capsys.readouterr().err


def test_shown_prompt_is_that_of_the_pair(folders, capsys):
    assert main([*COMMANDS["show"](folders["several"]), "--target-lang", "French"]) == 0
    assert "".join(json.loads(capsys.readouterr().out)["tokens"]).startswith("German French")


def attention_prompt(capsys, folder, *options):
    assert main([*COMMANDS["attention"](folder), *options]) == 0
    return "".join(json.loads(capsys.readouterr().out)["tokens"])


def test_attention_is_that_at_a_trained_latency(folders, capsys):
    assert attention_prompt(capsys, folders["chunks"]).startswith("German English medium:")
    assert attention_prompt(capsys, folders["chunks"], "--latency", "low").startswith("German English low:")
    for folder, latency, message in (
        ("chunks", "offline", "never trained at the latency 'offline'"),
        ("one", "low", "--latency has no meaning for a model of layout: prefix"),
    ):
        assert main([*COMMANDS["attention"](folders[folder]), "--latency", latency]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("latencies", [(), ("low", "high", "offline")])
def test_text_that_comes_whole_is_offline_where_that_was_trained_or_nobody_knows(latencies):
    settings = trained(TrainedOn((DE_EN,), latencies), **INTERLEAVED)
    assert attention._latency(settings, None) == "offline"


def test_parity_is_tried_at_the_trained_latencies(with_ends):
    settings = trained(TrainedOn((DE_EN,), ("low", "high")), **INTERLEAVED)
    random, encoder = np.random.default_rng(0), ExampleEncoder(with_ends, settings)
    assert {random_row(encoder, 2, 2, random).latency for _ in range(20)} == {"low", "high"}
    encoder = ExampleEncoder(with_ends, trained(TrainedOn(), **INTERLEAVED))
    assert random_row(encoder, 2, 2, random).latency is None


def test_agent_streams_the_trained_pair_and_refuses_others(folders):
    assert prompt_of(agent_of(folders["one"]).session).startswith("German French")
    assert prompt_of(agent_of(folders["several"], "--target-lang", "French").session).startswith("German French")
    assert prompt_of(agent_of(folders["chunks"], "--latency", "low").session).startswith("German English low:")
    with pytest.raises(ValueError, match="several language pairs"):
        agent_of(folders["several"])
    with pytest.raises(ValueError, match="never trained to translate from English to any language"):
        agent_of(folders["one"], "--source-lang", "English")
    with pytest.raises(ValueError, match="never trained at the latency 'high'"):
        agent_of(folders["chunks"], "--latency", "high")


@pytest.fixture
def evaluation(tmp_path):
    """Arguments of a command that reads an evaluation YAML of a model."""
    for side, text in {"source": "ein haus\nzwei\n", "target": "a house\ntwo\n"}.items():
        (tmp_path / f"test.{side}").write_text(text)

    def arguments(command, model, **keys):
        content = {side: str(tmp_path / f"test.{side}") for side in ("source", "target")}
        content |= {"model": str(model), "output": str(tmp_path / "out"), "policies": [{"policy": "offline"}], **keys}
        (tmp_path / "eval.yaml").write_text(json.dumps(content))
        return [command, str(tmp_path / "eval.yaml")]

    return arguments


@pytest.mark.parametrize("command", ["validate", "eval"])
@pytest.mark.parametrize(
    ("model", "keys", "message"),
    [
        ("several", {}, "trained on several language pairs: Chinese to English, German to English, German to French"),
        ("one", {"target_lang": "English"}, "never trained to translate from any language to English"),
        ("chunks", {"policies": [{"latency": "high"}]}, "never trained at the latency 'high', only at low, medium"),
    ],
)
def test_evaluation_of_what_was_never_trained_is_refused(folders, evaluation, capsys, command, model, keys, message):
    assert main(evaluation(command, folders[model], **keys)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("model", "keys", "prompt"),
    [
        ("one", {}, "German French offline:"),
        ("several", {"target_lang": "French"}, "German French offline:"),
        ("chunks", {"policies": [{"latency": "low"}, {"latency": "medium"}]}, "German English low:"),
        ("chunks", {"policies": [{"policy": "model_driven"}]}, "German English medium:"),
        ("chunks", {"policies": [{"latency": "low-medium"}]}, "German English low-medium:"),
    ],
)
def test_validate_shows_the_prompt_that_will_be_used(folders, evaluation, capsys, model, keys, prompt):
    """Its languages and its latency; a layout without chunks has none to ask for."""
    assert main(evaluation("validate", folders[model], **keys)) == 0
    assert f"'{prompt}'" in capsys.readouterr().out


def test_merged_models_of_several_pairs_are_compared_in_one_of_them(folders):
    tokenizer = byte_tokenizer()
    first = make_inputs(ModelSettings.load(folders["several"]), tokenizer, len(tokenizer)).layouts[0].input_ids
    assert tokenizer.decode(first).startswith("Chinese English")
