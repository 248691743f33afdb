"""The same words through every way into a model give the same text and the same g."""

import json

import pytest
from driving import agent_of, encoder_of, write_model
from serving_driver import receive, send, server_sent, serving, streamed
from simuleval.data.segments import TextSegment
from whisperlivekit_client import load_client

from simulmask_plugin.policies import Action
from simulmask_plugin.streaming.translator import Translator
from simulmask_plugin.text.units import split_units

WAIT_2 = {"policy": "wait_k", "k": 2}
WORDS = "the dog abc xyz cat abcde dog."
MOST_TOKENS = 60
CHARACTERS = "我们是abc中国我们人。"
MODELS = {
    "prefix": (WAIT_2, {"policy": "wait_k", "k": 1}, WORDS),
    "characters": ({**WAIT_2, "source_units": "character", "target_units": "character"}, WAIT_2, CHARACTERS),
    "tokens": ({**WAIT_2, "target_units": "token"}, {"policy": "read_n", "n": 2}, WORDS),
    "slots": ({**WAIT_2, "layout": "slots", "slot_length": 3}, WAIT_2, WORDS),
    "turns": ({**WAIT_2, "layout": "turns"}, WAIT_2, WORDS),
    "interleaved": ({"layout": "interleaved"}, {"policy": "model_driven", "read_threshold": 0.004}, WORDS),
    "confidence": (WAIT_2, {"policy": "confidence", "probability": 0.05, "least": 1, "most": 3}, WORDS),
}


class Way:
    """What was written, each character with the number of words that had been read, and the text if a way has that."""

    def __init__(self):
        self.num_read, self.written, self.text = 0, [], None

    def read(self):
        self.num_read += 1

    def write(self, text):
        of_one_byte = filter(str.isascii, text.replace(" ", ""))  # a token may be a part of any other
        self.written += [(character, self.num_read) for character in of_one_byte]

    def take(self, events):
        for event in events:
            if event["type"] == "read":
                self.read()
            elif event["type"] == "write":
                self.write(event["text"])
        self.text = events[-1]["text"]
        return self


def from_python(served, words, decision, folder):
    way = Way()
    for action, text in served.translator.stream(words, max_target_tokens=MOST_TOKENS, **decision):
        way.read() if action is Action.READ else way.write(text)
    return way


def from_socket(served, words, decision, folder):
    with served.connect() as client:
        return Way().take(streamed(client, " ".join(words), decision))


def from_socket_word_by_word(served, words, decision, folder):
    events = []
    with served.connect() as client:
        send(client, "start", decision=decision)
        for word in words:
            send(client, "read", text=word + " ")
            events.append(receive(client))
        send(client, "end")
        while events[-1]["type"] != "finished":
            events.append(receive(client))
    return Way().take(events)


def from_server_sent_events(served, words, decision, folder):
    return Way().take(server_sent(served.post(" ".join(words), decision)))


def from_speech(served, words, decision, folder):
    """Each word as recognition commits it; WhisperLiveKit itself closes the utterance at the full stop."""
    alignatt, timed = load_client()
    name = served.service.info["default"]
    assert name == decision | name, "the server's own decision"
    engine = alignatt.AlignAttRemoteEngine(
        url=served.url("/mt", "ws"), source_language="en", preset=None, latency="balanced"
    )
    client, way, shown = engine.new_session("de"), Way(), ""
    for i, word in enumerate(words):
        client.insert_tokens([timed.ASRToken(start=i, end=i + 0.5, text=" " + word)])
        translation, buffer = client.process()
        text = translation.text if translation is not None else buffer.text
        assert text.startswith(shown)
        way.read()
        way.write(text.removeprefix(shown))
        shown = text
    assert translation is not None, "the last word has ended the utterance"
    client._ws.close()
    return way


def from_agent(served, words, decision, folder):
    write_model(
        folder, served.translator.model, served.translator.encoder.tokenizer, served.translator.encoder.settings
    )
    flags = [part for key, value in decision.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    limit = ("--max-target-tokens", str(MOST_TOKENS), "--trace-log", str(folder / "trace"))
    agent = agent_of(folder, *["--read-n" if flag == "--n" else flag for flag in flags], *limit)
    for word in words:
        agent.pushpop(TextSegment(content=word, finished=word == words[-1]))
    way = Way()
    for step in json.loads((folder / "trace").read_text())["steps"]:
        way.read() if step["action"] == "READ" else way.write(step["text"])
    return way


WAYS = [from_socket, from_socket_word_by_word, from_server_sent_events, from_speech, from_agent]


@pytest.fixture(scope="module", params=MODELS)
def model(request, model_of, with_ends):
    block, decision, text = MODELS[request.param]
    translator = Translator(model_of("llama", len(with_ends), 0), encoder_of(with_ends, **block))
    with serving(translator, decision=decision, max_target_tokens=MOST_TOKENS) as served:
        yield served, split_units(text, served.service.unit), decision


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_text_and_the_same_g(model, way, tmp_path):
    served, words, decision = model
    expected = from_python(served, words, decision, tmp_path)
    assert len(expected.written) > 3 and len({g for _, g in expected.written}) > 1
    found = way(served, words, decision, tmp_path)
    assert found.written == expected.written
    text = served.translator.translate(" ".join(words), max_target_tokens=MOST_TOKENS, **decision)
    assert found.text in (text, None)
