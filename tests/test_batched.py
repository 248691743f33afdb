"""The engine `batched` writes what SimulEval and the agent write, sentence by sentence."""

import json
from dataclasses import replace

import pytest
from driving import encoder_of

from simulmask_plugin.evaluation import batched
from simulmask_plugin.evaluation.batched import stream_batched
from simulmask_plugin.evaluation.config import EvaluationConfig
from simulmask_plugin.evaluation.runs import close, enter, repair, undone
from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.options import Decision, open_session
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.simulation import simulate

WAIT_2 = {"policy": "wait_k", "k": 2}
SOURCES = ["the dog abc", "cat", "xyz cd the abcde dog", "abc cat the", "dog dog"]


@pytest.fixture
def evaluation(model_of, with_ends, tmp_path):
    """Saves a tiny model of a block, and returns its encoder, its model and an evaluation of it."""

    def make(**block):
        encoder, model = encoder_of(with_ends, **block), model_of("llama", len(with_ends), 0)
        model.save_pretrained(tmp_path / "model")
        with_ends.save_pretrained(tmp_path / "model")
        encoder.settings.save(tmp_path / "model")
        (tmp_path / "source").write_text("\n".join(SOURCES) + "\n")
        (tmp_path / "target").write_text("\n".join(reversed(SOURCES)) + "\n")
        (tmp_path / "output").mkdir()
        paths = {key: str(tmp_path / key) for key in ("model", "source", "target", "output")}
        config = EvaluationConfig(
            **paths, policies=(), latency_unit="word", attn_implementation="sdpa", max_target_tokens=12, lanes=2
        )
        return encoder, model, config

    return make


def stream(config, tmp_path, runs, shares=1):
    """The records of every run, by its name, streamed in shares."""
    folders = {tmp_path / decision.name: decision for decision in runs}
    for folder in folders:
        folder.mkdir(exist_ok=True)
    sentences = undone(folders, len(SOURCES))
    for process in range(shares):
        assert stream_batched(config, folders, sentences[process::shares], process) == {}
    for folder in folders:
        close(folder)
        assert not list(folder.glob("streamed.*"))
    return {
        folder.name: [
            [json.loads(line) for line in (folder / name).read_text().splitlines()]
            for name in ("instances.log", "sessions.jsonl")
        ]
        for folder in folders
    }


def delays_of(session, words):
    """What is written, and how many words had been sent before each word of it: one more after every WRITE."""
    written, delays, num_sent, left = [], [], 0, list(words)
    while not session.finished:
        if left:
            session.read(left.pop(0))
            num_sent += 1
        if not left and not session.source_finished:
            session.finish_source()
        while not session.finished and session.action() is Action.WRITE:
            new = (session.write() or "").split()
            written, delays = written + new, delays + [num_sent] * len(new)
    return written, delays


