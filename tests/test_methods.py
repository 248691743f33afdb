"""docs/methods.md: its pictures are those of its commands, and its blocks are accepted."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from simulmask_plugin.cli import main
from simulmask_plugin.config.block import SimulMaskConfig

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = dict(
    section.split("\n", 1) for section in (DOCS / "methods.md").read_text(encoding="utf-8").split("\n## ")[1:]
)
MAX_BYTES = 60_000


def content_of(png):
    """What it shows: heading, tokens, mask and numbers, and its size."""
    with Image.open(png) as image:
        return image.text["Title"], json.loads(image.text["Comment"]), image.size


@pytest.mark.parametrize("section", SECTIONS)
def test_picture_is_made_by_the_command_beside_it(section, tmp_path, capsys):
    command = re.search(r"^    simulmask (show .*(?:\n        .*)*)", SECTIONS[section], flags=re.M)[1]
    arguments = shlex.split(command.replace("\\\n", ""))
    place = arguments.index("--png") + 1
    picture = DOCS.parent / arguments[place]
    assert f"](images/{picture.name})" in SECTIONS[section]
    arguments[place] = str(tmp_path / "mask.png")
    assert main(arguments) == 0
    (*shown, size), (*expected, new_size) = content_of(picture), content_of(arguments[place])
    assert shown == expected, "make the picture anew"
    assert size == pytest.approx(new_size, rel=0.02), "make the picture anew"
    assert picture.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("section", SECTIONS)
def test_block_is_accepted(section):
    text = re.search(r"```yaml\n(.*?)```", SECTIONS[section], flags=re.S)[1]
    block = yaml.safe_load(text)["simulmask"]
    SimulMaskConfig.from_dict(block)


def test_table_names_every_section():
    head = (DOCS / "methods.md").read_text(encoding="utf-8").split("\n## ")[0]
    anchors = [re.sub(r"[^\w -]", "", section.lower()).replace(" ", "-") for section in SECTIONS]
    assert re.findall(r"^\| \[.*?\]\(#(.*?)\)", head, flags=re.M) == anchors
