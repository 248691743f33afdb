"""The page of `simulmask serve`, in a real browser, on a real server with a tiny model."""

import json
import random
import re
from contextlib import ExitStack, contextmanager

import pytest
from browsing import LONGEST, expected, visiting
from serving_driver import MAX_TARGET_TOKENS, serving, translator_of

WORDS = "the dog abc cat xyz dog".split()
TEXT = " ".join(WORDS)
K = 2


@pytest.fixture(scope="module")
def translator(model_of, byte_level):
    return translator_of(model_of, byte_level, policy="wait_k", k=K)


@pytest.fixture(scope="module")
def server(translator):
    with serving(translator, words=320, message_bytes=1000, max_target_tokens=LONGEST) as served:
        yield served


@pytest.fixture
def visit(browser, server):
    """The page, which asks nothing of another host and gives the browser no reason to complain."""
    with visiting(browser, server.url("/")) as visit:
        yield visit
        assert visit.hosts == {f"127.0.0.1:{server.port}"}
        assert visit.faults == []


def test_a_word_is_sent_when_white_space_follows_it(visit):
    visit.text.press_sequentially("the do")
    visit.waits_for_step("READ", 1)
    visit.text.press_sequentially("g ")
    visit.waits_for_step("READ", 2)
    assert [step[:3] for step in visit.steps()][:2] == [["READ", "the", "1"], ["READ", "dog", "2"]]


def test_a_sentence_is_translated_word_by_word_as_it_is_typed(visit, translator):
    for number, word in enumerate(WORDS[:-1], 1):
        visit.text.press_sequentially(f"{word} ")
        if number >= K:  # a unit is written for every word that is read
            visit.waits_for_step("WRITE", number - K + 1)
    visit.text.press_sequentially(WORDS[-1])
    visit.text.press("Enter")
    visit.waits_for("finished")
    assert visit.translation() == expected(translator, TEXT)
    assert [int(step[2]) for step in visit.steps() if step[0] == "WRITE"][:3] == [2, 3, 4]


def test_what_was_changed_after_it_was_read_is_read_again(visit, translator):
    visit.text.press_sequentially("the cat ")
    visit.waits_for_step("READ", 2)
    visit.text.fill("the dog abc ")
    visit.button("End the source").click()
    visit.waits_for("finished")
    assert visit.translation() == expected(translator, "the dog abc")


def test_another_k_begins_again_with_what_has_arrived(visit, translator):
    visit.text.press_sequentially(f"{TEXT} ")
    visit.waits_for_step("WRITE", len(WORDS) - K + 1)
    field = visit.lane().get_by_label("k", exact=True)
    field.fill("1")
    field.press("Enter")
    visit.text.press("Enter")
    visit.waits_for_finished(1)
    assert visit.translation() == expected(translator, TEXT, policy="wait_k", k=1)
    field.fill("3")
    field.press("Enter")
    visit.waits_for_finished(2)
    assert visit.translation() == expected(translator, TEXT, policy="wait_k", k=3)
    assert [line[1] for line in visit.finished()] == ["wait-k, k 3", "wait-k, k 1"]


def test_two_policies_translate_the_same_text_side_by_side(visit, translator):
    visit.text.press_sequentially(f"{TEXT} ")
    visit.button("Compare with a second policy").click()
    visit.choose("Policy", "offline", lane=1)
    visit.text.press("Enter")
    visit.waits_for_finished(2)
    assert visit.translation(0) == expected(translator, TEXT)
    assert visit.translation(1) == expected(translator, TEXT, policy="offline")
    left, right = (visit.lane(number).bounding_box() for number in (0, 1))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
    visit.button("Remove").click()
    assert visit.page.locator(".lane").count() == 1
    assert visit.focused() == "Compare with a second policy"


