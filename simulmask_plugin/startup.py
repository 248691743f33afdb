"""Start-up hook: extends LLaMA-Factory while it is being imported, and costs nothing where it is not.

LLaMA-Factory has no plugin entry point, and its multi-GPU runs start fresh interpreters through torchrun. So
`simulmask_plugin.pth` calls `install` at every start of the interpreter, and this module imports nothing but
`os` and `sys` until a module of LLaMA-Factory is asked for. `SIMULMASK_PLUGIN=0` in the environment switches
everything off.
"""

from __future__ import annotations

import os
import sys

from simulmask_plugin import __version__

TYPE_CHECKING = False  # as in typing, which is too dear to import here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Never

EXTENSIONS = {
    "llamafactory.hparams.parser": "extend_parser",
    "llamafactory.train.sft.workflow": "extend_workflow",
    "llamafactory.train.tuner": "extend_tuner",
    "llamafactory.launcher": "extend_launcher",
    "llamafactory.v1.config.arg_parser": "extend_v1_parser",
}
"""Modules of LLaMA-Factory, and the function of `training.llamafactory_seams` that gets each once executed."""

AUDIO_MODULE = "llamafactory.data.mm_plugin"
"""The module of LLaMA-Factory that imports torchaudio unguarded, also where only text is trained on."""


def install() -> None:
    """Put the import hook in front of `sys.meta_path`, once; call it before LLaMA-Factory is imported."""
    if os.environ.get("SIMULMASK_PLUGIN") == "0":
        return
    if not any(isinstance(finder, LlamaFactoryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LlamaFactoryFinder())


class LlamaFactoryFinder:
    """Finds the few modules named above where Python would, and changes how they are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Python's own spec of a module named above, with our execution; None for every other module."""
        if fullname not in EXTENSIONS and fullname != AUDIO_MODULE:
            return None
        from functools import partial
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = execute_beside_torchaudio if fullname == AUDIO_MODULE else execute_and_extend
            # on the instance: a loader of our own would have to answer all that inspect and pkgutil ask
            spec.loader.exec_module = partial(execute, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def execute_and_extend(exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute a module of LLaMA-Factory, then pass it to its function in `training.llamafactory_seams`.

    Raises:
        RuntimeError: The function failed, most likely because this LLaMA-Factory is not one that it knows.
    """
    from importlib import import_module

    exec_module(module)
    try:
        factory = import_module("simulmask_plugin.training.llamafactory_seams")
        getattr(factory, EXTENSIONS[module.__name__])(module)
    except Exception as error:
        version = sys.modules["llamafactory"].__version__
        raise RuntimeError(
            f"simulmask_plugin {__version__} cannot extend {module.__name__} of llamafactory {version}: "
            f"{error!r}; set SIMULMASK_PLUGIN=0 to run without the plugin."
        ) from error


def execute_beside_torchaudio(exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute a module that imports torchaudio; a stand-in answers where torchaudio is missing or broken.

    A torchaudio that works is never hidden, and the stand-in is gone from `sys.modules` afterwards, so that
    nobody else takes it for the real one.
    """
    error = import_error("torchaudio")
    if error is None:
        exec_module(module)
        return
    sys.modules["torchaudio"] = torchaudio_stand_in(error)
    try:
        exec_module(module)
    finally:
        del sys.modules["torchaudio"]


def import_error(name: str) -> Exception | None:
    """The error that importing the module raises, or None; a build for another torch raises many kinds."""
    from importlib import import_module

    try:
        import_module(name)
    except Exception as error:
        return error
    return None


def torchaudio_stand_in(error: Exception) -> ModuleType:
    """An empty module `torchaudio` that says at its first use why torchaudio cannot be imported."""
    from types import ModuleType

    def refuse(name: str) -> Never:
        if name.startswith("__"):  # inspect looks for such names in every module, and expects this error
            raise AttributeError(name)
        raise ImportError(
            f"torchaudio.{name} is needed to read audio, but importing torchaudio failed: {error!r}; "
            "install the torchaudio that belongs to the installed torch."
        )

    stand_in = ModuleType("torchaudio")
    stand_in.__getattr__ = refuse  # type: ignore[method-assign]
    return stand_in
