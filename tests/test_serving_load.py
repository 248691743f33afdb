"""Many clients at once, and many after each other: nobody notices the others, and nothing is left of them."""

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import psutil
import pytest
from serving_driver import MAX_TARGET_TOKENS, events_of, receive, send, serving, streamed, translator_of

WAIT_2 = {"policy": "wait_k", "k": 2}
WORDS = "the dog cat abc xyz abcde cd".split()
DECISIONS = [
    WAIT_2,
    {"policy": "wait_k", "k": 5},
    {"policy": "read_n", "n": 2},
    {"policy": "offline"},
    {"policy": "confidence", "probability": 0.05},
]


def text_of(number, least=1, most=9):
    drawn = random.Random(number)
    return " ".join(drawn.choices(WORDS, k=drawn.randint(least, most)))


def alone(served, text, decision):
    return served.translator.translate(text, max_target_tokens=MAX_TARGET_TOKENS, **decision)


def typed(client, text, decision):
    """A session whose words arrive one by one."""
    send(client, "start", decision=decision)
    for word in text.split():
        send(client, "read", text=f"{word} ")
    send(client, "end")
    return events_of(client)


@pytest.mark.parametrize("lanes", [8, 32])
def test_each_of_32_clients_at_once_gets_what_it_gets_alone(model_of, with_ends, lanes):
    def client(number):
        decision, text = DECISIONS[number % len(DECISIONS)], text_of(number)
        with served.connect() as socket:
            return [(text, decision, typed(socket, text, decision)[-1]["text"]) for _ in range(2)]

    with serving(translator_of(model_of, with_ends, seed=1, **WAIT_2), lanes=lanes) as served:
        with ThreadPoolExecutor(32) as clients:
            results = [result for found in clients.map(client, range(32)) for result in found]
        assert len({text for *_, text in results}) > 20
        for text, decision, written in results:
            assert written == alone(served, text, decision)


def finishes(served, number):
    with served.connect() as client:
        for i in range(5):
            assert streamed(client, text_of(number + i, 1, 3))[-1]["type"] == "finished"


def cancels(served, number):
    with served.connect() as client:
        for _ in range(5):
            send(client, "start")
            send(client, "read", text=text_of(number))
            send(client, "cancel")
        assert streamed(client, "the")[-1]["type"] == "finished"


def goes_away(served, number):
    with served.connect() as client:
        send(client, "start")
        send(client, "read", text=text_of(number))


def asks_for_what_cannot_be(served, number):
    with served.connect() as client:
        send(client, "start", decision={"policy": "wait_k", "k": -number})
        assert receive(client)["type"] == "error"
        client.send("{")


def posts(served, number):
    assert served.post(text_of(number, 1, 3)).status_code == 200


def speaks(served, number):
    with served.connect("/mt") as client:
        send(client, "init", protocol_version=1, source_lang="en", target_lang="de")
        send(client, "update", utterance_id=0, words=[[word] for word in text_of(number).split()])
        send(client, "update", utterance_id=0, words=[], is_final=True)
        while not receive(client).get("final"):
            pass


CLIENTS = {finishes: 5, cancels: 6, goes_away: 1, asks_for_what_cannot_be: 1, posts: 1, speaks: 1}
"""What a client does, and how many sessions that takes."""


@pytest.mark.slow
def test_nothing_is_left_of_2000_sessions(model_of, with_ends):
    numbers = count()

    def serve(sessions):
        kinds = [kind for _ in range(sessions // sum(CLIENTS.values())) for kind in CLIENTS]
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda kind: kind(served, next(numbers)), kinds))
        served.post("the dog")
        gc.collect()
        return len(gc.get_objects()), psutil.Process().memory_info().rss

    with serving(translator_of(model_of, with_ends, **WAIT_2), lanes=8, max_target_tokens=4) as served:
        serve(300)
        objects, memory = serve(300)
        more_objects, more_memory = serve(2000)
        assert more_objects - objects < 500, "less than one for every fourth session"
        assert more_memory - memory < 24 * 2**20
