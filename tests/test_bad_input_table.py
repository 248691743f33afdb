"""Bad input through the real commands and scripts, a row each: refused in one message that says what, where and how.

Nothing may be trained or streamed, nothing written, and no traceback shown.
"""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import bad_input
import bad_streaming_input
import bad_training_input
import pytest
import yaml
from driving import llama_factory, write_setup

from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation import engines
from simulmask_plugin.evaluation import run_study as compare
from simulmask_plugin.text.prompts import Prompt

pytestmark = llama_factory

ROOT = Path(__file__).parents[1]
WAIT_3 = {"policy": "wait_k", "k": 3}
ROWS = bad_training_input.ROWS | bad_streaming_input.ROWS


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder in which every command below would succeed, but for the fault of its row."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
        patch.chdir(folder)
        write_setup(Path())
        ModelSettings(SimulMaskConfig.from_dict(WAIT_3), Prompt("a:", "\nb:")).save("model")
        Path("s").write_text("ein haus\nzwei\n")
        Path("t").write_text("a house\ntwo of them\n")
        keys = {"model": "model", "source": "s", "target": "t", "output": "out", "policies": [WAIT_3]}
        Path("eval.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
        study = {
            "output": "out",
            "plain": "a",
            "reference": "a",
            "evaluation": {"source": "s", "target": "t"},
            "models": {"a": [{"train": "train.yaml"}]},
            "systems": {"a": {"model": "a", "policies": [WAIT_3]}},
        }
        Path("study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        Path("links").write_text("0-0 1-1\n0-0\n")
        yield folder


@pytest.fixture
def place(good, tmp_path, monkeypatch):
    """A copy of it, in which nothing may run."""
    shutil.copytree(good, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.syspath_prepend(str(ROOT / "east_scripts"))

    def begin(*args, **kwargs):
        raise AssertionError("a program was begun")

    for module in (engines, compare):
        monkeypatch.setattr(module, "run_program", begin)


def call(monkeypatch, capsys, program, *arguments):
    """The exit code of a command or script, and what it printed as its error."""
    try:
        if program == "simulmask":
            code = main(arguments)
        else:
            monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
            code = import_module(program).main()
    except SystemExit as stop:
        code = stop.code
    message = capsys.readouterr().err
    return (1, code) if isinstance(code, str) else (code, message)


def files():
    """Everything that is there."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "changes", "words"), ROWS.values(), ids=ROWS)
def test_bad_input_is_refused_in_one_message_and_nothing_is_made(place, monkeypatch, capsys, command, changes, words):
    for name, change in changes.items():
        path = Path(name)
        content = change(path.read_text()) if callable(change) else change
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = files()
    code, message = call(monkeypatch, capsys, *command)
    assert code == (2 if command[0] == "simulmask" or "usage:" in message else 1), message
    missing = [word for word in words if word not in message]
    assert not missing, message
    assert all(one in message for one in command if one in ("eval.yaml", "study.yaml")), message
    assert "Traceback" not in message
    assert files() == before
    assert not Path("out").exists()


def test_the_table_is_long():
    assert len(ROWS) == len(bad_training_input.ROWS) + len(bad_streaming_input.ROWS) >= 200


def test_without_its_fault_every_command_goes_on(place, monkeypatch, capsys):
    assert call(monkeypatch, capsys, *bad_input.validate())[0] == 0
    for command in (bad_input.evaluate(), bad_input.study()):
        with pytest.raises(AssertionError, match="a program was begun"):
            main(command[1:])
    shutil.rmtree("out")
    for command in (bad_input.train_data(), bad_input.prepared_test_set(), bad_input.chunks()):
        assert call(monkeypatch, capsys, *command)[0] is None
    made = ["dataset_info.json", "toy_chunks.jsonl", "toy_test.source", "toy_test.target", "toy_train.jsonl"]
    assert sorted(path.name for path in Path("out").iterdir()) == made
