"""The pages on adding a policy and a layout, word for word: all else follows from a class and its entry in a table."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from driving import assert_holds, encoder_of, llama_factory, parity, sentence_pairs, write_setup
from reference import settings_of

from simulmask_plugin.batches.collator import SimulMaskCollator
from simulmask_plugin.batches.features import to_feature
from simulmask_plugin.cli import build_parser, main
from simulmask_plugin.config.block import SimulMaskConfig
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.evaluation.curves import curves_of
from simulmask_plugin.evaluation.scores import read_scores
from simulmask_plugin.layouts import LAYOUTS
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.options import Decision, open_session

DOCS = Path(__file__).parents[1] / "docs"
CATCH_UP = {"policy": "catch_up", "lag": 2, "every": 3}
APART = {"layout": "apart", "gap": 40}


def python_of(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL))


PAGES = python_of("add-a-policy.md") + "\n" + python_of("add-a-layout.md")


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """The classes of both pages, in their tables for the time of a test."""
    for table in (POLICIES, LAYOUTS):
        for name in list(table):
            monkeypatch.setitem(table, name, table[name])
    before = [dict(table) for table in (POLICIES, LAYOUTS)]
    exec(PAGES, {})
    yield
    for table, entries in zip((POLICIES, LAYOUTS), before, strict=True):
        table.clear()
        table.update(entries)


def test_the_parameters_are_keys_of_the_block_with_their_checks():
    config = SimulMaskConfig.from_dict({"policy": "catch_up", "lag": "2-4", "every": 3, **APART})
    assert [policy.wanted(5) for policy in config.policies] == [6, 7, 8]
    assert SimulMaskConfig.from_dict(config.keys()) == config
    for block, message in (
        ({**CATCH_UP, "lag": -1}, r"simulmask\.lag must be an integer of at least 1 .*, got -1"),
        ({"policy": "catch_up"}, r"simulmask\.lag is missing"),
        ({"policy": "wait_k", "k": 3, "lag": 2}, r"simulmask\.lag is set, but policy wait_k does not use it"),
        ({**CATCH_UP, "layout": "apart", "gap": 0}, r"simulmask\.gap must be an integer of at least 1 .*, got 0"),
        ({**CATCH_UP, "gap": 8}, r"simulmask\.gap has no meaning in layout: prefix; remove it"),
    ):
        with pytest.raises(ValueError, match=message):
            SimulMaskConfig.from_dict(block)


def test_both_are_shown(capsys):
    options = "--policy catch_up --lag 2 --every 2 --layout apart --gap 8 --source".split()
    assert main(["show", *options, "a b c d e", "--target", "v w x y"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("catch_up lag=2 every=2 | layout apart | gap 8 | rows look_ahead | positions apart")
    assert "g(1..T+1) = 3 4 4 5 5" in shown


def test_commands_of_the_pages_run(capsys):
    for page in ("add-a-policy.md", "add-a-layout.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for command in re.findall(r"^    simulmask (.*)$", text, re.MULTILINE):
            build_parser().parse_args(shlex.split(command))
            if command.startswith("show"):
                assert main(shlex.split(command)) == 0
    assert "layout apart" in capsys.readouterr().out


@llama_factory
def test_a_training_yaml_is_validated_and_its_model_has_parity(tmp_path, capsys):
    path = write_setup(tmp_path, simulmask={**CATCH_UP, **APART})
    assert main(["validate", str(path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "catch_up, lag = 2, every = 3" in output
    assert main(["parity", str(path), "--examples", "1", "--length", "0"]) == 0
    assert "layout apart" in output


@pytest.mark.parametrize("rows", ["look_ahead", "own_unit"])
def test_training_and_streaming_agree(model_of, byte_level, rows):
    model = model_of("llama", len(byte_level), 0)
    assert_holds(parity(model, byte_level, sentence_pairs(), {**CATCH_UP, **APART, "rows": rows}))


def test_positions_of_a_batch_are_those_of_the_layout(byte_level):
    settings = settings_of(**CATCH_UP, **APART)
    example = encoder_of(byte_level, **CATCH_UP, **APART).encode(sentence_pairs(((4, 3),))[0])
    batch = SimulMaskCollator(settings, pad_token_id=0)([to_feature(example, None)])
    positions = batch["position_ids"][0].tolist()
    assert example.num_prompt + 40 in positions
    assert max(positions[: example.source_end]) == example.source_end - 1


def test_a_policy_that_looks_at_the_model_reads_where_it_is_not_sure(model_of, byte_level):
    model, encoder = model_of("llama", len(byte_level), 0), encoder_of(byte_level, policy="wait_k", k=1)
    read = []
    for sure in (1e-6, 0.999999):
        decision = Decision.from_dict({"policy": "confident", "sure": sure})
        session = open_session(model, encoder, decision, max_target_tokens=6)
        session.read("the")
        session.write()
        read.append((decision.name, session.num_written))
    assert read == [("confident-1e-06", 1), ("confident-0.999999", 0)]


def test_an_evaluation_names_its_runs_after_the_parameters(model_of, byte_level, tmp_path, monkeypatch):
    """SimulEval runs in a process of its own, which adds the classes at its start."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(PAGES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    model = tmp_path / "model"
    model_of("llama", len(byte_level), 0).save_pretrained(model)
    byte_level.save_pretrained(model)
    ModelSettings(SimulMaskConfig.from_dict({**CATCH_UP, **APART}), settings_of(**CATCH_UP).prompt).save(model)
    for side in ("source", "target"):
        (tmp_path / f"test.{side}").write_text("the dog abc\ncat xyz\n")
    policies = [{"policy": "catch_up", "lag": lag} for lag in (1, 3)]
    keys = {"model": model, "source": tmp_path / "test.source", "target": tmp_path / "test.target"}
    keys = {key: str(value) for key, value in (keys | {"output": tmp_path / "out"}).items()}
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump({**keys, "policies": policies, "max_target_tokens": 8}))
    assert main(["eval", str(path)]) == 0
    scores = read_scores(tmp_path / "out")
    assert [score.name for score in scores] == ["catch_up-1", "catch_up-3"]
    assert [curve.text for curve in curves_of(scores)] == ["catch_up, lag = 1, 3"]
    assert json.loads((model / "simulmask.json").read_text())["config"]["gap"] == 40
