"""The MT-server protocol, version 1: what recognition sends, and what WhisperLiveKit's own client makes of it."""

import json

import pytest
from serving_driver import MAX_TARGET_TOKENS, receive, serving, translator_of
from websockets.exceptions import ConnectionClosed
from whisperlivekit_client import load_client

WAIT_2 = {"policy": "wait_k", "k": 2}
WORDS = "the dog abc xyz cat".split()
INIT = {"type": "init", "protocol_version": 1, "source_lang": "en", "target_lang": "de"}


@pytest.fixture(scope="module")
def served(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, seed=1, **WAIT_2), max_target_tokens=40) as served:
        yield served


def alone(served, words, **options):
    return served.translator.translate(" ".join(words), max_target_tokens=40, **options)


def ask(client, **message):
    client.send(json.dumps(message))
    return receive(client)


def begin(client, **init):
    answer = ask(client, **INIT | init)
    assert answer["type"] == "init_ok"
    return answer


def update(client, words, seq=1, **more):
    """The answer to an update whose words have times, as recognition has them."""
    timed = [[word, 100.0 * i, 100.0 * i + 80] for i, word in enumerate(words)]
    return ask(client, type="update", seq=seq, utterance_id=0, words=timed, **more)


@pytest.mark.parametrize("path", ["/mt", "/"])
def test_an_utterance_grows_until_it_is_final(served, path):
    with served.connect(path) as client:
        assert begin(client) == {
            **{"type": "init_ok", "protocol_version": 1, "direction": "en-de", "preset": "wait_k-2", "model": "tiny"}
        }
        shown = ""
        for number in range(1, len(WORDS) + 1):
            answer = update(client, WORDS[:number], seq=number, clock_ms=100.0 * number)
            assert (answer["type"], answer["seq"], answer["final"]) == ("translation", number, False)
            assert answer["committed_text"] == shown + answer["committed_delta"]
            assert answer["covered_source_units"] == (number if number > 1 else None)
            shown = answer["committed_text"]
        assert shown
        answer = update(client, WORDS, seq=9, is_final=True)
        assert (answer["final"], answer["committed_text"]) == (True, alone(served, WORDS))
        assert answer["committed_text"] == shown + answer["committed_delta"]
        second = ask(client, type="update", seq=10, utterance_id=1, words=[["cat", None, None]], is_final=True)
        assert second["committed_text"] == alone(served, ["cat"])


def test_words_that_recognition_revises_are_read_as_they_were_and_counted(served):
    with served.connect("/mt") as client:
        begin(client)
        first = update(client, ["the", "dog", "abc"])
        assert first["revised_source_words"] == 0
        second = update(client, ["the", "cat", "abcde", "xyz"])
        assert second["committed_text"].startswith(first["committed_text"])
        assert second["revised_source_words"] == 2
        last = update(client, ["the", "cat"], is_final=True)
        assert last["revised_source_words"] == 3, "of the words that were read, one is another and two are gone"
        assert last["committed_text"] == alone(served, ["the", "dog", "abc", "xyz"])


def test_the_tail_is_not_read(served):
    with served.connect("/mt") as client:
        begin(client)
        answer = update(client, ["the"], tail={"words": [["dog", None, None], ["abc", None, None]]})
        assert (answer["committed_text"], answer["buffer_text"]) == ("", "")


def test_updates_that_came_too_fast_are_answered_by_the_last_one_and_finals_never_left_out(served):
    with served.connect("/mt") as client:
        begin(client)
        for number in range(1, 40):
            utterance, words = divmod(number - 1, 3)
            message = {"seq": number, "utterance_id": utterance, "words": [[word] for word in WORDS[: words + 1]]}
            client.send(json.dumps({"type": "update", "is_final": words == 2, **message}))
        answers = [receive(client)]
        while answers[-1]["seq"] < 39:
            answers.append(receive(client))
        finals = [answer for answer in answers if answer["final"]]
        assert [answer["utterance_id"] for answer in finals] == list(range(13))
        assert {answer["committed_text"] for answer in finals} == {alone(served, WORDS[:3])}
        assert [answer["seq"] for answer in answers] == sorted(answer["seq"] for answer in answers)


def test_a_preset_is_the_name_of_a_run(served):
    with served.connect("/mt") as client:
        assert begin(client, preset="read_n-3")["preset"] == "read_n-3"
        assert update(client, WORDS, is_final=True)["committed_text"] == alone(served, WORDS, policy="read_n", n=3)


def test_after_a_reconnect_nothing_is_taken_back(served):
    with served.connect("/mt") as client:
        begin(client)
        shown = update(client, WORDS)["committed_text"]
    with served.connect("/mt") as client:
        begin(client, accepted_target_prefix=shown, history=[["a", "b"]], overrides={"unknown": 1}, context_text="c")
        answer = ask(client, type="update", seq=1, utterance_id=7, words=[[WORDS[0], 0.0, 1.0]])
        assert (answer["utterance_id"], answer["committed_text"], answer["committed_delta"]) == (7, shown, "")
        answer = ask(client, type="update", seq=2, utterance_id=7, words=[[word] for word in WORDS], is_final=True)
        assert answer["committed_text"] == shown + answer["committed_delta"] == alone(served, WORDS)


def test_an_utterance_without_end_is_ended(served):
    with served.connect("/mt") as client:
        begin(client)
        answer = update(client, ["a"] * 41)
        assert (answer["final"], answer["forced_final"]) == (True, True)
        assert answer["committed_text"] == alone(served, ["a"] * 41)


def test_silence_is_translated_by_nothing(served):
    with served.connect("/mt") as client:
        begin(client)
        for is_final in (False, True):
            assert update(client, [], is_final=is_final)["committed_text"] == ""


