"""No code of a model is run, and weights that are cut are named."""

import ast
import json
import pickle
from pathlib import Path

import pytest
import torch
from driving import llama_factory, write_setup

import simulmask_plugin
from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.text.prompts import Prompt

pytestmark = llama_factory

CODE = """
open("pwned", "w")
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    pass
class Tokenizer:
    pass
"""


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return open, ("pwned", "w")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in the folder "model", from which everything below is called."""
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
    monkeypatch.chdir(tmp_path)
    write_setup(Path())
    folder = Path("model")
    ModelSettings(SimulMaskConfig.from_dict({"policy": "wait_k", "k": 3}), Prompt("a:", "\nb:")).save(folder)
    Path("s").write_text("ein haus\n")
    keys = {"model": "model", "source": "s", "target": "s", "output": "out", "policies": [{"policy": "offline"}]}
    Path("eval.yaml").write_text(json.dumps(keys))
    yield folder
    assert not Path("pwned").exists(), "code of the model was run"


COMMANDS = {
    "validate": ["validate", "train.yaml"],
    "validate an evaluation": ["validate", "eval.yaml"],
    "eval": ["eval", "eval.yaml"],
    "parity": ["parity", "--model", "model"],
    "attention": ["attention", "model", "--source", "a", "--target", "b"],
    "show": ["show", "--tokenizer", "model"],
}
LOADING = ("parity", "attention")
"""Those that load weights in this process."""


def add_code(folder, model_type):
    (folder / "code.py").write_text(CODE)
    for name, keys in {
        "config.json": {
            "model_type": model_type,
            "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
        },
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}},
    }.items():
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_model_of_its_own_code_is_refused_and_nobody_is_asked(model, monkeypatch, capsys, command):
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    add_code(model, "evil")
    if command[0] != "show":  # a tokenizer of ours is loaded without that code
        assert main(command) == 2
        assert "contains custom code" in capsys.readouterr().err
    else:
        main(command)


@pytest.mark.parametrize("command", [COMMANDS[name] for name in ("validate", "parity", "show")])
def test_code_beside_a_known_model_is_left_alone(model, command):
    add_code(model, "llama")
    assert main(command) == 0


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("command", [COMMANDS[name] for name in LOADING], ids=LOADING)
def test_pickle_with_code_is_refused(model, capsys, command, save):
    (model / "model.safetensors").unlink()
    save({"a": Code()}, model / "pytorch_model.bin")
    assert main(command) == 2
    assert "model: the weights cannot be read (a .bin file that contains more than tensors" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\3", None])
@pytest.mark.parametrize("command", [COMMANDS[name] for name in LOADING], ids=LOADING)
def test_weights_that_are_cut_are_named(model, capsys, command, content):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert main(command) == 2
    assert "model: the weights cannot be read (" in capsys.readouterr().err


LOADERS = {"loading.py", "stand_ins.py", "training_yaml.py", "verify_merge.py"}
"""The files that load any: of the rest, each asks the first."""


def test_every_model_and_tokenizer_is_loaded_without_its_code():
    """transformers would ask, in a terminal that nobody may be looking at."""
    loaded = {}
    for path in sorted(Path(simulmask_plugin.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Auto"):
                if node.func.attr == "from_pretrained":
                    keys = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    loaded[f"{path.name}:{node.lineno}"] = keys.get("trust_remote_code")
    others = {place: value for place, value in loaded.items() if value != "False"}
    assert {place.partition(":")[0] for place in loaded} == LOADERS
    assert list(others.values()) == ["model_args.trust_remote_code"], f"the YAML of a training may say so: {others}"
