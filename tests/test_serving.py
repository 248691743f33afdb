"""`simulmask serve`: what its clients get is what the model does alone."""

import re
import time

import httpx
import pytest
from serving_driver import MAX_TARGET_TOKENS, events_of, receive, send, server_sent, serving, streamed, translator_of

from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.pool import Pool

WAIT_2 = {"policy": "wait_k", "k": 2}
TEXT = "the dog abc xyz cat abcde"


@pytest.fixture(scope="module")
def served(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2)) as served:
        yield served


def alone(served, text, **options):
    """READs and WRITEs, each with g, and the text."""
    steps, g, done = served.translator.stream(text, max_target_tokens=MAX_TARGET_TOKENS, **options), 0, []
    for action, what in steps:
        g += action is Action.READ
        done.append((action.value.lower(), what, g))
    return done, " ".join(what for action, what, _ in done if action == "write")


def what_happened(events):
    return [(one["type"], one.get("unit" if one["type"] == "read" else "text").strip(), one["g"]) for one in events]


@pytest.mark.parametrize("decision", [None, {"policy": "wait_k", "k": 1}, {"policy": "read_n", "n": 3}])
def test_a_client_sees_what_the_model_does_alone(served, decision):
    with served.connect() as client:
        first, *events, last = streamed(client, TEXT, decision)
    steps, text = alone(served, TEXT, **(decision or {}))
    assert (first["type"], first["decision"]) == ("started", decision or WAIT_2)
    assert what_happened(events) == steps
    assert last["text"] == text == "".join(one["text"] for one in events if one["type"] == "write")
    assert [one["unit"] for one in events if one["type"] == "write"] == list(range(1, last["units"] + 1))


def without_times(events):
    return [{key: value for key, value in event.items() if key not in ("ms", "session")} for event in events]


def test_server_sent_events_are_those_of_the_socket(served):
    decision = {"policy": "wait_k", "k": 1}
    answer = served.post(TEXT, decision)
    assert answer.headers["content-type"].startswith("text/event-stream")
    with served.connect() as client:
        assert without_times(server_sent(answer)) == without_times(streamed(client, TEXT, decision))


def test_the_paths_are_described(served):
    description = httpx.get(served.url("/openapi.json")).json()
    assert set(description["paths"]) == {"/model", "/translate"}
    translate = description["paths"]["/translate"]["post"]
    assert list(translate["responses"]["200"]["content"]) == ["text/event-stream"]
    events = re.findall(r"\*\*(\w+)\*\*", translate["description"])
    assert {event["type"] for event in server_sent(served.post(TEXT))} | {"error"} == set(events)


def test_words_are_read_as_soon_as_they_have_arrived(served):
    with served.connect() as client:
        send(client, "start")
        assert receive(client)["type"] == "started"
        send(client, "read", text="the do")
        assert receive(client)["unit"] == "the"
        send(client, "read", text="g a")
        event = receive(client)
        assert (event["type"], event["unit"], event["g"]) == ("read", "dog", 2)
        event = receive(client)
        assert (event["type"], event["unit"], event["g"]) == ("write", 1, 2)
        send(client, "end")
        assert events_of(client)[-1]["text"] == alone(served, "the dog a")[1]


def test_every_event_has_the_name_that_the_client_gave_the_session(served):
    with served.connect() as client:
        send(client, "start", session="mine")
        send(client, "cancel")
        send(client, "start", session="mine, too")
        send(client, "read", text=TEXT)
        send(client, "end")
        events = [event for event in events_of(client) if event["session"] != "mine"]
        assert {event["type"] for event in events} == {"started", "read", "write", "finished"}
        assert {event["session"] for event in events} == {"mine, too"}


def test_a_model_that_fails_ends_the_session_with_a_message_and_the_others_go_on(served):
    (bad,) = served.translator.encoder.source_units("cat", before="the")

    def fail(module, args, kwargs):
        if (kwargs["input_ids"] == bad[-1]).any():
            raise RuntimeError("out of memory")

    with served.connect() as client, served.connect() as other:
        send(other, "start")
        send(other, "read", text="the dog ")
        handle = served.translator.model.register_forward_pre_hook(fail, with_kwargs=True)
        try:
            error = streamed(client, "the cat")[-1]
            send(other, "read", text="abc")
            send(other, "end")
            assert events_of(other)[-1]["text"] == alone(served, "the dog abc")[1]
        finally:
            handle.remove()
        assert error["reason"] == "The model failed (RuntimeError: out of memory)."
        assert not error["fatal"]
        assert streamed(client, "the cat")[-1]["text"] == alone(served, "the cat")[1]


def test_the_engine_sleeps_while_nobody_has_anything_to_be_fed(served, monkeypatch):
    steps, step = [], Pool.step
    monkeypatch.setattr(Pool, "step", lambda pool: steps.append(1) or step(pool))
    with served.connect() as client:
        send(client, "start")
        send(client, "read", text="the ")
        assert [receive(client)["type"] for _ in range(2)] == ["started", "read"]
        time.sleep(0.2)
        before = len(steps)
        time.sleep(0.5)
        assert len(steps) == before > 0
        send(client, "end")
        assert events_of(client)[-1]["type"] == "finished"


def test_the_page_and_the_model_are_described(served):
    assert "<title>" in httpx.get(served.url("/")).text
    info = httpx.get(served.url("/model")).json()
    assert (info["name"], info["family"], info["layout"], info["default"]) == ("tiny", "llama", "prefix", WAIT_2)
    assert info["languages"] == [["English", "German"]]
    assert [one["policy"] for one in info["policies"]][:3] == ["wait_k", "read_n", "offline"]
    (k,) = info["policies"][0]["parameters"]
    assert k == {"name": "k", "type": "integer", "least": 1, "most": 40, "default": 2, "step": 1}