def test_300_words_are_pasted(visit, translator):
    text = " ".join(random.Random(0).choices(WORDS, k=300))
    visit.choose("Policy", "offline")
    visit.text.focus()
    visit.page.keyboard.insert_text(text)
    visit.text.press("Enter")
    visit.waits_for_finished(1)
    assert visit.translation() == expected(translator, text, policy="offline")
    assert len(visit.translation()[0]) == 300


def test_a_file_is_played_line_by_line(visit, translator):
    lines = ["the dog", "abc cat xyz"]
    content = "\n\n".join(lines).encode()
    visit.page.locator("#file").set_input_files({"name": "two.txt", "mimeType": "text/plain", "buffer": content})
    visit.page.get_by_text("two.txt: 2 lines, each a sentence. Press Play.").wait_for()
    assert visit.focused() == "Play"
    visit.page.get_by_label("words per second").fill("50")
    visit.page.keyboard.press("Tab")
    visit.button("Play").click()
    visit.page.get_by_text("Played to the end.").wait_for()
    played = [(line[0].strip(), line[2]) for line in visit.finished()]
    assert played == [(line, expected(translator, line)[1]) for line in reversed(lines)]


def test_playing_takes_its_time_and_can_be_stopped(visit):
    visit.text.fill(TEXT)
    visit.page.get_by_label("words per second").fill("0.5")
    visit.button("Play").click()
    visit.waits_for_step("READ", 1)
    visit.button("Stop").click()
    visit.page.get_by_text("Stopped.").wait_for()
    assert len(visit.part("read").text_content().split()) < len(WORDS)
    assert visit.text.is_editable()


def test_a_connection_that_was_lost_comes_back_and_the_text_is_kept(browser, translator):
    running = ExitStack()
    first = running.enter_context(serving(translator, max_target_tokens=LONGEST))
    with running, visiting(browser, first.url("/")) as visit:
        visit.text.press_sequentially("the dog ")
        visit.waits_for_step("READ", 2)
        running.close()
        visit.page.get_by_text("Connection lost. Your text is kept").wait_for()
        visit.waits_for("lost")
        visit.text.press_sequentially("abc ")
        with serving(translator, max_target_tokens=LONGEST, port=first.port):
            visit.button("Try now").click()
            visit.page.get_by_text("Connected", exact=True).wait_for()
            visit.waits_for_step("READ", 3)
            visit.text.press("Enter")
            visit.waits_for_finished(1)
            assert visit.translation() == expected(translator, "the dog abc")
            visit.page.get_by_label("words per second").fill("50")
            visit.button("Play").click()
            visit.waits_for_finished(2)
            assert visit.translation() == expected(translator, "the dog abc")


def test_a_connection_rests_while_nothing_happens_and_wakes_with_the_next_word(browser, translator):
    with serving(translator, idle=1) as served, visiting(browser, served.url("/")) as visit:
        visit.text.press_sequentially("the ")
        visit.page.get_by_text("Resting. Nothing has happened for 1 seconds.").wait_for()
        visit.text.press_sequentially("dog ")
        visit.waits_for_step("READ", 2)


def test_a_client_for_whom_there_is_no_room_is_told_and_tries_again(browser, translator):
    with serving(translator, clients=1) as served, ExitStack() as leaving:
        first = leaving.enter_context(visiting(browser, served.url("/")))
        first.page.get_by_text("Connected", exact=True).wait_for()
        with visiting(browser, served.url("/")) as second:
            second.page.get_by_text("Connection lost. The server has 1 client").wait_for()
            leaving.close()
            second.page.get_by_text("Connected", exact=True).wait_for()


def test_characters_are_sent_as_they_are_typed(browser, model_of, byte_level):
    characters = translator_of(model_of, byte_level, policy="wait_k", k=K, source_units="character")
    with serving(characters) as served, visiting(browser, served.url("/")) as visit:
        visit.text.press_sequentially("我们是abc")
        visit.waits_for_step("READ", 2)
        visit.text.press_sequentially("d中")
        visit.text.press("Enter")
        visit.waits_for_finished(1)
        reads, text = visit.translation()
        assert reads == ["我", "们", "是", "abcd", "中"][: len(reads)]
        assert text == characters.translate("我们是abcd中", max_target_tokens=MAX_TARGET_TOKENS).strip()


