"""`simulmask translate` writes what the session writes, from a text and from a stream of characters."""

import io

import pytest
from driving import encoder_of

import simulmask_plugin
from simulmask_plugin.cli import main
from simulmask_plugin.policies import Action
from simulmask_plugin.text.units import split_units


@pytest.fixture(params=["word", "character"])
def saved(request, model_of, with_ends, tmp_path):
    """A folder with a tiny model."""
    model_of("llama", len(with_ends), 0).save_pretrained(tmp_path)
    with_ends.save_pretrained(tmp_path)
    encoder_of(with_ends, policy="wait_k", k=2, source_units=request.param).settings.save(tmp_path)
    return str(tmp_path)


def translated(capsys, *options):
    capsys.readouterr()
    assert main(["translate", *options, "--max-target-tokens", "12"]) == 0
    return capsys.readouterr().out


def expected(folder, line, **options):
    """What is written of a line that is known from the start; the model cannot see where a stream of words ends."""
    steps = simulmask_plugin.load(folder).stream(iter(line), max_target_tokens=12, **options)
    return " ".join(text for action, text in steps if action is Action.WRITE)


def test_text_is_translated_by_the_policy_that_is_asked_for(saved, capsys):
    text, model = "the dog abc", simulmask_plugin.load(saved)
    for options, keys in (((), {}), (("--k", "1"), {"k": 1}), (("--policy", "offline"), {"policy": "offline"})):
        shown = translated(capsys, saved, "--text", text, "--actions", *options)
        steps = model.stream(text, max_target_tokens=12, **keys)
        assert shown == "".join(f"{action.name} {text}\n" for action, text in steps)


def test_every_line_of_standard_input_gives_a_line(saved, capsys, monkeypatch):
    """A blank one too, so that texts stay aligned; the last one needs no end."""
    monkeypatch.setattr("sys.stdin", io.StringIO("the dog\n \n abc  我们xyz cd\n是"))
    unit = simulmask_plugin.load(saved).encoder.source.unit
    lines = [split_units(line, unit) for line in ("the dog", "", "abc 我们xyz cd", "是")]
    written = [expected(saved, line) if line else "" for line in lines]
    assert translated(capsys, saved) == "".join(f"{text}\n" for text in written)


def test_actions_of_a_blank_line_are_none(saved, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    assert translated(capsys, saved, "--actions") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text= "], "--text is empty; expected a sentence."),
        (["--text=a", "--device=cuda:99"], "device: cuda:99 is not there"),
        ([], "standard input, line 2: '\\udcff' is no text: a byte that was not UTF-8"),
    ],
)
def test_what_cannot_be_translated_is_refused(saved, capsys, monkeypatch, options, message):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the\n\xff\n"), "utf-8", "surrogateescape"))
    assert main(["translate", saved, *options]) == 2
    assert message in capsys.readouterr().err
