"""The Python face: a folder becomes an object that streams."""

import re
from pathlib import Path

import pytest
from driving import encoder_of, steps

import simulmask_plugin
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.translator import Translator

READ, WRITE = Action.READ, Action.WRITE
WAIT_2 = {"policy": "wait_k", "k": 2}
BLOCKS = [WAIT_2, {**WAIT_2, "layout": "slots"}, {**WAIT_2, "layout": "turns"}, {"layout": "interleaved"}]


@pytest.fixture(params=BLOCKS, ids=lambda block: block.get("layout", "prefix"))
def saved(request, model_of, with_ends, tmp_path):
    """A folder with a tiny model, and its encoder."""
    encoder = encoder_of(with_ends, **request.param)
    model_of("llama", len(with_ends), 0).save_pretrained(tmp_path)
    with_ends.save_pretrained(tmp_path)
    encoder.settings.save(tmp_path)
    return str(tmp_path), encoder


def driven(model, encoder, words):
    """What a session does by itself, and all that it writes."""
    session = open_session(model, encoder, Decision(), max_target_tokens=12)
    done = [(action, text) for action, text in steps(session, words) if text]
    return done, encoder.target.text(session.target_ids)


def test_a_loaded_model_streams_as_its_session_does(saved):
    folder, encoder = saved
    loaded = simulmask_plugin.load(folder)
    steps, text = driven(loaded.model, encoder, ["the", "dog", "abc", "xyz"])
    assert list(loaded.stream("the dog abc xyz", max_target_tokens=12)) == steps
    assert loaded.translate("the dog abc xyz", max_target_tokens=12) == text


def test_words_are_taken_as_they_are_read(saved):
    """Of a source whose end is not known, no word is taken before the policy READs it."""
    folder, _ = saved
    taken = []

    def arriving():
        for word in ("the", "dog", "abc"):
            taken.append(word)
            yield word

    loaded = simulmask_plugin.load(folder)
    for step in loaded.stream(arriving(), max_target_tokens=12):
        if step.action is READ:
            assert taken[-1] == step.text
    assert taken


def test_words_of_several_units_are_all_read_before_the_source_has_ended(model_of, byte_level):
    encoder = encoder_of(byte_level, policy="wait_k", k=2, source_units="token")
    translator = Translator(model_of("llama", len(byte_level), 0), encoder)
    text = "the house abcde"
    assert [step.text for step in translator.stream(text, max_target_tokens=16) if step.action is READ] == text.split()


def test_an_empty_source_is_translated_by_nothing(saved):
    folder, _ = saved
    assert [
        step.action for step in simulmask_plugin.load(folder).stream([], max_target_tokens=3) if step.action is READ
    ] == []


@pytest.mark.parametrize("saved", [WAIT_2], indirect=True)
def test_the_example_of_the_readme_runs(saved, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "simulmask_plugin.load" in code]
    exec(code.replace('"saves/merged"', repr(saved[0])), {})
    assert capsys.readouterr().out.startswith("READ ein\nREAD kleines\nREAD Haus\nWRITE ")


@pytest.mark.parametrize("saved", [WAIT_2], indirect=True)
def test_policy_and_options_are_those_of_an_evaluation(saved):
    loaded = simulmask_plugin.load(saved[0])
    actions = [step.action for step in loaded.stream("the dog abc", policy="wait_k", k=1, max_target_tokens=12)]
    assert actions[:2] == [READ, WRITE]
    assert [step.action for step in loaded.stream("the dog abc", "offline", max_target_tokens=12)][:3] == [READ] * 3
    with pytest.raises(ValueError, match="unknown key 'lag'; known keys: policy, k"):
        loaded.stream("the dog", lag=3)
