"""The command `simulmask serve`, as users start it."""

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from driving import error, write_model
from reference import settings_of


@pytest.fixture(scope="module")
def model(model_of, byte_level, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return write_model(
        folder, model_of("llama", len(byte_level), 0), byte_level, settings_of(policy="wait_k", k=[1, 3])
    )


def test_it_serves_until_it_is_ended_and_says_where(model):
    command = [sys.executable, "-m", "simulmask_plugin", "serve", str(model), "--policy", "wait_k", "--k", "3"]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            address = re.fullmatch(r"model\d+ is served at (http://127\.0\.0\.1:\d+)\n", line)[1]
            assert httpx.get(f"{address}/model").json()["default"] == {"policy": "wait_k", "k": 3}
            assert "event: finished" in httpx.post(f"{address}/translate", json={"text": "the dog"}).text
        finally:
            os.kill(server.pid, signal.SIGTERM)
        assert server.wait(30) == 128 + signal.SIGTERM
        assert server.stderr.read().splitlines()[-1] == "simulmask: ended by SIGTERM; what is finished is kept."


def test_a_model_that_does_not_say_how_to_stream_needs_a_policy(model, capsys):
    assert "choose a policy and its k or n" in error(capsys, "serve", model, "--port", "0")


@pytest.mark.parametrize(
    "option, message",
    [
        (("--lanes", "0"), "--lanes must be an integer of at least 1 and at most 1024, got 0."),
        (("--port", "70000"), "--port must be an integer of at least 0 and at most 65535, got 70000."),
        (("--message-bytes", "0"), "--message-bytes must be an integer of at least 1, got 0."),
        (("--idle", "0"), "--idle must be more than 0 seconds, got 0."),
    ],
)
def test_limits_that_leave_nothing_are_refused(model, capsys, option, message):
    assert error(capsys, "serve", model, *option) == message


def test_a_port_that_is_taken_is_an_error(model, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert "Address already in use" in error(
            capsys, "serve", model, "--policy", "wait_k", "--k", "1", "--port", port
        )
