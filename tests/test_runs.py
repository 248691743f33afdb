"""When a run is finished, when it goes on and when it is made again; with logs that are written by hand."""

import json

import pytest

from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.runs import finish, predictions, work_left

NUM_SENTENCES = 4
MADE_WITH = {"dtype": "float32", "source": "here", "files": {"source": "1", "model.safetensors": "2"}}
SESSION = {"seconds": 1.0, "calls": 5, "written_tokens": 6, "flops": 2e9, "truncated": False}
SCORES = "BLEU\tAL\tLAAL\tAP\tDAL\n1.0\t2.125\t2.25\t0.75\t3.512\n"
FILES = {"instances.log", "sessions.jsonl", "scores.tsv", "settings.json", "finished.json"}


def instance(index):
    return {"index": index, "prediction": f"p{index}", "reference": "r\n", "source": "s", "delays": [1]}


def lines(values):
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture
def folder(tmp_path):
    """Of a finished run."""
    prepare = work_left(tmp_path, MADE_WITH, free=("source",), say=refuse)
    prepare()
    (tmp_path / "instances.log").write_text(lines(map(instance, range(NUM_SENTENCES))))
    (tmp_path / "sessions.jsonl").write_text(lines([SESSION] * NUM_SENTENCES))
    (tmp_path / "scores.tsv").write_text(SCORES)
    finish(tmp_path, NUM_SENTENCES)
    (tmp_path / "extra_metrics.json").write_text("{}")
    return tmp_path


def refuse(what):
    raise AssertionError(f"said: {what}")


def prepared(folder, **changes):
    """What is said, and the sentences that are left once the folder is prepared; None: there is nothing to do."""
    said = []
    prepare = work_left(folder, MADE_WITH | changes, free=("source",), say=said.append)
    if prepare is None:
        assert not said
        return None
    prepare()
    assert not (folder / "finished.json").exists() and not (folder / "scores.tsv").exists()
    assert not (folder / "extra_metrics.json").exists(), "a metric of other sentences"
    assert json.loads((folder / "settings.json").read_text()) == MADE_WITH | changes
    logs = [folder / name for name in ("instances.log", "sessions.jsonl")]
    kept = {len(log.read_text().splitlines()) if log.exists() else 0 for log in logs}
    assert len(kept) == 1, "both logs have the same sentences"
    return said, kept.pop()


def test_finished_run_is_not_repeated(folder):
    assert prepared(folder) is None
    assert {path.name for path in folder.iterdir()} == FILES | {"extra_metrics.json"}
    assert predictions(folder) == ["p0", "p1", "p2", "p3"]


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


DAMAGE = {
    "empty scores": (lambda f: (f / "scores.tsv").write_text(""), "scores.tsv: missing or changed", 4),
    "scores without a row": (
        lambda f: (f / "scores.tsv").write_text(SCORES.split("\n")[0]),
        "scores.tsv: missing or",
        4,
    ),
    "cut DAL": (lambda f: (f / "scores.tsv").write_text(SCORES[:-3]), "scores.tsv: missing or changed", 4),
    "no scores": (lambda f: (f / "scores.tsv").unlink(), "scores.tsv: missing or changed", 4),
    "another score": (lambda f: (f / "scores.tsv").write_text(SCORES.replace("2.25", "2.2")), "scores.tsv: missing", 4),
    "half of the instances": (lambda f: cut(f / "instances.log", 0.5), "instances.log: missing or changed", 0),
    "instances that end between lines": (
        lambda f: (f / "instances.log").write_text(lines(map(instance, range(2)))),
        "instances.log: missing or changed since the run ended; streaming again",
        0,
    ),
    "no instances": (lambda f: (f / "instances.log").unlink(), "instances.log: missing or changed", 0),
    "cut sessions": (lambda f: cut(f / "sessions.jsonl", 0.9), "sessions.jsonl: missing or changed", 0),
    "both logs cut": (
        lambda f: [cut(f / name, 0.5) for name in ("instances.log", "sessions.jsonl")],
        "instances.log, sessions.jsonl: missing or changed",
        0,
    ),
    "cut settings": (lambda f: cut(f / "settings.json", 0.5), "settings.json is missing or cut, so it is", 0),
    "empty settings": (lambda f: (f / "settings.json").write_text(""), "settings.json is missing or cut", 0),
    "no settings": (lambda f: (f / "settings.json").unlink(), "settings.json is missing or cut", 0),
    "cut seal": (lambda f: cut(f / "finished.json", 0.5), "continues after 4 sentences", 4),
}


@pytest.mark.parametrize(("damage", "message", "num_kept"), DAMAGE.values(), ids=DAMAGE)
def test_run_that_is_not_whole_is_made_again_with_a_line_that_says_so(folder, damage, message, num_kept):
    damage(folder)
    said, kept = prepared(folder)
    assert message in said[0]
    assert kept == num_kept


