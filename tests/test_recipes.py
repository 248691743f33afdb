"""The data that a training or an evaluation asks for is what the commands of its header, or of its page, write.

The commands are run as they stand, by the scripts' own code, on files of two sentences with the names that they read.
"""

import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from simulmask_plugin.cli import build_parser
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.corpora import parallel_text as corpora
from simulmask_plugin.evaluation.study import load_study
from simulmask_plugin.options import read_yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "yaml_configs"
YAMLS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))}
CONFIGS = {name: yaml.safe_load(text) for name, text in YAMLS.items()}
STUDIES = sorted((FOLDER / "studies").glob("*.yaml"))
PAGES = ("README.md", "docs/east.md", "docs/own-pair.md", "docs/results.md")
SCRIPTS = (
    "data/make_toy_pair.py",
    *(f"east_scripts/{name}.py" for name in ("prepare_train_data", "prepare_mt_test_data", "make_chunks")),
)

SOURCE, TARGET = ["one dog runs", "two cats"], ["ein Hund rennt", "zwei Katzen"]
LANGUAGES = {"src_lang": "English", "tgt_lang": "German"}


def joined(text, comment=""):
    """The text with every command on one line."""
    return re.sub(rf"\\\n{comment} *", "", text)


def data_commands(text):
    """The commands of a text that prepare data, as lists of words."""
    programs = "|".join(f"python {re.escape(script)}" for script in SCRIPTS)
    return [shlex.split(line) for line in re.findall(rf"(?:{programs}|^ +cp) .*$", text, re.MULTILINE)]


def header(name):
    """The comment that a YAML opens with, and that of the YAML whose data it shares."""
    comment = joined(re.match(r"(#.*\n)+", YAMLS[name]).group(), "#")
    shared = re.search(r"Data: as in (\w+)\.yaml", comment)
    return comment + (header(shared[1]) if shared else "")


def write_input(option, file):
    """Write two sentences in the format of a file that a script is told to read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sentences = TARGET if option == "target" else SOURCE
    if option == "pairs":
        rows = [
            {**LANGUAGES, "latency": "low", "source_chunks": source.split(), "target_chunks": target.split()}
            for source, target in zip(SOURCE, TARGET, strict=True)
        ]
        file.write_text(json.dumps(rows))
    elif option == "offline":
        rows = [{**LANGUAGES, "source": one, "target": other} for one, other in zip(SOURCE, TARGET, strict=True)]
        file.write_text(json.dumps(rows))
    elif file.suffix == ".xml":
        segments = "".join(f'<seg id="{number}">{text}</seg>' for number, text in enumerate(sentences, start=1))
        file.write_text(f'<mteval><doc docid="1">{segments}</doc></mteval>')
    else:
        file.write_text("".join(f"{text}\n" for text in sentences))


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Runs the commands of a text that prepare data, in a folder of its own; returns how many there were."""
    monkeypatch.chdir(tmp_path)
    for folder in ("east_scripts", "data"):
        monkeypatch.syspath_prepend(ROOT / folder)
    pairs = [corpora.Pair(*texts, "") for texts in zip(SOURCE, TARGET, strict=True)]
    monkeypatch.setattr(corpora, "read_test_set", lambda test_set, lang_pair: iter(pairs))
    (tmp_path / "links").write_text("0-0\n0-0\n")

    def run_commands(text):
        commands = data_commands(text)
        for program, *words in commands:
            options = dict(zip(words, words[1:], strict=False))
            for option in ("source", "target", "pairs", "offline"):
                if f"--{option}" in options and not Path(options[f"--{option}"]).is_file():
                    write_input(option, Path(options[f"--{option}"]))
            if program == "cp":
                *files, folder = words
                for file in files:
                    write_input("source", Path(file))
                    shutil.copy(file, folder)
                continue
            script, *arguments = words
            # The aligner is not what is tested here, and need not be installed.
            links = ["--alignments", "links"] if "make_chunks" in script else []
            monkeypatch.setattr(sys, "argv", [script, *arguments, *links])
            importlib.import_module(Path(script).stem).main()
        return len(commands)

    return run_commands


def missing(keys):
    """The datasets of a training, or the texts of an evaluation, that are not there."""
    if "dataset" not in keys:
        return {keys[side] for side in ("source", "target") if not Path(keys[side]).is_file()}
    dataset_info = Path(keys["dataset_dir"], "dataset_info.json")
    entries = json.loads(dataset_info.read_text()) if dataset_info.is_file() else {}
    return {
        dataset
        for dataset in ",".join(keys[key] for key in ("dataset", "eval_dataset") if key in keys).split(",")
        if dataset not in entries or not (dataset_info.parent / entries[dataset]["file_name"]).is_file()
    }