BLOCKS = {
    "prefix": (WAIT_2, [{}, {"policy": "wait_k", "k": 1}, {"policy": "offline"}]),
    "slots": ({**WAIT_2, "layout": "slots"}, [{}, {"policy": "wait_k", "k": 1, "slot_length": 4}]),
    "turns": ({**WAIT_2, "layout": "turns"}, [{}, {"policy": "read_n", "n": 2}]),
    "interleaved": ({"layout": "interleaved"}, [{"read_threshold": 0.004}, {"read_threshold": 0.1}]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_records_are_those_of_the_sessions(evaluation, tmp_path, name):
    block, runs = BLOCKS[name]
    encoder, model, config = evaluation(**block)
    decisions = [Decision.from_dict(run) for run in runs]
    records = stream(config, tmp_path, decisions)
    for decision in decisions:
        instances, costs = records[decision.name]
        assert [one["index"] for one in instances] == list(range(len(SOURCES)))
        for instance, cost, words in zip(instances, costs, map(str.split, SOURCES), strict=True):
            session = open_session(model, encoder, decision, max_target_tokens=12)
            written, delays = delays_of(session, words)
            assert (instance["prediction"].split(), instance["delays"]) == (written, delays)
            assert instance["source"].split() == words
            assert {key: cost[key] for key in ("calls", "fed_tokens", "written_tokens")} == {
                "calls": session.counters.calls,
                "fed_tokens": session.counters.fed_tokens,
                "written_tokens": session.counters.written_tokens,
            }


def test_shares_make_the_same_records(evaluation, tmp_path):
    _, _, config = evaluation(**WAIT_2)
    runs = [Decision(), Decision.from_dict({"policy": "offline"})]
    (tmp_path / "shared").mkdir()
    alone, together = stream(config, tmp_path, runs), stream(config, tmp_path / "shared", runs, shares=2)
    assert {name: instances for name, (instances, _) in alone.items()} == {
        name: instances for name, (instances, _) in together.items()
    }


def test_what_was_streamed_before_a_kill_is_not_streamed_again(evaluation, tmp_path):
    _, _, config = evaluation(**WAIT_2)
    (whole,) = stream(config, tmp_path, [Decision()]).values()
    folder = tmp_path / Decision().name
    for name in ("instances.log", "sessions.jsonl"):
        (folder / name).unlink()
    for index in (3, 1):
        records = zip(("instances.log", "sessions.jsonl"), (log[index] for log in whole), strict=True)
        enter(folder, 0, index, dict(records))
    with (folder / "streamed.0.jsonl").open("a") as file:
        file.write('[2, {"instances.log": {"index": 2')
    repair(folder)
    assert [index for _, index in undone([folder], len(SOURCES))] == [0, 2, 4]
    (again,) = stream(config, tmp_path, [Decision()]).values()
    assert again[0] == whole[0]
    assert [again[1][index] for index in (1, 3)] == [whole[1][index] for index in (1, 3)], "their seconds as well"


def test_a_policy_that_cannot_go_on_does_not_end_the_others(evaluation, tmp_path, monkeypatch):
    def fail(session, source, *arguments):
        if session.policy.k == 1 and source == ["cat"]:
            raise ValueError("the word is too long")
        return (yield from simulate(session, source, *arguments))

    monkeypatch.setattr(batched, "simulate", fail)
    _, _, config = evaluation(**WAIT_2)
    runs = {tmp_path / f"wait_k-{k}": Decision.from_dict({"policy": "wait_k", "k": k}) for k in (1, 2)}
    for folder in runs:
        folder.mkdir()
    bad, good = runs
    faults = stream_batched(config, runs, undone(runs, len(SOURCES)))
    assert faults == {bad: "sentence 2: the word is too long"}
    assert undone([good], len(SOURCES)) == []


def test_characters_are_counted_where_the_latency_is(evaluation, tmp_path):
    _, _, config = evaluation(**WAIT_2)
    (records,) = stream(replace(config, latency_unit="char"), tmp_path, [Decision()]).values()
    for instance in records[0]:
        assert len(instance["prediction"]) == len(instance["delays"]) == instance["prediction_length"]


def test_trace_has_a_line_for_every_sentence_with_the_steps_of_its_session(evaluation, tmp_path):
    encoder, model, config = evaluation(**WAIT_2)
    folder = tmp_path / Decision().name
    folder.mkdir()
    (folder / "settings.json").write_text('{"trace": true}')
    records = stream(replace(config, trace=True), tmp_path, [Decision()], shares=2)[folder.name]
    path = folder / "trace.jsonl"
    traces = [json.loads(line)["steps"] for line in path.read_text().splitlines()]
    for instance, cost, steps, words in zip(*records, traces, map(str.split, SOURCES), strict=True):
        session = open_session(model, encoder, Decision(), max_target_tokens=12, recorder=Recorder(lambda: 0.0))
        delays_of(session, words)
        assert [{**step, "time": 0.0} for step in steps] == session.recorder.steps
        assert " ".join(step["text"] for step in steps if step["action"] == "WRITE") == instance["prediction"]
        times = [step["time"] for step in steps]
        assert times == sorted(times) and 0 < times[-1] <= round(cost["seconds"], 6)


def test_trace_that_nobody_asked_for_is_not_written(evaluation, tmp_path):
    _, _, config = evaluation(**WAIT_2)
    stream(config, tmp_path, [Decision()])
    assert not list(tmp_path.glob("*/trace.jsonl"))


def test_memory_of_the_lanes_is_noted(evaluation, tmp_path):
    _, model, config = evaluation(**WAIT_2)
    stream(config, tmp_path, [Decision()])
    noted = json.loads((tmp_path / "output" / "memory.0.json").read_text())
    per_token = 2 * model.config.num_hidden_layers * model.config.num_key_value_heads * model.config.head_dim * 4
    assert noted == {"lanes": 2, "cache_bytes": 2 * 128 * per_token}