KILLED = {
    "half a line": (lambda f: cut(f / "instances.log", 0.6), 2),
    "lines that are not in order": (
        lambda f: (f / "instances.log").write_text(lines(map(instance, (0, 1, 3)))),
        2,
    ),
    "fewer sessions": (lambda f: (f / "sessions.jsonl").write_text(lines([SESSION])), 1),
    "no sessions": (lambda f: (f / "sessions.jsonl").unlink(), 0),
    "fewer instances": (lambda f: (f / "instances.log").write_text(lines([instance(0)])), 1),
    "a line that is no result": (lambda f: (f / "instances.log").write_text('{"index": 0}\n'), 0),
    "nothing but the scores missing": (lambda f: (f / "scores.tsv").unlink(), 4),
}


@pytest.mark.parametrize(("damage", "num_kept"), KILLED.values(), ids=KILLED)
def test_killed_run_goes_on_after_what_is_whole(folder, damage, num_kept):
    (folder / "finished.json").unlink()
    damage(folder)
    assert prepared(folder) == ([f"continues after {num_kept} sentences that were streamed before"], num_kept)


@pytest.mark.parametrize("kept", ["finished.json", "scores.tsv", "settings.json"])
def test_run_without_a_sentence_is_begun_without_a_word(tmp_path, folder, kept):
    for path in folder.iterdir():
        if path.name != kept:
            path.unlink()
    assert prepared(folder, dtype="bfloat16") == ([], 0)


CHANGES = {
    "setting": ({"dtype": "bfloat16"}, r"\(dtype changed\)"),
    "text": ({"files": {"source": "9", "model.safetensors": "2"}}, r"\(source changed\)"),
    "file that is gone": ({"files": {"source": "1"}}, r"\(model\.safetensors changed\)"),
    "file that is new": ({"files": MADE_WITH["files"] | {"tokenizer.json": "3"}}, r"\(tokenizer\.json changed\)"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("changes", "message"), CHANGES.values(), ids=CHANGES)
def test_results_made_with_something_else_are_refused_and_stay(folder, changes, message, finished):
    if not finished:
        (folder / "finished.json").unlink()
    before = {path.name: path.read_text() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"holds results made with other settings or files " + message):
        work_left(folder, MADE_WITH | changes, free=("source",), say=refuse)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_results_of_a_version_that_noted_no_files_are_refused(folder):
    settings = {key: value for key, value in MADE_WITH.items() if key != "files"}
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="holds results of an earlier version, which did not note what texts and what"):
        work_left(folder, MADE_WITH, free=("source",), say=refuse)


def test_another_place_of_the_same_files_is_accepted(folder):
    assert prepared(folder, source="elsewhere") is None


UNFINISHED = {
    "sentences": (
        lambda f: (f / "instances.log").write_text(lines([instance(0)])),
        r"instances\.log holds 1 whole lin",
    ),
    "half a line more": (
        lambda f: (f / "instances.log").open("a").write("{"),
        r"instances\.log holds 4 whole lines of",
    ),
    "sessions": (
        lambda f: cut(f / "sessions.jsonl", 0.9),
        r"sessions\.jsonl holds 3 whole lines of 4 sentences; is the",
    ),
    "scores": (lambda f: (f / "scores.tsv").unlink(), r"scores\.tsv is missing; is the disk full\?"),
    "row of scores": (lambda f: cut(f / "scores.tsv", 0.5), r"scores\.tsv is empty or cut; expected AL, LAAL, AP, DAL"),
    "end of scores": (lambda f: (f / "scores.tsv").write_text(SCORES[:-1]), r"scores\.tsv is empty or cut"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("damage", "message"), UNFINISHED.values(), ids=UNFINISHED)
def test_run_is_declared_finished_only_when_it_is_whole(folder, damage, message):
    (folder / "finished.json").unlink()
    damage(folder)
    with pytest.raises(ProgramFailed, match=message):
        finish(folder, NUM_SENTENCES)
    assert not (folder / "finished.json").exists()


def traced(folder):
    """The run with a trace, as its settings ask for."""
    (folder / "settings.json").write_text(json.dumps(MADE_WITH | {"trace": True}))
    (folder / "trace.jsonl").write_text(lines([{"steps": []}] * NUM_SENTENCES))
    finish(folder, NUM_SENTENCES)


def test_trace_is_a_log_like_the_others(folder):
    traced(folder)
    assert prepared(folder, trace=True) is None
    (folder / "finished.json").unlink()
    (folder / "trace.jsonl").write_text(lines([{"steps": []}] * 3) + '{"steps": [')
    with pytest.raises(ProgramFailed, match=r"trace\.jsonl holds 3 whole lines of 4 sentences"):
        finish(folder, NUM_SENTENCES)
    assert prepared(folder, trace=True) == (["continues after 3 sentences that were streamed before"], 3)
    assert (folder / "trace.jsonl").read_text() == lines([{"steps": []}] * 3)


def test_trace_that_is_lost_is_made_again(folder):
    traced(folder)
    (folder / "trace.jsonl").unlink()
    said, kept = prepared(folder, trace=True)
    assert (said, kept) == (["trace.jsonl: missing or changed since the run ended; streaming again"], 0)


def test_run_without_a_trace_is_not_taken_for_one_with_it(folder):
    with pytest.raises(ValueError, match=r"\(trace changed\)"):
        work_left(folder, MADE_WITH | {"trace": True}, free=("source",), say=refuse)
