"""The range of versions is the same wherever it is stated."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from simulmask_plugin.attention.versions import HIGHEST, LOCKED, LOWEST

ROOT = Path(__file__).parents[1]

STATED = {
    "setup.py": rf'"transformers>={LOWEST}"',
    ".ci/requirements.in": rf"^transformers=={LOCKED}$",
    ".ci/requirements.txt": rf"^transformers=={LOCKED}$",
    "docs/versions.md": rf"^\| transformers \| {LOWEST} \| {LOCKED} \| {HIGHEST} \|",
}


@pytest.mark.parametrize("file, statement", STATED.items())
def test_every_file_states_the_same_range(file, statement):
    assert re.search(statement, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_highest_is_the_highest_that_llama_factory_allows():
    (allowed,) = [one.specifier for one in map(Requirement, requires("llamafactory")) if one.name == "transformers"]
    assert all(version in allowed for version in (LOWEST, LOCKED, HIGHEST))
    assert f"<={HIGHEST}" in map(str, allowed)
