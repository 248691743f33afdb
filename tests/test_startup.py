"""The start-up hook, on a small imitation of LLaMA-Factory; each test runs a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALL = "from simulmask_plugin.startup import install; install()\n"
SEAMS = "simulmask_plugin.training.llamafactory_seams"
FACTORY = f"""
import sys, types
names = ("extend_parser", "extend_workflow", "extend_tuner", "extend_launcher", "extend_v1_parser")
sys.modules["{SEAMS}"] = factory = types.ModuleType("{SEAMS}")
for name in names:
    setattr(factory, name, lambda module, name=name: print(name, module.__name__, module.EXECUTED))
"""
MODULES = {
    "llamafactory.hparams.parser": "extend_parser",
    "llamafactory.train.sft.workflow": "extend_workflow",
    "llamafactory.train.tuner": "extend_tuner",
    "llamafactory.launcher": "extend_launcher",
    "llamafactory.v1.config.arg_parser": "extend_v1_parser",
}


@pytest.fixture
def library(tmp_path):
    """A folder for sys.path with an imitation of LLaMA-Factory; tests add a torchaudio of their own."""
    package = tmp_path / "llamafactory"
    for name in (*MODULES, "llamafactory.data.mm_plugin", "llamafactory.data.template"):
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("EXECUTED = True\n")
    for folder in package.rglob("*/"):
        folder.joinpath("__init__.py").touch()
    package.joinpath("__init__.py").write_text("__version__ = '7.8.9'\n")
    package.joinpath("data", "mm_plugin.py").write_text("import torchaudio\ndef load(): return torchaudio.load('a')\n")
    return tmp_path


def run(library, code, **environment):
    """Run code in an interpreter that sees the imitation before everything that is installed."""
    inherited = {name: value for name, value in os.environ.items() if name != "SIMULMASK_PLUGIN"}
    environment = inherited | {"PYTHONPATH": f"{library}{os.pathsep}{ROOT}"} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def output(library, code, **environment):
    result = run(library, code, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize(("module", "function"), MODULES.items())
def test_module_is_passed_to_its_function_once_executed(library, module, function):
    """And other modules are left alone."""
    code = f"{INSTALL}{FACTORY}import llamafactory.data.template, json, {module}"
    assert output(library, code) == f"{function} {module} True\n"


def test_installing_twice_extends_once(library):
    assert output(library, f"{INSTALL}{INSTALL}{FACTORY}import llamafactory.launcher").count("extend") == 1


def test_environment_variable_switches_the_hook_off(library):
    code = f"{INSTALL}{FACTORY}import llamafactory.launcher; print('nothing else')"
    assert output(library, code, SIMULMASK_PLUGIN="0") == "nothing else\n"


def test_source_of_an_extended_module_stays_readable(library):
    code = f"{INSTALL}{FACTORY}import inspect, llamafactory.launcher as launcher\n"
    assert output(library, f"{code}print(inspect.getsource(launcher))").endswith("EXECUTED = True\n\n")


def test_failing_extension_names_version_and_remedy(library):
    code = f"{INSTALL}{FACTORY}factory.extend_launcher = lambda module: module.no_such_name\n"
    result = run(library, f"{code}import llamafactory.launcher")
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("RuntimeError: simulmask_plugin ")
    assert "cannot extend llamafactory.launcher of llamafactory 7.8.9: AttributeError" in message
    assert message.endswith("set SIMULMASK_PLUGIN=0 to run without the plugin.")


def test_error_of_the_module_itself_passes_unchanged(library):
    library.joinpath("llamafactory", "launcher.py").write_text("raise OSError('its own')")
    result = run(library, f"{INSTALL}{FACTORY}import llamafactory.launcher")
    assert result.stderr.splitlines()[-1] == "OSError: its own"


BROKEN = {
    "missing": "raise ModuleNotFoundError('No module named torchaudio')",
    "built for CUDA": "raise OSError('libcudart.so.13: cannot open shared object file')",
}


@pytest.mark.parametrize("torchaudio", BROKEN.values(), ids=BROKEN)
def test_stand_in_replaces_an_unusable_torchaudio_and_leaves(library, torchaudio):
    library.joinpath("torchaudio.py").write_text(torchaudio)
    code = f"{INSTALL}import sys, llamafactory.data.mm_plugin; print('torchaudio' in sys.modules)"
    assert output(library, code) == "False\n"


def test_stand_in_says_at_its_use_why_there_is_no_torchaudio(library):
    library.joinpath("torchaudio.py").write_text(BROKEN["built for CUDA"])
    result = run(library, f"{INSTALL}from llamafactory.data import mm_plugin; mm_plugin.load()")
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: torchaudio.load is needed to read audio")
    assert "libcudart.so.13" in message


def test_stand_in_leaves_when_the_module_fails(library):
    library.joinpath("torchaudio.py").write_text(BROKEN["missing"])
    library.joinpath("llamafactory", "data", "mm_plugin.py").write_text("import torchaudio\n1 / 0")
    code = f"{INSTALL}import sys\ntry: import llamafactory.data.mm_plugin\n"
    code += "except ZeroDivisionError: print('torchaudio' in sys.modules)"
    assert output(library, code) == "False\n"


def test_working_torchaudio_is_never_hidden(library):
    library.joinpath("torchaudio.py").write_text("def load(path): return f'sound of {path}'")
    code = f"{INSTALL}import torchaudio; from llamafactory.data import mm_plugin\n"
    code += "print(mm_plugin.torchaudio is torchaudio, mm_plugin.load())"
    assert output(library, code) == "True sound of a\n"


def test_stand_in_is_not_made_when_switched_off(library):
    library.joinpath("torchaudio.py").write_text(BROKEN["missing"])
    result = run(library, f"{INSTALL}import llamafactory.data.mm_plugin", SIMULMASK_PLUGIN="0")
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named torchaudio"


@pytest.mark.slow
def test_stand_in_lets_llama_factory_read_text_without_torchaudio(tmp_path):
    tmp_path.joinpath("torchaudio.py").write_text(BROKEN["missing"])
    code = f"{INSTALL}import sys, llamafactory.data.mm_plugin; print('torchaudio' in sys.modules)"
    result = run(tmp_path, code, HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stdout) == (0, "False\n"), result.stderr
