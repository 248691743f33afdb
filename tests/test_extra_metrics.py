"""Metrics of other programs."""

import json
import re
import shlex
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from simulmask_plugin.evaluation.extra_metrics import ExtraMetric, run_metrics
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.scores import Score, read_scores, write_scores

INSTANCES = [
    {"source": "a b", "prediction": "x y z", "reference": "x y\n"},
    {"source": "c", "prediction": "", "reference": "z\n"},
]


def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def test_score_is_the_last_number_that_the_command_prints(tmp_path):
    code = "import sys; print('segment 1 0.5'); print('score:', len(open(sys.argv[1]).read().split()) / 4)"
    commands = {"words": python(code) + " {hypothesis}"}
    assert run_metrics(commands, INSTANCES, tmp_path) == {"words": 0.75}


def test_score_may_stand_after_a_text(tmp_path):
    code = "print('AL (CU)  2.5'); print('YAAL (CU)   2.9206'); print('YAAL (CA) -4.6')"
    metric = {"command": python(code), "after": "YAAL (CU)"}
    assert run_metrics({"YAAL": metric}, INSTANCES, tmp_path) == {"YAAL": 2.9206}
    with pytest.raises(ProgramFailed, match=r"printed no number after 'XAAL'"):
        run_metrics({"YAAL": metric | {"after": "XAAL"}}, INSTANCES, tmp_path)


def test_files_are_line_aligned(tmp_path):
    run_metrics({"one": python("print(1)")}, INSTANCES, tmp_path)
    assert (tmp_path / "source.txt").read_text() == "a b\nc\n"
    assert (tmp_path / "hypothesis.txt").read_text() == "x y z\n\n"
    assert (tmp_path / "reference.txt").read_text() == "x y\nz\n"


def test_the_same_command_is_not_run_again_and_another_one_is(tmp_path):
    code = "import sys; f = open(sys.argv[1] + '.count', 'a'); f.write('x'); print(2)"
    command = python(code) + " {source}"
    for _ in range(2):
        assert run_metrics({"metric": command}, INSTANCES, tmp_path) == {"metric": 2.0}
    assert (tmp_path / "source.txt.count").read_text() == "x"
    assert run_metrics({"metric": python("print(3)")}, INSTANCES, tmp_path) == {"metric": 3.0}
    assert json.loads((tmp_path / "extra_metrics.json").read_text())["metric"]["score"] == 3.0


@pytest.mark.parametrize("content", ["", '{"metric": ', "[]"])
def test_damaged_store_is_measured_again(tmp_path, content):
    (tmp_path / "extra_metrics.json").write_text(content)
    assert run_metrics({"metric": python("print(3)")}, INSTANCES, tmp_path) == {"metric": 3.0}
    assert json.loads((tmp_path / "extra_metrics.json").read_text())["metric"]["score"] == 3.0


@pytest.fixture
def documented():
    """The metrics that the documentation gives, as YAML."""
    text = (Path(__file__).parents[1] / "docs" / "east.md").read_text()
    block = re.search(r"\n    extra_metrics:\n(?:      .*\n)+", text).group()
    return yaml.safe_load(dedent(block))["extra_metrics"]


def test_documented_metrics_are_accepted(documented):
    assert list(documented) == ["COMET", "BLEURT", "YAAL"]
    for name, metric in documented.items():
        ExtraMetric.from_value(name, metric)


@pytest.mark.parametrize("code", [0, 3])
def test_documented_bleurt_is_the_mean_of_its_sentences(documented, tmp_path, monkeypatch, code):
    """With a BLEURT that takes its options, and prints a score a line as bleurt.score_files does."""
    stub = tmp_path / "BLEURT" / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(f'#!/bin/sh\necho "$@" > called\nprintf "0.25\\n0.75\\n-0.1\\n"\nexit {code}\n')
    stub.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    metrics = {"BLEURT": documented["BLEURT"]}
    if code:
        with pytest.raises(ProgramFailed, match=r"extra_metrics\.BLEURT: .* stopped with code 3"):
            run_metrics(metrics, INSTANCES, tmp_path)
        return
    assert run_metrics(metrics, INSTANCES, tmp_path) == {"BLEURT": 0.3}
    files = f"-candidate_file={tmp_path}/hypothesis.txt -reference_file={tmp_path}/reference.txt"
    called = (tmp_path / "called").read_text().strip()
    assert called == f"-m bleurt.score_files {files} -bleurt_checkpoint=BLEURT/BLEURT-20"


@pytest.mark.parametrize(
    "command, message",
    [
        (python("exit(3)"), r"extra_metrics\.COMET: .*stopped with code 3"),
        (python("print('no score')"), r"extra_metrics\.COMET: .*printed no number:\nno score"),
        ("/no/such/program {source}", r"extra_metrics\.COMET: /no/such/program cannot be started"),
    ],
)
def test_a_command_that_fails_is_told(tmp_path, command, message):
    with pytest.raises(ProgramFailed, match=message):
        run_metrics({"COMET": command}, INSTANCES, tmp_path)


@pytest.mark.parametrize(
    "command, message",
    [
        (3, r"extra_metrics\.COMET\.command must be a command such as .*, got 3"),
        ({"command": "comet", "match": "x"}, r"extra_metrics\.COMET: unknown key 'match'; known keys: command, after"),
        ("comet {target}", r"extra_metrics\.COMET: unknown file \{target\}; expected \{source\}, \{hypothesis\}"),
        ("comet {source", r"is damaged"),
    ],
)
def test_bad_commands_are_refused_before_anything_runs(command, message):
    with pytest.raises(ValueError, match=message):
        ExtraMetric.from_value("COMET", command)


def score_of(name, bleu, laal, **extra):
    return Score(name, 10, bleu, 50.0, laal, laal, 0.6, laal, 0.1, 1.0, 0.2, 0, extra)


def test_extra_scores_are_columns_and_can_be_read_back(tmp_path):
    scores = [score_of("wait_k-1", 10.0, 1.0, COMET=0.5), score_of("offline", 20.0, 9.0, COMET=0.75)]
    write_scores(tmp_path / "scores.tsv", scores)
    assert "COMET" in (tmp_path / "scores.tsv").read_text().splitlines()[0].split("\t")
    assert read_scores(str(tmp_path)) == scores
