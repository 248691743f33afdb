"""The demo's own logic, on steps that cost nothing; what the steps do is tested where it is made."""

import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from simulmask_plugin.evaluation.config import load_evaluation
from simulmask_plugin.streaming.options import Decision

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "east_scripts")
        return import_module("demo")


@pytest.fixture
def steps(demo, tmp_path):
    """Two steps that each write a file and count how often they ran."""

    def step(name, code=""):
        result = tmp_path / name
        script = f"open(r'{result}', 'a').write('ran ')\nprint('said {name}')\n{code}"
        return demo.Step(name, f"making {name}", (sys.executable, "-c", script), result)

    return [step("first"), step("second")]


def test_finished_step_is_logged_and_not_repeated(demo, steps, tmp_path, capsys):
    demo.run_steps(steps, tmp_path / "logs")
    demo.run_steps(steps, tmp_path / "logs")
    assert [step.result.read_text() for step in steps] == ["ran ", "ran "]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/2] making first ... ") and lines[0].endswith(" s")
    assert lines[2:] == ["[1/2] making first ... done before", "[2/2] making second ... done before"]
    command, *_, said = (tmp_path / "logs" / "1_first.log").read_text().splitlines()
    assert command.startswith(f"$ {sys.executable} -c ")
    assert said == "said first"


def test_step_with_another_command_is_done_again(demo, steps, tmp_path):
    demo.run_steps(steps, tmp_path / "logs")
    other = replace(steps[1], command=(*steps[1].command, "--chunks"))
    demo.run_steps([steps[0], other], tmp_path / "logs")
    assert [step.result.read_text() for step in steps] == ["ran ", "ran ran "]


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
            RuntimeError, match=r"failing stopped with code 3; the end of .*3_third\.unfinished:\n(.*\n)*why$"
        ):
            demo.run_steps([*steps, failing], tmp_path / "logs")
    assert steps[1].result.read_text() == "ran "


def test_step_without_its_result_has_failed(demo, tmp_path):
    step = demo.Step("none", "making nothing", (sys.executable, "-c", ""), tmp_path / "nothing")
    with pytest.raises(RuntimeError, match=r"making nothing has left no .*nothing; its log is .*1_none\.unfinished"):
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


# What has to come out

HEADER = "name\tbleu\tchrf\tlaal\tal\tcalls_per_token\tseconds_per_sentence"


def write_scores(path, **runs):
    """A file of scores from AL, or AL and BLEU, of each run."""
    rows = {name: value if isinstance(value, tuple) else (value, 50.0) for name, value in runs.items()}
    lines = [f"{name}\t{bleu}\t80\t9\t{al}\t1\t1" for name, (al, bleu) in rows.items()]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_lag_that_rises_is_told_with_its_quality(demo, tmp_path):
    order = demo.Order("the lag rises with the prompt", ("low", "medium", "high"))
    scores = write_scores(tmp_path / "scores.tsv", high=(7.0, 80.0), low=(2.0, 50.0), other=9.0, medium=(2.01, 50.0))
    said = "The lag rises with the prompt. AL: low 2.00, medium 2.01, high 7.00; BLEU never falls."
    assert demo.check_order(scores, order) == said
    scores = write_scores(tmp_path / "scores.tsv", low=(2.0, 50.0), medium=(3.0, 49.0), high=(7.0, 80.0))
    assert demo.check_order(scores, order).endswith("BLEU falls somewhere on the way.")


@pytest.mark.parametrize(
    ("lags", "culprit"), [((2.0, 2.0, 7.0), "b"), ((2.0, 7.1, 7.0), "c"), ((3.0, 2.0, 1.0), "b"), ((2.0, "", 3.0), "b")]
)
def test_lag_out_of_order_fails(demo, tmp_path, lags, culprit):
    scores = write_scores(tmp_path / "scores.tsv", **dict(zip("abc", lags, strict=True)))
    with pytest.raises(
        RuntimeError, match=rf"^It does not hold that it rises: {culprit} is out of order\. AL: a \d\.\d0, b"
    ):
        demo.check_order(scores, demo.Order("it rises", ("a", "b", "c")))


