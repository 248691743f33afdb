"""Imports point in one direction, and are as light as each module promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import simulmask_plugin

PACKAGE = Path(simulmask_plugin.__file__).parent

ORDER = (
    *("startup", "files", "text", "options", "policies", "attention", "layouts", "config", "corpora", "batches"),
    *("streaming", "serving", "pictures", "training", "evaluation", "agents", "commands", "cli", "__main__"),
)
"""Rooms, and the files beside them: each imports only from those that stand before it, and from itself."""

LATE = {"layouts": ["streaming"]}
"""A layout names its session, which is imported when one is opened."""

WITHOUT_TORCH = ("startup", "files", "text", "options", "policies", "layouts", "config")

ONLY_IMPORTER = {"llamafactory": "training/llamafactory_seams.py", "simuleval": "agents.py"}

MODULES = sorted(
    str(path.relative_to(PACKAGE))
    for path in PACKAGE.rglob("*.py")
    if path.parent / path.name != PACKAGE / "__init__.py"
)


def imported(module, *, at_import_time=False):
    """Names of the modules that a module imports, those in functions included unless `at_import_time`."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    names = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names.add(node.module)
            if node.module == "simulmask_plugin":
                names |= {f"simulmask_plugin.{alias.name}" for alias in node.names} - {"simulmask_plugin.__version__"}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not (at_import_time and isinstance(node, ast.FunctionDef)):
            pending += ast.iter_child_nodes(node)
    return names


def rooms(names):
    """The rooms of ours that are imported."""
    return {name.split(".")[1] for name in names if name.startswith("simulmask_plugin.")}


def room_of(module):
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_in_one_direction(module):
    room = room_of(module)
    assert rooms(imported(module)) <= {*ORDER[: ORDER.index(room)], room, *LATE.get(room, ())}
    assert rooms(imported(module, at_import_time=True)) <= {*ORDER[: ORDER.index(room)], room}


def test_the_order_names_existing_rooms_once():
    assert sorted(ORDER) == sorted({room_of(module) for module in MODULES})


@pytest.mark.parametrize("library, importer", ONLY_IMPORTER.items())
def test_one_module_knows_each_framework(library, importer):
    importers = [module for module in MODULES if any(name.split(".")[0] == library for name in imported(module))]
    assert importers == [importer]


def run_fresh(code):
    """Run code in a new interpreter; return the names of all modules that it has loaded."""
    code += "\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


HEAVY = {"torch", "numpy", "transformers", "datasets", "llamafactory", "simuleval", "sacrebleu"}


@pytest.mark.parametrize("module", ["simulmask_plugin", "simulmask_plugin.startup", "simulmask_plugin.cli"])
def test_import_in_a_fresh_interpreter_stays_light(module):
    assert not run_fresh(f"import {module}") & HEAVY


def test_text_layouts_and_block_need_no_torch():
    modules = [
        "simulmask_plugin." + module.removesuffix(".py").replace("/", ".")
        for module in MODULES
        if room_of(module) in WITHOUT_TORCH
    ]
    assert not run_fresh(f"import {', '.join(modules)}") & (HEAVY - {"numpy"})


def test_training_and_streaming_need_neither_framework():
    loaded = run_fresh("import simulmask_plugin.training.trainer, simulmask_plugin.streaming.parity")
    assert not loaded & {"llamafactory", "simuleval"}


def test_every_module_can_be_imported_without_the_packages_of_other_machines():
    """DeepSpeed and bitsandbytes need a compiler or a GPU; who has none trains and streams without them."""
    script = """
import pkgutil, sys, warnings
warnings.simplefilter("ignore")
sys.modules |= {"deepspeed": None, "bitsandbytes": None, "ray": None}
import simulmask_plugin
for module in pkgutil.walk_packages(simulmask_plugin.__path__, "simulmask_plugin."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
