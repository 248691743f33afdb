"""Packaging: the package, the `simulmask` command and the start-up hook `simulmask_plugin.pth`."""

import base64
import hashlib
import re
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

HOOK = "simulmask_plugin.pth"
# Python executes this line at every start, and twice in a virtual environment. So an error in it is told in
# one line and goes no further, and what has failed is entered as None, Python's way of not trying again.
HOOK_LINE = (
    r'import sys; "simulmask_plugin.startup" in sys.modules or exec("try:\n'
    r" from simulmask_plugin.startup import install; install()\n"
    r"except Exception as error:\n"
    r" sys.modules['simulmask_plugin.startup'] = None\n"
    r" print(f'simulmask_plugin: start-up hook not installed: {error!r}', file=sys.stderr)"
    '")\n'
)


class BuildPyWithHook(build_py):
    """Puts the hook beside the package, that is at the root of site-packages."""

    def run(self) -> None:
        """Copy the package, then write the hook."""
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, HOOK).write_text(HOOK_LINE, encoding="utf-8")


class EditableWheelWithHook(editable_wheel):
    """Adds the hook to the wheel of an editable install, which leaves out what `build_py` writes."""

    def run(self) -> None:
        """Build the wheel, then add the hook to it."""
        super().run()
        for wheel in Path(self.dist_dir).glob("*.editable-*.whl"):
            add_to_wheel(wheel, HOOK, HOOK_LINE.encode())


def add_to_wheel(wheel: Path, name: str, content: bytes) -> None:
    """Rewrite the wheel with one file more, listed in its RECORD so that `pip uninstall` removes it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, content)
        for entry, data in entries.items():
            if entry.filename.endswith(".dist-info/RECORD"):
                data = f"{name},sha256={digest},{len(content)}\n".encode() + data
            archive.writestr(entry, data)


def read_version() -> str:
    """The version, read rather than imported: while building, the package's dependencies may be absent."""
    source = Path(__file__).with_name("simulmask_plugin").joinpath("__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert version is not None
    return version.group(1)


setup(
    name="simulmask_plugin",
    version=read_version(),
    description="Simultaneous translation with large language models, as a plugin for LLaMA-Factory",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["simulmask_plugin*"]),
    package_data={"simulmask_plugin": ["serving/static/*"]},
    # The plugin is installed into an environment with LLaMA-Factory and must not change its versions, so no bound is
    # higher than LLaMA-Factory's own, except that of transformers, since older versions do not accept our mask
    # (docs/versions.md). LLaMA-Factory itself is not listed, since pip would add the torchvision and torchaudio that
    # a CPU machine leaves out on purpose; nor is SimulEval, whose pins conflict with LLaMA-Factory's.
    install_requires=[
        "adjustText",
        "fastapi",
        "jaxtyping",
        "jinja2",
        "matplotlib>=3.7.0",
        "omegaconf",
        "packaging",
        "pandas",
        "psutil",
        "regex",
        "pyyaml",
        "rich",
        "sacrebleu",
        "scipy",
        "torch>=2.4.0",
        "transformers>=5.5.2",
        "uvicorn",
        "websockets",
    ],
    # word alignments for make_chunks.py; it is compiled at installation
    extras_require={"chunks": ["eflomal"]},
    entry_points={"console_scripts": ["simulmask = simulmask_plugin.cli:main"]},
    cmdclass={"build_py": BuildPyWithHook, "editable_wheel": EditableWheelWithHook},
)
