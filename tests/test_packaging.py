"""What an install puts into an environment: real builds, real environments, no network."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import simulmask_plugin
from simulmask_plugin.attention.versions import LOWEST

ROOT = Path(__file__).parents[1]
HOOK_ERROR = r"simulmask_plugin: start-up hook not installed: .+\n"
HOOKED = "import sys; print([type(f).__name__ for f in sys.meta_path].count('LlamaFactoryFinder'))"
KINDS = ("wheel", "editable")


def call(*command, cwd=None, **environment):
    """Run a command without what the surrounding environment says about Python and the plugin."""
    clean = {name: os.environ[name] for name in os.environ if name not in ("PYTHONPATH", "SIMULMASK_PLUGIN")}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=True
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is packaged, so that building leaves no trace in the project."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "simulmask_plugin", folder / "simulmask_plugin")
    return folder


@pytest.fixture(scope="module")
def wheels(source, tmp_path_factory):
    """The wheel of a normal install and that of an editable one, as pip asks setuptools for them."""
    built = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
        call(sys.executable, "-c", code, folder, cwd=source)
        (built[kind],) = folder.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path):
    """The interpreter of a new, empty environment."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment")
    return tmp_path / "environment" / "bin" / "python"


def pip(python, *arguments):
    return call(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments)


def files_of(python):
    return {path for path in python.parents[1].rglob("*") if "__pycache__" not in path.parts}


def modules_of(python):
    return set(call(python, "-c", "import sys; print(*sys.modules)").stdout.split())


@pytest.mark.parametrize("kind", KINDS)
def test_install_hooks_every_interpreter_and_uninstall_leaves_nothing(wheels, environment, kind):
    before = files_of(environment)
    pip(environment, "install", "--no-deps", "--no-index", wheels[kind])
    hooked = call(environment, "-c", HOOKED)
    assert (hooked.stdout, hooked.stderr) == ("1\n", "")
    assert call(environment, "-c", HOOKED, SIMULMASK_PLUGIN="0").stdout == "0\n"
    assert environment.with_name("simulmask").exists()
    (hook,) = environment.parents[1].glob("lib/*/site-packages/simulmask_plugin.pth")
    assert len(hook.read_text().splitlines()) == 1

    pip(environment, "uninstall", "--yes", "simulmask_plugin")
    assert files_of(environment) <= before


def test_hook_imports_nothing_where_llama_factory_is_not_imported(wheels, environment):
    before = modules_of(environment)
    pip(environment, "install", "--no-deps", "--no-index", wheels["wheel"])
    added = modules_of(environment) - before
    assert added == {"__future__", "simulmask_plugin", "simulmask_plugin.startup"}


def write_startup(code):
    return lambda package: package.joinpath("startup.py").write_text(code)


FAULTS = {
    "error": write_startup("raise OSError('one line\\nanother line')"),
    "syntax": write_startup("not Python at all"),
    "missing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", FAULTS.values(), ids=FAULTS)
def test_fault_in_the_hook_is_one_line_and_stops_nothing(wheels, environment, damage):
    pip(environment, "install", "--no-deps", "--no-index", wheels["wheel"])
    (package,) = environment.parents[1].glob("lib/*/site-packages/simulmask_plugin")
    damage(package)
    result = call(environment, "-c", "print('alive')")
    assert result.stdout == "alive\n"
    assert re.fullmatch(HOOK_ERROR, result.stderr)


def read_metadata(path, name):
    """A file of the wheel's .dist-info folder."""
    with zipfile.ZipFile(path) as wheel:
        (member,) = (member for member in wheel.namelist() if member.endswith(f".dist-info/{name}"))
        return wheel.read(member).decode()


def requirements_of(path):
    lines = re.findall(r"^Requires-Dist: (.+)$", read_metadata(path, "METADATA"), re.MULTILINE)
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_wheel_records_every_file_once_and_the_hook_among_them(wheels, kind):
    record = read_metadata(wheels[kind], "RECORD")
    with zipfile.ZipFile(wheels[kind]) as wheel:
        assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(wheel.namelist())
    assert re.search(r"^simulmask_plugin\.pth,sha256=[\w-]{43},\d+$", record, re.MULTILINE)


def test_wheel_carries_the_version_of_the_package(wheels):
    assert f"\nVersion: {simulmask_plugin.__version__}\n" in read_metadata(wheels["wheel"], "METADATA")


def test_wheel_carries_the_page(wheels):
    folder = ROOT / "simulmask_plugin" / "serving" / "static"
    with zipfile.ZipFile(wheels["wheel"]) as wheel:
        carried = {name.rpartition("/")[2] for name in wheel.namelist() if "/serving/static/" in name}
    assert carried == {path.name for path in folder.iterdir()} >= {"index.html", "page.css", "page.js"}


def test_no_bound_is_stricter_than_those_of_llama_factory(wheels):
    host = {requirement.name: requirement.specifier for requirement in map(Requirement, requires("llamafactory"))}
    for requirement in requirements_of(wheels["wheel"]):
        if requirement.name == "transformers":  # of which older versions do not take our mask: docs/versions.md
            assert [str(bound) for bound in requirement.specifier] == [f">={LOWEST}"]
            assert LOWEST in host["transformers"]
        else:
            assert set(requirement.specifier) <= set(host.get(requirement.name, ())), requirement


def test_install_beside_llama_factory_changes_no_version(wheels, tmp_path):
    report = tmp_path / "report.json"
    options = ("--dry-run", "--no-index", "--quiet", "--report", report)
    call(sys.executable, "-m", "pip", "install", *options, *map(str, requirements_of(wheels["wheel"])))
    assert json.loads(report.read_text())["install"] == []
