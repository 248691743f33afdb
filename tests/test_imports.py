"""Imports point in one direction, and are as light as each module promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import simulmask_plugin

PACKAGE = Path(simulmask_plugin.__file__).parent

STDLIB_ONLY = [
    "atomic",
    "texts",
    "json_files",
    "checks",
    "schedule",
    "policies",
    "pieces",
    "characters",
    "units",
    "prompts",
    "trained_on",
    "settings_file",
    "config",
    "model_settings",
    "chunks",
]
"""Import nothing but the standard library and each other, so that a wrong YAML is refused without delay."""

ORDER = [
    "startup",
    "versions",
    "terminal",
    "programs",
    "machine",
    *STDLIB_ONLY,
    "checkpoints",
    "data_files",
    "loading",
    "yaml_files",
    "description",
    "chat_prompt",
    "languages",
    "corpora",
    "dataset_info",
    "simt_corpora",
    "layout",
    "prefix_pairs",
    "slots",
    "chunked",
    "positions",
    "masks",
    "families",
    "rope",
    "quantization",
    "pissa",
    "adapters",
    "bpe",
    "alibi",
    "features",
    "exporting",
    "choosing",
    "collator",
    "losses",
    "delivery",
    "kv_cache",
    "feeding",
    "document",
    "beam",
    "streaming",
    "slots_session",
    "recompute_session",
    "chunked_session",
    "float64",
    "parity",
    "random_rows",
    "self_test",
    "arguments",
    "sampling",
    "trainer",
    "training_data",
    "sft_run",
    "factory",
    "cost",
    "sessions",
    "agents",
    "extra_metrics",
    "digests",
    "evaluation_config",
    "picture",
    "drawing",
    "runs",
    "scores",
    "curves",
    "measures",
    "report",
    "progress",
    "evaluation",
    "study",
    "comparison",
    "study_report",
    "compare",
    "environment",
    "training_setup",
    "show",
    "attention",
    "merge_check",
    "matrix",
    "validation",
    "smoke_plan",
    "stand_ins",
    "smoke",
    "cli",
]
"""A module imports only from modules that stand before it; a new module gets its place here."""

ONLY_IMPORTER = {"llamafactory": "factory", "simuleval": "agents"}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module, *, at_import_time=False):
    """Names of the modules that a module imports, those in functions included unless `at_import_time`."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
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


def ours(names):
    return {name.removeprefix("simulmask_plugin.") for name in names if name.startswith("simulmask_plugin.")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_in_one_direction(module):
    assert module in ORDER, f"give {module} a place in ORDER"
    allowed = ORDER[: ORDER.index(module)]
    assert ours(imported(module)) <= set(allowed)


def test_the_order_names_existing_modules_once():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("library, importer", ONLY_IMPORTER.items())
def test_one_module_knows_each_framework(library, importer):
    importers = [module for module in MODULES if any(name.split(".")[0] == library for name in imported(module))]
    assert importers == [importer]


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_text_and_settings_need_the_standard_library_alone(module):
    names = imported(module, at_import_time=True)
    assert ours(names) <= set(STDLIB_ONLY)
    others = {name.split(".")[0] for name in names} - {"simulmask_plugin"}
    assert others <= sys.stdlib_module_names


def run_fresh(code):
    """Run code in a new interpreter; return the names of all modules that it has loaded."""
    code += "\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


HEAVY = {"torch", "numpy", "transformers", "datasets", "llamafactory", "simuleval", "sacrebleu"}


@pytest.mark.parametrize("module", ["simulmask_plugin", "simulmask_plugin.startup", "simulmask_plugin.config"])
def test_import_in_a_fresh_interpreter_stays_light(module):
    assert not run_fresh(f"import {module}") & HEAVY


def test_layout_needs_no_torch():
    assert not run_fresh("import simulmask_plugin.layout") & (HEAVY - {"numpy"})


def test_training_and_streaming_need_neither_framework():
    loaded = run_fresh("import simulmask_plugin.trainer, simulmask_plugin.parity")
    assert not loaded & {"llamafactory", "simuleval"}
