"""The translation client of WhisperLiveKit, without the recognition that its package imports."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

NEEDED = ("translation_alignatt", "timed_objects")


def load_client():
    """The modules of the client and of its tokens; the test is skipped where the package is not installed."""
    found = find_spec("whisperlivekit")
    if found is None:
        pytest.skip("whisperlivekit is not installed: pip install --no-deps -r .ci/alone.txt")
    package = ModuleType("whisperlivekit")
    package.__path__ = list(found.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "whisperlivekit", package)
        return [importlib.import_module(f"whisperlivekit.{name}") for name in NEEDED]