REFUSED = {
    "version": ({"protocol_version": 2}, "bad_protocol", "protocol_version must be 1, got 2."),
    "type": ({"type": "update"}, "bad_protocol", "type must be init, got 'update'."),
    "direction": ({"target_lang": "fr"}, "unsupported_direction", "en-fr is none of en-de."),
    "source": ({"source_lang": "de"}, "unsupported_direction", "de-de is none of en-de."),
    "preset": ({"preset": "gemma_low_latency"}, "bad_protocol", "preset: 'gemma_low_latency' is no name of a run"),
    "policy": ({"preset": "stability"}, "bad_protocol", "policy: stability needs a probe"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_begun_is_refused_with_a_code(served, name):
    init, code, message = REFUSED[name]
    with served.connect("/mt") as client:
        answer = ask(client, **INIT | init)
        assert (answer["type"], answer["code"]) == ("error", code)
        assert answer["message"].startswith(message)
        assert answer.get("supported") == (["en-de"] if code == "unsupported_direction" else None)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=20)


@pytest.mark.parametrize("source_lang", ["auto", "", "English", "EN"])
def test_languages_are_codes_or_names_and_the_source_may_be_unknown(served, source_lang):
    with served.connect("/mt") as client:
        begin(client, source_lang=source_lang, target_lang="German")


def test_an_update_that_is_none_is_refused_and_the_session_goes_on(served):
    with served.connect("/mt") as client:
        begin(client)
        assert update(client, WORDS[:2], is_final=True)["final"]
        closed = update(client, WORDS, seq=2)
        assert (closed["code"], closed["seq"]) == ("bad_protocol", 2)
        assert closed["message"] == "Utterance 0 is closed."
        wrong = ask(client, type="update", seq=3, utterance_id=1, words="the dog")
        assert (wrong["code"], wrong["message"]) == ("bad_protocol", "update.words must be a list, got 'the dog'.")
        long = ask(client, type="update", seq=4, utterance_id=1, words=[["a" * 1001]])
        assert (long["code"], long["message"]) == ("bad_protocol", "A word has at most 1000 characters.")
        answer = ask(client, type="update", seq=5, utterance_id=1, words=[["cat"]], is_final=True)
        assert answer["committed_text"] == alone(served, ["cat"])


def test_an_update_that_fails_is_dropped_and_may_be_sent_again(model_of, with_ends):
    translator = translator_of(model_of, with_ends, **WAIT_2)
    with serving(translator, max_keys=60) as served, served.connect("/mt") as client:
        begin(client)
        answer = update(client, ["abcdexyz" * 40, "b"], is_final=True)
        assert (answer["code"], answer["seq"]) == ("processing_failed", 1)
        assert "more than 60 tokens" in answer["message"]
        answer = update(client, WORDS[:2], is_final=True)
        expected = translator.translate(" ".join(WORDS[:2]), max_target_tokens=MAX_TARGET_TOKENS)
        assert answer["committed_text"] == expected


def test_a_client_for_whom_there_is_no_room_is_told_so(model_of, with_ends):
    with serving(translator_of(model_of, with_ends, **WAIT_2), clients=1) as served:
        with served.connect("/mt"), served.connect("/mt") as second:
            assert receive(second)["code"] == "busy"


def client_of(served, latency="balanced"):
    """WhisperLiveKit's client, and how it tells of words."""
    alignatt, timed = load_client()
    engine = alignatt.AlignAttRemoteEngine(
        url=served.url("", "ws"), source_language="en", preset="wait_k-2", latency=latency
    )

    def tokens(*words):
        return [timed.ASRToken(start=i, end=i + 0.5, text=f" {word}") for i, word in enumerate(words)]

    return engine.new_session("de"), tokens, timed


@pytest.mark.parametrize("latency", ["quality", "balanced", "low"])
def test_the_client_of_whisperlivekit_shows_what_is_committed(served, latency):
    client, tokens, timed = client_of(served, latency)
    client.insert_tokens([*tokens("the", "dog"), timed.HypothesisTail(start=2, end=3, text="abc xyz")])
    translation, buffer = client.process()
    assert translation is None
    whole = alone(served, ["the", "dog", "abc."])
    assert buffer.text and whole.startswith(buffer.text)
    client.insert_tokens(tokens("abc."))
    translation, buffer = client.process()
    assert (translation.text, buffer.text) == (whole, "")
    client.insert_tokens(tokens("cat", "xyz."))
    assert client.process()[0].text == alone(served, ["cat", "xyz."])
    client._ws.close()


def test_the_client_of_whisperlivekit_comes_back_after_a_lost_connection(served):
    client, tokens, _ = client_of(served)
    client.insert_tokens(tokens("the", "dog", "abc"))
    shown = client.process()[1].text
    assert shown
    client._ws.close()
    client.insert_tokens(tokens("cat"))
    assert client.process()[1].text == shown, "it has noticed, and waits"
    client._retry_at = 0.0
    client.insert_tokens(tokens("xyz"))
    again = client.process()[1].text
    assert again.startswith(shown) and len(again) > len(shown)
    client.insert_tokens(tokens("."))
    assert client.process()[0].text == alone(served, ["the", "dog", "abc", "cat", "xyz", "."])
    client._ws.close()


def test_the_client_of_whisperlivekit_goes_on_after_a_silence(served):
    client, tokens, _ = client_of(served)
    client.insert_tokens(tokens("the", "dog", "abc"))
    shown = client.process()[1].text
    validated, _ = client.validate_buffer_and_reset()
    assert validated.text == shown
    client.insert_tokens(tokens("cat", "xyz"))
    assert client.process()[0].text == alone(served, ["the", "dog", "abc"])
    assert alone(served, ["cat", "xyz", "the"]).startswith(client.process()[1].text)
    client._ws.close()
