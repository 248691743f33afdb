"""What `simulmask serve` refuses: pages of other sites, other names, what is too much, and what is no message."""

import re
import socket
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from serving_driver import events_of, receive, send, serving, streamed, translator_of
from websockets.exceptions import ConnectionClosed, InvalidStatus

WAIT_2 = {"policy": "wait_k", "k": 2}
TEXT = "the dog abc"


@pytest.fixture(scope="module")
def served(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2)) as served:
        yield served


def test_a_page_of_the_server_is_served(served):
    host = f"localhost:{served.port}"
    with served.connect(origin=f"http://127.0.0.1:{served.port}") as client:
        assert streamed(client, TEXT)[-1]["type"] == "finished"
    assert httpx.get(served.url("/model"), headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_a_page_of_another_site_is_refused(served, origin):
    with pytest.raises(InvalidStatus, match="403"):
        served.connect(origin=origin)
    answer = httpx.post(served.url("/translate"), content='{"text": "the"}', headers={"origin": origin})
    assert (answer.status_code, answer.text) == (403, f"A page of {origin!r} may not use this server.")


def test_a_name_that_somebody_else_pointed_here_is_refused(served):
    headers = {"host": "evil.example", "origin": "http://evil.example"}
    answer = httpx.get(served.url("/model"), headers=headers)
    assert answer.status_code == 403
    assert "--names evil.example" in answer.text


def test_answers_forbid_the_page_other_hosts(served):
    policy = httpx.get(served.url("/")).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy


FATAL = {
    "no JSON": ("{not json", "Expected JSON as text"),
    "nested": ("[" * 4000, "Expected JSON as text"),
    "bytes": (b"{}", "Expected JSON as text"),
    "no object": ("[1]", "Expected a JSON object"),
    "unknown type": ('{"type": ["start"]}', "type must be one of start, read, end, cancel, got \\['start'\\]"),
    "unknown key": ('{"type": "read", "words": "a"}', "read: unknown key 'words'; known keys: text"),
    "no name": ('{"type": "start", "session": ""}', "start: session must have 1 to 64 characters"),
    "wrong value": ('{"type": "read", "text": 1}', "read: text must be a text, got 1"),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_is_no_message_ends_the_connection_with_a_reason(served, name):
    message, reason = FATAL[name]
    with served.connect() as client, served.connect() as other:
        send(other, "start")
        client.send(message)
        error = receive(client)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=20)
        assert (error["type"], error["fatal"]) == ("error", True)
        assert re.search(reason, error["reason"])
        send(other, "read", text=TEXT)
        send(other, "end")
        assert events_of(other)[-1]["type"] == "finished"


def test_a_message_of_10_megabytes_ends_the_connection(served):
    with served.connect() as client:
        with pytest.raises(ConnectionClosed, match="1009 .*message too big"):
            send(client, "read", text="a" * 10_000_000)
            client.recv(timeout=20)
    answer = served.post("a" * 10_000_000)
    assert (answer.status_code, answer.json()) == (413, {"detail": "A request has at most 4096 bytes."})


REFUSED = {
    "no session": (["read"], "No session is open; start one."),
    "two sessions": (["start", "start"], "A session is open; end or cancel it before another one starts."),
    "after the end": (["start", "end", "read"], "The source is complete; start another session for more."),
    "ended twice": (["start", "end", "end"], "The source is complete; start another session for more."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_comes_at_the_wrong_time_is_refused_and_the_session_goes_on(served, name):
    kinds, reason = REFUSED[name]
    with served.connect() as client:
        for kind in kinds:
            send(client, kind, **({"text": TEXT} if kind == "read" else {}))
        error = receive(client)
        while error["type"] != "error":
            error = receive(client)
        assert error == {"type": "error", "reason": reason, "fatal": False}
        send(client, "cancel")
        client.recv(timeout=20) if name == "no session" else None
        assert streamed(client, TEXT)[-1]["type"] == "finished"


DECISIONS = {
    "policy": ({"policy": ["wait_k"]}, "unknown value"),
    "type": ({"policy": "wait_k", "k": "3"}, "k must be an integer"),
    "range": ({"policy": "wait_k", "k": 0}, "k must be an integer of at least 1"),
    "huge": ({"policy": "wait_k", "k": 1e400}, "k must be an integer"),
    "key": ({"beam_width": 1000}, "decision: unknown key 'beam_width'"),
    "latency": ({"latency": "low"}, "latency has no meaning for a model of layout: prefix"),
    "laal": ({"policy": "confidence", "laal": 3}, "was not calibrated"),
    "probe": ({"policy": "stability"}, "has none"),
    "heads": ({"policy": "alignatt"}, "has none"),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_what_the_model_cannot_do_ends_the_session_with_a_reason(served, name):
    decision, reason = DECISIONS[name]
    with served.connect() as client:
        send(client, "start", decision=decision)
        error = receive(client)
        assert reason in error["reason"] and not error["fatal"] and error["session"]
        assert streamed(client, TEXT)[-1]["type"] == "finished"
    if name != "huge":  # no JSON
        answer = served.post(TEXT, decision)
        assert (answer.status_code, reason in answer.json()["reason"]) == (422, True)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
key = st.sampled_from(["policy", "k", "n", "probability", "least", "latency", "laal", "read_threshold"])


@hypothesis_settings(max_examples=150)
@given(decision=st.dictionaries(key, anything | st.sampled_from(["wait_k", "confidence", "schedule"]), max_size=3))
def test_whatever_is_wished_for_is_granted_or_refused_with_a_reason(served, decision):
    with served.connect() as client:
        event = streamed(client, TEXT, decision)[-1]
        assert event["type"] == "finished" or not event["reason"].startswith("The model failed")


TOO_MUCH = {"words": "a " * 41, "word": "a" * 1001, "whole word": "a" * 1001 + " ", "flood": "a " * 2000}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_source_that_is_too_long_ends_the_session_with_a_reason(served, name):
    reason = "At most 40 words of at most 1000 characters go into a session."
    with served.connect() as client:
        send(client, "start")
        assert receive(client)["type"] == "started"
        send(client, "read", text=TOO_MUCH[name])
        error = receive(client)
        assert (error["reason"], error["fatal"]) == (reason, False) and error["session"]
        for _ in range(200):
            send(client, "read", text="a ")  # what was on its way
        assert streamed(client, TEXT)[-1]["type"] == "finished"
    answer = served.post(TOO_MUCH[name])
    assert (answer.status_code, answer.json()) == (422, {"reason": reason})


def test_a_session_with_too_many_tokens_ends_and_the_others_go_on(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2), max_keys=60) as served:
        with served.connect() as client, served.connect() as other:
            send(other, "start")
            error = streamed(client, "abcdexyz" * 40)[-1]
            assert error["reason"] == "The sentence has more than 60 tokens, both sides counted."
            send(other, "read", text=TEXT)
            send(other, "end")
            assert events_of(other)[-1]["type"] == "finished"


def test_more_clients_than_there_is_room_for_are_refused_with_a_reason(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2), clients=2) as served:
        reason = "The server has 2 clients, as many as it takes; try again later."
        with served.connect() as one, served.connect():
            with served.connect() as third:
                assert receive(third) == {"type": "error", "reason": reason, "fatal": True}
                with pytest.raises(ConnectionClosed, match="1013"):
                    third.recv(timeout=20)
            answer = served.post(TEXT)
            assert (answer.status_code, answer.json()) == (503, {"reason": reason})
            assert streamed(one, TEXT)[-1]["type"] == "finished"
        deadline = time.monotonic() + 20
        while served.post(TEXT).status_code != 200:
            assert time.monotonic() < deadline


def test_a_client_that_goes_frees_its_lane_for_the_next_in_line(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2), lanes=1) as served:
        with served.connect() as waiting:
            with served.connect() as client:
                send(client, "start")
                send(client, "read", text="the ")
                assert [receive(client)["type"] for _ in range(2)] == ["started", "read"]
                send(waiting, "start")
                send(waiting, "read", text=TEXT)
                send(waiting, "end")
                with pytest.raises(TimeoutError):
                    waiting.recv(timeout=0.1)
            assert events_of(waiting)[-1]["type"] == "finished"


def test_a_connection_on_which_nothing_happens_ends_with_a_reason(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2), lanes=1, idle=0.3) as served:
        with served.connect() as client:
            send(client, "start")
            assert receive(client)["type"] == "started"
            assert receive(client) == {
                "type": "error",
                "reason": "Nothing has happened for 0.3 seconds.",
                "fatal": True,
            }
        with served.connect() as client:
            assert streamed(client, TEXT)[-1]["type"] == "finished"


HALF_OPEN = {
    "silent": (b"", b"HTTP/1.1 408 Request Timeout\r\n"),
    "half a head": (b"POST /translate HTTP/1.1\r\nHost: localhost\r\n", b"HTTP/1.1 408 Request Timeout\r\n"),
    "no body": (
        b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 408 Request Timeout\r\n",
    ),
}


@pytest.mark.parametrize("name", HALF_OPEN)
def test_half_open_connections_end(model_of, with_ends, name):
    head, answer = HALF_OPEN[name]
    with serving(translator_of(model_of, with_ends, **WAIT_2), idle=0.3) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.settimeout(20)
            client.sendall(head)
            received = b""
            while part := client.recv(1000):
                received += part
            assert received.startswith(answer)
