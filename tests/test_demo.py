"""The demo's own logic, on steps that cost nothing; what the steps do is tested where it is made."""

import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "east_scripts" / "demo.py")))


@pytest.fixture
def steps(demo, tmp_path):
    """Two steps that each write a file and count how often they ran."""

    def step(name, code=""):
        result = tmp_path / name
        script = f"open(r'{result}', 'a').write('ran ')\nprint('said {name}')\n{code}"
        return demo.Step(name, f"making {name}", (sys.executable, "-c", script), result)

    return [step("first"), step("second")]


def test_finished_step_is_not_repeated(demo, steps, tmp_path, capsys):
    demo.run_steps(steps, tmp_path / "logs")
    demo.run_steps(steps, tmp_path / "logs")
    assert [step.result.read_text() for step in steps] == ["ran ", "ran "]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/2] making first ... ") and lines[0].endswith(" s")
    assert lines[2:] == ["[1/2] making first ... done before", "[2/2] making second ... done before"]


def test_step_with_another_command_is_done_again(demo, steps, tmp_path):
    demo.run_steps(steps, tmp_path / "logs")
    other = replace(steps[1], command=(*steps[1].command, "--chunks"))
    demo.run_steps([steps[0], other], tmp_path / "logs")
    assert [step.result.read_text() for step in steps] == ["ran ", "ran ran "]


def test_log_begins_with_the_command(demo, steps, tmp_path):
    demo.run_steps(steps, tmp_path / "logs")
    command, *_, said = (tmp_path / "logs" / "1_first.log").read_text().splitlines()
    assert command.startswith(f"$ {sys.executable} -c ")
    assert said == "said first"


def test_lost_result_is_made_again_and_everything_after_it(demo, steps, tmp_path):
    demo.run_steps(steps, tmp_path / "logs")
    steps[0].result.unlink()
    os.utime(tmp_path / "logs" / "2_second.log", (0, 0))  # as if the second had long been done
    demo.run_steps(steps, tmp_path / "logs")
    assert [step.result.read_text() for step in steps] == ["ran ", "ran ran "]


def test_failing_step_shows_the_end_of_its_log_and_is_tried_again(demo, steps, tmp_path):
    failing = demo.Step("third", "failing", (sys.executable, "-c", "print('why'); exit(3)"), steps[0].result)
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"failed \(exit code 3\)\. The end of .*3_third\.unfinished:\n(.*\n)*why"
        ):
            demo.run_steps([*steps, failing], tmp_path / "logs")
    assert steps[1].result.read_text() == "ran "


def test_step_without_its_result_has_failed(demo, tmp_path):
    step = demo.Step("none", "making nothing", (sys.executable, "-c", ""), tmp_path / "nothing")
    with pytest.raises(RuntimeError, match=r"failed \(there is no .*nothing\)"):
        demo.run_steps([step], tmp_path / "logs")


def test_folder_of_somebody_else_is_refused(demo, tmp_path):
    (tmp_path / "precious").touch()
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is not empty and was not made by the demo"):
            demo.open_folder(tmp_path, fresh=fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_fresh_start_deletes_nothing(demo, tmp_path):
    output = tmp_path / "demo"
    demo.open_folder(output, fresh=False)
    (output / "notes").touch()
    demo.open_folder(output, fresh=True)
    assert [path.name for path in output.iterdir()] == [demo.MARKER]
    (old,) = tmp_path.glob("demo.*")
    assert (old / "notes").exists()


@pytest.mark.parametrize("method", ["wait_k", "east", "compare"])
def test_every_step_is_named_once_and_writes_below_the_output(demo, method):
    steps = demo.all_steps(Path("output/demo"), demo.METHODS[method])
    assert len({step.name for step in steps}) == len(steps)
    assert demo.LAST_PREPARATION in {step.name for step in steps}
    for step in steps:
        assert step.result.is_relative_to("output/demo")
        for yaml in (part for part in step.command if part.endswith(".yaml")):
            assert (ROOT / yaml).is_file(), yaml


def test_table_has_its_texts_on_the_left(demo, tmp_path):
    scores = tmp_path / "scores.tsv"
    scores.write_text("name\tbleu\textra\nwait_k-3\t20.125\t1\noffline\t30\t2\n")
    assert demo.table(scores, {"name": "policy", "bleu": "BLEU"}).splitlines() == [
        "  policy  BLEU",
        "wait_k-3 20.12",
        "offline  30.00",
    ]