NEEDING_DATA = [name for name, keys in CONFIGS.items() if "dataset" in keys or "source" in keys]
OF_OTHERS = ("toy", "multi30k", "own_pair")
"""Their data comes from demo.py and from pages."""
WITH_COMMANDS = [name for name in NEEDING_DATA if not name.startswith(OF_OTHERS)]


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_data_command_of_a_header_writes_what_the_yaml_asks_for(prepare, name):
    assert missing(CONFIGS[name])
    assert prepare(header(name)) == 1
    assert missing(CONFIGS[name]) == set()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_is_accepted_with_what_its_header_writes(prepare, tmp_path, path):
    (tmp_path / "yaml_configs").symlink_to(FOLDER)
    comment = re.sub("^#", "", re.match(r"(#.*\n)+", path.read_text(encoding="utf-8")).group(), flags=re.MULTILINE)
    text, study = joined(comment), str(path.relative_to(ROOT))
    assert re.search(rf"^ +simulmask compare {re.escape(study)}$", text, re.MULTILINE)
    assert prepare(text)
    for stages in load_study(study, ["evaluation.limit=null"]).models.values():
        assert [missing(stage.values) for stage in stages if stage.kind == "train"][0] == set()


def configs_of(page):
    """The YAMLs that a page trains or evaluates with, in the order of its commands."""
    text = joined((ROOT / page).read_text(encoding="utf-8"))
    return re.findall(r"(?:llamafactory-cli train|simulmask eval) yaml_configs/(\w+)\.yaml", text)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_write_what_its_yamls_ask_for(prepare, page):
    names = set(configs_of(page))
    assert names
    assert all(missing(CONFIGS[name]) for name in names)
    prepare(joined((ROOT / page).read_text(encoding="utf-8")))
    assert {name: missing(CONFIGS[name]) for name in names} == dict.fromkeys(names, set())


def test_what_is_made_by_hand_is_made_beside_the_folders_of_the_demo():
    """Which writes into no folder that holds anything else, and whose folders the toy recipes name."""
    own = {
        Path(keys["dataset_dir"]).parent for name, keys in CONFIGS.items() if name.startswith("toy") and "stage" in keys
    }
    files = [*ROOT.glob("*.md"), *(file for end in ("*.md", "*.py") for file in ROOT.glob(f"*/{end}"))]
    texts = [joined(file.read_text(encoding="utf-8")) for file in files if file.parent.name != "tests"]
    made = [made for text in texts for made in re.findall(r"make_(?:toy_pair|model)\.py .*--output (\S+)", text)]
    assert own == {Path("output/toy"), Path("output/toy_east")}
    assert made
    for folder in map(Path, made):
        assert not own & {folder, *folder.parents}, folder


def test_pages_and_studies_cover_what_headers_do_not():
    covered = {name for page in PAGES for name in configs_of(page)}
    covered |= {
        Path(recipe).stem for study in STUDIES for recipe in re.findall(r"train: ([^,}\s]+)", study.read_text())
    }
    assert {name for name in NEEDING_DATA if name.startswith(("multi30k", "own_pair"))} <= covered


@pytest.mark.parametrize("page", PAGES)
def test_overrides_of_a_page_go_with_their_yamls(page):
    """E.g. `simulmask.k=3` for a YAML of another policy needs `simulmask.policy=wait_k`, too."""
    text = joined((ROOT / page).read_text(encoding="utf-8"))
    programs = "llamafactory-cli train|simulmask eval"
    commands = re.findall(rf"(?:{programs}) (yaml_configs/\w+\.yaml)(.*)$", text, re.MULTILINE)
    assert commands
    for path, words in commands:
        keys = set(CONFIGS[Path(path).stem])
        values = read_yaml(str(ROOT / path), [word for word in shlex.split(words, comments=True) if "=" in word])
        assert set(values) == keys
        if "simulmask" in values and "do_train" in values:
            SimulMaskConfig.from_dict(values["simulmask"])


@pytest.mark.parametrize("page", PAGES)
def test_merges_of_a_page_are_checked_with_their_own_folders(page):
    text = joined((ROOT / page).read_text(encoding="utf-8"))
    merges = re.findall(r"llamafactory-cli export yaml_configs/(\w+)\.yaml\n +(simulmask verify-merge .*)", text)
    assert merges
    for name, command in merges:
        options = build_parser().parse_args(shlex.split(command)[1:])
        keys = CONFIGS[name]
        expected = keys["model_name_or_path"], keys["adapter_name_or_path"], keys["export_dir"]
        assert (options.base, options.adapter, options.merged) == expected


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_yamls_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"yaml_configs/\w+[\w/.]*\.(?:yaml|json)", text):
        assert (ROOT / path).is_file(), path