def test_words_of_several_units_are_as_wide_as_they_are(browser, model_of, byte_level):
    tokens = translator_of(model_of, byte_level, policy="wait_k", k=K, source_units="token")
    with serving(tokens, max_target_tokens=LONGEST) as served, visiting(browser, served.url("/")) as visit:
        visit.text.fill("the house abcde")
        visit.text.press("Enter")
        visit.waits_for_finished(1)
        assert visit.translation() == expected(tokens, "the house abcde")
        *_, last = (int(step[2]) for step in visit.steps() if step[0] == "READ")
        assert last > 3
        name = visit.lane().get_by_role("img").get_attribute("aria-label")
        assert name.startswith(f"Staircase: {last} tokens read, ")


def test_errors_are_told_in_words(visit):
    field = visit.lane().get_by_label("k", exact=True)
    field.fill("0")
    field.press("Enter")
    visit.lane().get_by_role("alert").get_by_text("k must be a whole number from 1 to 320.").wait_for()
    field.fill("2")
    field.press("Enter")
    visit.text.fill("the " * 321)
    visit.lane().get_by_role("alert").get_by_text("At most 320 words").wait_for()
    visit.text.fill("the dog ")
    visit.waits_for_step("READ", 2)
    assert visit.part("problem").is_hidden()


@contextmanager
def opening(browser, server):
    """A page that does not know its model yet, and what lets it know."""
    with visiting(browser, server.url("/")) as visit:
        held = []
        visit.page.route("**/model", lambda route: held.append(route))
        with visit.page.expect_request("**/model"):
            visit.page.reload()
        assert visit.page.locator(".lane").count() == 0
        yield visit, lambda: held[0].continue_()


def test_what_was_typed_while_the_page_was_opened_is_read(browser, server):
    with opening(browser, server) as (visit, go_on):
        visit.text.press_sequentially("the dog ")
        go_on()
        visit.waits_for_step("READ", 2)


def test_an_enter_while_the_page_was_opened_ends_the_source(browser, server, translator):
    with opening(browser, server) as (visit, go_on):
        visit.text.fill(TEXT)
        visit.text.press("Enter")
        go_on()
        visit.waits_for_finished(1)
        assert visit.translation() == expected(translator, TEXT)
        assert visit.text.input_value() == TEXT


def test_text_is_never_markup(visit):
    visit.text.fill("<b>the</b> <img src=x> ")
    visit.waits_for_step("READ", 3)
    assert [step[1] for step in visit.steps() if step[0] == "READ"] == ["<b>the</b>", "<img", "src=x>"]
    visit.text.fill("<i>the</i> " * 321)
    visit.lane().get_by_role("alert").wait_for()
    assert visit.page.locator(".lanes :is(b, i, img)").count() == 0


def test_what_the_server_says_of_a_session_that_was_left_changes_nothing(browser, server, translator):
    """Nor is a reason markup."""

    def meddle(client):
        honest = client.connect_to_server()

        @honest.on_message
        def forward(text):
            message = json.loads(text)
            client.send(json.dumps(message | {"session": "0"}))
            client.send(json.dumps({"type": "error", "reason": "<b>no</b>", "fatal": False}))
            client.send(text)

    with visiting(browser, server.url("/")) as visit:
        visit.page.route_web_socket(re.compile("/stream$"), meddle)
        visit.page.reload()
        visit.text.fill(TEXT)
        visit.text.press("Enter")
        visit.waits_for_finished(1)
        assert visit.translation() == expected(translator, TEXT)
        assert visit.part("problem").text_content() == "<b>no</b>"
