"""What the pages list is what the program has."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from test_imports import ORDER

from simulmask_plugin.attention.families import FAMILIES
from simulmask_plugin.cli import build_parser
from simulmask_plugin.config.block import RUN_KEYS, known_keys
from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.evaluation.study import StudyKeys
from simulmask_plugin.options import yaml_text
from simulmask_plugin.streaming.options import parameters, run_keys
from simulmask_plugin.text.prompts import LATENCIES, OFFLINE_LATENCY
from simulmask_plugin.training.stream_eval import StreamEval

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


def section(page, heading):
    """The text of a page under a heading of the second level."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def first_column(page, heading):
    """The names in backticks in the first column of the first table under a heading."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section(page, heading), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def defaults(page, heading):
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", section(page, heading), re.MULTILINE))


@pytest.mark.parametrize(
    "page, heading, keys",
    [
        ("docs/evaluation.md", "Keys", [field.name for field in fields(EvaluationConfig)]),
        ("docs/evaluation.md", "Policies", ["policy", *parameters(), *run_keys()]),
        ("docs/evaluation.md", "While training", [field.name for field in fields(StreamEval)]),
        ("README.md", "The `simulmask:` block", (*known_keys(), *RUN_KEYS)),
    ],
)
def test_page_lists_every_key_once_and_no_other(page, heading, keys):
    assert sorted(first_column(page, heading)) == sorted(keys)


@pytest.mark.parametrize("heading, keys", [("Keys", EvaluationConfig), ("While training", StreamEval)])
def test_page_of_the_evaluation_has_the_defaults(heading, keys):
    written = defaults("docs/evaluation.md", heading)
    for field in fields(keys):
        if isinstance(field.default, str | int):
            assert written[field.name] == yaml_text(field.default)


def test_page_of_studies_shows_every_key():
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), re.DOTALL)
    assert sorted(yaml.safe_load(block)) == sorted(field.name for field in fields(StudyKeys))


def test_page_of_the_evaluation_has_every_latency():
    text = section("docs/evaluation.md", "Policies")
    assert all(f"`{latency}`" in text for latency in (*LATENCIES, OFFLINE_LATENCY))


def test_readme_lists_every_command():
    (commands,) = (action.choices for action in build_parser()._actions if action.choices)
    listed = re.findall(r"^\| `simulmask (\S+)[^`]*` \|", section("README.md", "Commands"), re.MULTILINE)
    assert sorted(listed) == sorted(commands)


def test_readme_lists_every_family_under_its_positions():
    rows = dict(re.findall(r"^\| (ALiBi|RoPE) [^|]*\| ([^|]*) \|", section("README.md", "Families"), re.MULTILINE))
    for position, listed in rows.items():
        expected = [name for name, family in FAMILIES.items() if family.position == position.lower()]
        assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(expected)


def test_page_of_the_families_lists_every_family_once():
    assert sorted(first_column("docs/add-a-family.md", "What works as it is")) == sorted(FAMILIES)


def files_of_the_tree():
    """The files that the page on the architecture shows, as paths in the package."""
    room, files = "", []
    for indent, name in re.findall(r"^ {6}(  )?(\S+) ", section("docs/architecture.md", "The package"), re.MULTILINE):
        if name.endswith("/"):
            room = name
        else:
            files.append(room + name if indent else name)
    return files


def test_page_of_the_architecture_shows_every_file_once_with_the_rooms_in_the_order_of_imports():
    package, tree = ROOT / "simulmask_plugin", files_of_the_tree()
    files = (path for path in package.rglob("*.py") if path.name != "__init__.py")
    assert sorted(tree) == sorted(path.relative_to(package).as_posix() for path in files)
    assert tuple(dict.fromkeys(file.split("/")[0].removesuffix(".py") for file in tree)) == ORDER


CODE = ("simulmask_plugin", "tests", "benchmarks", "east_scripts", "data", ".ci")
FILES = [path.as_posix() for folder in CODE for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("page", PAGES)
def test_files_of_code_that_a_page_names_are_there(page):
    for name in re.findall(r"`([\w/.]+\.py)`", (ROOT / page).read_text(encoding="utf-8")):
        assert any(file.endswith(f"/{name}") for file in FILES), name


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    """To a file, and to a heading of it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


def commands_of(page):
    """The `simulmask` commands of a page, as lists of words."""
    text = re.sub(r" *\\\n *", " ", (ROOT / page).read_text(encoding="utf-8"))
    lines = re.findall(r"^ {4,}simulmask (.+)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


MADE_UP = ("docs/add-a-policy.md", "docs/add-a-layout.md")
"""Pages on what they add themselves; test_add_your_own runs their commands."""
WITH_COMMANDS = [page for page in PAGES if page not in MADE_UP and commands_of(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_of_a_page_are_understood(page, capsys):
    parser = build_parser()
    for words in commands_of(page):
        try:
            parser.parse_args(words)
        except SystemExit:
            pytest.fail(f"simulmask {shlex.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_headings_of_a_page_are_unique(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert len(headings) == len(set(headings))


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
