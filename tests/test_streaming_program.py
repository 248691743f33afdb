"""The jobs of a study: their shares of the machine, and systems that stream side by side in programs of their own."""

import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from copied_study import WAIT_2, make_study, runs_of
from driving import encoder_of, write_model

from simulmask_plugin.evaluation import run_study, streaming_program
from simulmask_plugin.evaluation.programs import ProgramFailed
from simulmask_plugin.evaluation.run import evaluate
from simulmask_plugin.evaluation.study import load_study

TOGETHER = 20
"""Seconds that a program waits for the other."""


@pytest.fixture
def study(tmp_path, model_of, byte_level, monkeypatch):
    """Of two models and two systems, which stream side by side."""
    settings = encoder_of(byte_level, **WAIT_2).settings
    model = write_model(tmp_path / "tiny", model_of("llama", len(byte_level), 0), byte_level, settings)
    return make_study(tmp_path, monkeypatch, model, jobs=2)


@pytest.fixture
def programs(monkeypatch):
    """Streams in this process, once as many programs as this have begun; returns their variables by system."""
    begun = {}

    def expect(number, fails=lambda system: False):
        barrier = threading.Barrier(number)

        def run(name, command, log, environment, prepare):
            prepare()
            system = log.parent.name
            begun[system] = environment
            barrier.wait(TOGETHER)
            if fails(system):
                raise ProgramFailed(f"{name} stopped with code 1\nout of memory")
            streaming_program.main(command[-1])

        monkeypatch.setattr(streaming_program, "run_program", run)
        return begun

    return expect


def test_systems_stream_at_the_same_time_each_on_the_share_of_its_job(study, programs, monkeypatch):
    monkeypatch.setattr(run_study.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    begun = programs(2)
    assert run_study.run_compare(str(study)) == 0
    assert sorted(environment["CUDA_VISIBLE_DEVICES"] for environment in begun.values()) == ["0", "1"]
    assert runs_of(study) == ["first/wait_k-1", "first/wait_k-2", "second/wait_k-1", "second/wait_k-2"]


def test_a_system_whose_program_fails_does_not_cost_the_others_and_is_streamed_by_the_next_call(
    study, programs, capsys
):
    programs(2, fails=lambda system: system == "second")
    assert run_study.run_compare(str(study)) == 1
    out, err = capsys.readouterr()
    assert "second [2/2] wait_k-2: failed: The streaming stopped with code 1\n" in out
    assert "Failed: second: The streaming stopped with code 1\nout of memory" in err
    assert runs_of(study) == ["first/wait_k-1", "first/wait_k-2"]
    before = (study.parent / "out/systems/first/wait_k-1/finished.json").stat().st_mtime_ns
    begun = programs(1)
    begun.clear()
    assert run_study.run_compare(str(study)) == 0
    assert list(begun) == ["second"]
    assert (study.parent / "out/systems/first/wait_k-1/finished.json").stat().st_mtime_ns == before


def test_faults_of_single_runs_come_back(study, programs, monkeypatch):
    programs(2)
    stream = streaming_program.stream_batched

    def half(config, runs, sentences):
        bad, good = runs
        stream(config, {good: runs[good]}, [one for one in sentences if one[0] == good])
        return {bad: "sentence 2: the word is too long"}

    monkeypatch.setattr(streaming_program, "stream_batched", half)
    found = {}
    monkeypatch.setattr(run_study, "_comparison", lambda study, path, one: found.update(one.failed))
    monkeypatch.setattr(run_study, "write_comparison", lambda output, comparison: [])
    assert run_study.run_compare(str(study)) == 1
    assert {name: str(error) for name, error in found.items()} == {
        f"{name}/wait_k-1": "sentence 2: the word is too long" for name in ("first", "second")
    }
    assert runs_of(study) == ["first/wait_k-2", "second/wait_k-2"]


def test_one_job_streams_in_this_process(study, programs):
    begun = programs(1)
    assert run_study.run_compare(str(study), ["jobs=1"]) == 0
    assert not begun and len(runs_of(study)) == 4


def test_the_program_itself_writes_what_this_process_does_and_its_log_is_kept(study):
    shutil.copytree(study.parent / "tiny", study.parent / "out/models/first/stage1")
    system = load_study(str(study), [f"results={study.parent / 'own'}"]).systems["first"].evaluation
    alone = load_study(str(study)).systems["first"].evaluation
    scores, faults = evaluate(system, "first", environment={"OMP_NUM_THREADS": "1"})
    assert len(scores) == 2 and not faults
    assert (Path(system.output) / "streaming.log").is_file()
    evaluate(alone, "first")
    for name in ("wait_k-1", "wait_k-2"):
        ours, theirs = (Path(one.output, name, "instances.log").read_text() for one in (system, alone))
        assert ours == theirs


@pytest.mark.parametrize(
    "visible, num_gpus, jobs, shares",
    [
        (None, 4, 2, ["0,2", "1,3"]),
        ("4,6,7", 3, 2, ["4,7", "6"]),
        (None, 2, 3, ["0", "1", "0"]),
        (None, 4, 1, [None]),
        ("0,1,2,3", 2, 3, ["0", "1", "0"]),  # names more than there are
        (None, 1, 2, [None, None]),
        (None, 0, 2, [None, None]),
    ],
)
def test_every_job_trains_on_its_share_of_the_gpus(monkeypatch, visible, num_gpus, jobs, shares):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(run_study.torch.cuda, "device_count", lambda: num_gpus)
    environments = run_study._environments(SimpleNamespace(jobs=jobs, threads=None))
    assert [variables.get("CUDA_VISIBLE_DEVICES") for variables in environments] == shares


def test_torchrun_is_found_beside_python_and_jobs_have_their_threads(monkeypatch):
    monkeypatch.setenv("PATH", "elsewhere")
    (variables,) = run_study._environments(SimpleNamespace(jobs=1, threads=3))
    assert variables["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "elsewhere"]
    assert variables["OMP_NUM_THREADS"] == "3"