@pytest.mark.parametrize(("second", "holds"), [(2.0, True), (1.995, True), (1.98, False)])
def test_thresholds_may_tie(demo, tmp_path, second, holds):
    scores, order = write_scores(tmp_path / "scores.tsv", a=2.0, b=second), demo.Order("it rises", ("a", "b"), demo.TIE)
    if holds:
        assert demo.check_order(scores, order).startswith("It rises. AL: a 2.00, b")
    else:
        with pytest.raises(RuntimeError, match="b is out of order"):
            demo.check_order(scores, order)


def test_missing_run_fails(demo, tmp_path):
    scores = write_scores(tmp_path / "scores.tsv", low=2.0)
    with pytest.raises(RuntimeError, match=r"scores\.tsv has no run medium, high, so nobody knows whether it rises"):
        demo.check_order(scores, demo.Order("it rises", ("low", "medium", "high")))


@pytest.mark.parametrize(("method", "config"), [("wait_k", "toy_eval"), ("east", "toy_east_eval")])
def test_orders_are_over_runs_of_the_evaluation(demo, method, config):
    policies = load_evaluation(ROOT / "yaml_configs" / f"{config}.yaml").policies
    names = {Decision.from_dict(policy).name for policy in policies}
    orders = demo.METHODS[method].orders
    assert orders and all(names >= set(order.runs) for order in orders)


@pytest.fixture
def run_main(demo, tmp_path, monkeypatch):
    """Runs the script on three steps, the last of which writes these lags of low, medium and high."""

    def run(*arguments, lags):
        output = tmp_path / "out"
        source = write_scores(tmp_path / "typed.tsv", **dict(zip(("low", "medium", "high"), lags, strict=True)))
        copy = f"import shutil; shutil.copy(r'{source}', r'{output / 'scores.tsv'}')"
        commands = {"pairs": "pass", "model": "pass", "eval": copy}
        results = {"pairs": source, "model": source, "eval": output / "scores.tsv"}
        steps = [
            demo.Step(name, f"step {name}", (sys.executable, "-c", code), results[name])
            for name, code in commands.items()
        ]
        order = demo.Order("the lag rises", ("low", "medium", "high"))
        method = replace(demo.METHODS["east"], results={"scores": "scores.tsv", "report": "r.md"}, orders=(order,))
        monkeypatch.chdir(tmp_path)  # put back in the end
        monkeypatch.setattr(demo, "ROOT", tmp_path)
        monkeypatch.setattr(demo, "all_steps", lambda output, method: steps)
        monkeypatch.setitem(demo.METHODS, "east", method)
        monkeypatch.setattr(sys, "argv", ["demo.py", "--method", "east", "--output", str(output), *arguments])
        demo.main()

    return run


def test_demo_ends_with_the_table_the_places_and_what_holds(run_main, capsys):
    run_main(lags=(2, 3, 7))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ...")[0] for line in lines[:3]] == [
        "[1/3] step pairs",
        "[2/3] step model",
        "[3/3] step eval",
    ]
    assert lines[4].startswith("Done in ") and "latency prompts and read thresholds: quality (BLEU)" in lines[4]
    assert lines[7].split() == ["policy", "BLEU", "chrF", "LAAL", "AL", "calls/token", "s/sentence"]
    assert lines[9].split() == ["medium", "50.00", "80", "9", "3", "1", "1"]
    assert lines[-2] == "scores: out/scores.tsv   report: out/r.md   logs: out/logs"
    assert lines[-1] == "The lag rises. AL: low 2.00, medium 3.00, high 7.00; BLEU never falls."


def test_demo_fails_behind_its_table_where_the_lag_is_out_of_order(run_main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(lags=(2, 8, 7))
    assert stop.value.code.startswith(
        "demo.py: It does not hold that the lag rises: high is out of order. AL: low 2.00"
    )
    assert "scores: out/scores.tsv" in capsys.readouterr().out


def test_preparation_ends_with_data_and_model(run_main, capsys, tmp_path):
    run_main("--prepare", lags=(2, 8, 7))
    assert capsys.readouterr().out.splitlines()[-1] == "Data and model: out/data, out/model"
    assert not (tmp_path / "out" / "scores.tsv").exists()


def test_folder_of_somebody_else_ends_the_script_with_a_message(run_main, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(SystemExit) as stop:
        run_main(lags=(1, 2, 3))
    assert stop.value.code == "demo.py: out is not empty and was not made by the demo; choose another --output."
