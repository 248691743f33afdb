"""The page of `simulmask serve`, in a real browser, on a real server with a tiny model."""

import json
import random
import runpy
from contextlib import ExitStack
from pathlib import Path

import pytest
from browsing import DARK, LIGHT, PHONE, browsing, visiting
from serving_driver import serving, translator_of

from simulmask_plugin.policies import Action

WORDS = "the dog abc cat xyz dog".split()
TEXT = " ".join(WORDS)
K = 2
LONGEST = 60


@pytest.fixture(scope="module")
def translator(model_of, byte_level):
    return translator_of(model_of, byte_level, policy="wait_k", k=K)


@pytest.fixture(scope="module")
def server(translator):
    with serving(translator, words=320, max_target_tokens=LONGEST) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture
def visit(browser, server):
    """The page, which asks nothing of another host and gives the browser no reason to complain."""
    with visiting(browser, server.url("/")) as visit:
        yield visit
        assert visit.hosts == {f"127.0.0.1:{server.port}"}
        assert visit.faults == []


def expected(translator, text, policy="wait_k", **options):
    """The words that the same model reads, and what it writes, without a server."""
    options = {"policy": policy, "max_target_tokens": LONGEST, **options}
    reads = [step.text for step in translator.stream(text, **options) if step.action is Action.READ]
    return reads, translator.translate(text, **options).strip()


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
    assert visit.translation() == expected(translator, TEXT, k=K)
    assert [int(step[2]) for step in visit.steps() if step[0] == "WRITE"][:3] == [2, 3, 4]


def test_what_was_changed_after_it_was_read_is_read_again(visit, translator):
    visit.text.press_sequentially("the cat ")
    visit.waits_for_step("READ", 2)
    visit.text.fill("the dog abc ")
    visit.button("End the source").click()
    visit.waits_for("finished")
    assert visit.translation() == expected(translator, "the dog abc", k=K)


def test_another_k_begins_again_with_what_has_arrived(visit, translator):
    visit.text.press_sequentially(f"{TEXT} ")
    visit.waits_for_step("WRITE", len(WORDS) - K + 1)
    field = visit.lane().get_by_label("k", exact=True)
    field.fill("1")
    field.press("Enter")
    visit.text.press("Enter")
    visit.waits_for_finished(1)
    assert visit.translation() == expected(translator, TEXT, k=1)
    field.fill("3")
    field.press("Enter")
    visit.waits_for_finished(2)
    assert visit.translation() == expected(translator, TEXT, k=3)
    assert [line[1] for line in visit.finished()] == ["wait-k, k 3", "wait-k, k 1"]


def test_two_policies_translate_the_same_text_side_by_side(visit, translator):
    visit.text.press_sequentially(f"{TEXT} ")
    visit.button("Compare with a second policy").click()
    visit.choose("Policy", "offline", lane=1)
    visit.text.press("Enter")
    visit.waits_for_finished(2)
    assert visit.translation(0) == expected(translator, TEXT, k=K)
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
    assert played == [(line, expected(translator, line, k=K)[1]) for line in reversed(lines)]
    times = [float(step[4].removesuffix(" ms")) for step in visit.steps() if step[0] == "READ"]
    assert times[2] > 2 * 1000 / 50 - 10, "a word was read before it had been played"


def test_playing_can_be_stopped(visit):
    visit.text.fill(TEXT)
    visit.page.get_by_label("words per second").fill("0.5")
    visit.button("Play").click()
    visit.button("Stop").click()
    visit.page.get_by_text("Stopped.").wait_for()
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
            assert visit.translation() == expected(translator, "the dog abc", k=K)
            visit.page.get_by_label("words per second").fill("50")
            visit.button("Play").click()
            visit.waits_for_finished(2)
            assert visit.translation() == expected(translator, "the dog abc", k=K)


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


def test_what_was_typed_while_the_page_was_opened_is_read(browser, server):
    with visiting(browser, server.url("/")) as visit:
        held = []
        visit.page.route("**/model", lambda route: held.append(route))
        with visit.page.expect_request("**/model"):
            visit.page.reload()
        visit.text.press_sequentially("the dog ")
        assert visit.page.locator(".lane").count() == 0
        held[0].continue_()
        visit.waits_for_step("READ", 2)


def test_text_is_never_markup(visit):
    visit.text.fill("<b>the</b> <img src=x> ")
    visit.waits_for_step("READ", 3)
    assert [step[1] for step in visit.steps() if step[0] == "READ"] == ["<b>the</b>", "<img", "src=x>"]
    assert visit.page.locator(".lanes :is(b, img)").count() == 0


def test_a_phone_scrolls_in_one_direction(browser, server):
    with visiting(browser, server.url("/"), **PHONE) as visit:
        visit.button("Compare with a second policy").click()
        visit.text.fill(f"{TEXT} {'supercalifragilistic' * 4} {TEXT}")
        visit.button("End the source").click()
        visit.waits_for_finished(2)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
        upper, lower = (visit.lane(number).bounding_box() for number in (0, 1))
        assert upper["y"] + upper["height"] <= lower["y"]


def test_all_is_done_by_keyboard(visit, server, translator):
    """From the top, Tab reaches every control in the order of the page, shows where it is, and leaves again."""
    seen = []
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        if (name := visit.focused()) is None:
            break
        assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", name
        seen.append(name)
    assert seen == [
        *("Source", "End the source", "Play", "at words per second", "Open a text file", "Clear"),
        *(
            "Policy",
            "k",
            "Staircase: 0 words read, 0 written. The table below has every step.",
            "Steps as a table",
            "Compare with a second policy",
        ),
    ]
    visit.page.keyboard.press("Tab")
    assert visit.focused() == "Source"
    visit.page.keyboard.type(TEXT)
    visit.page.keyboard.press("Enter")
    visit.waits_for_finished(1)
    for _ in range(6):
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("End")
    visit.waits_for_finished(2)
    last = server.service.info["policies"][-1]
    chosen = {parameter["name"]: parameter["default"] for parameter in last["parameters"]}
    assert visit.translation() == expected(translator, TEXT, policy=last["policy"], **chosen)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_stands_out(browser, server, colors):
    """WCAG AA: 4.5 to 1."""
    with visiting(browser, server.url("/"), **colors) as visit:
        visit.text.fill(TEXT)
        visit.button("End the source").click()
        visit.waits_for_finished(1)
        contrasts = visit.contrasts()
        assert len(contrasts) > 40
        assert [text for contrast, text in contrasts if contrast < 4.5] == []
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(18, 22, 26)" if colors else "rgb(247, 246, 242)")


def test_everything_has_a_name_for_a_screen_reader(visit):
    visit.button("Compare with a second policy").click()
    visit.text.fill(TEXT)
    visit.text.press("Enter")
    visit.waits_for_finished(2)
    assert visit.unnamed() == []
    assert visit.part("written").get_attribute("aria-live") == "polite"
    steps = visit.steps()
    name = visit.lane().get_by_role("img").get_attribute("aria-label")
    reads = sum(step[0] == "READ" for step in steps)
    assert name.startswith(f"Staircase: {reads} words read, {len(steps) - reads} written, the last one ")


@pytest.mark.parametrize("motion, name", [("no-preference", "arrive"), ("reduce", "none")])
def test_nothing_moves_for_who_does_not_want_it(browser, server, motion, name):
    with visiting(browser, server.url("/"), reduced_motion=motion) as visit:
        visit.text.fill(f"{TEXT} ")
        visit.waits_for_step("WRITE", 1)
        style = visit.part("written").locator("span").first.evaluate("(word) => getComputedStyle(word).animationName")
        assert style == name


CALIBRATED = {"policy": "stability", "title": "stability", "laal": [2, 3.5], "threshold": "stability"}
PROMPTED = {"policy": "model_driven", "title": "model-driven", "laal": [], "threshold": "read_threshold"}
NUMBER = {"type": "number", "least": 0.0001, "most": 0.9999, "step": None}
UNITS = {"type": "integer", "least": 1, "most": 320, "step": 1}
OTHER_MODEL = {
    "policies": [
        {
            **CALIBRATED,
            "parameters": [{**UNITS, "name": "least", "default": 1}, {**NUMBER, "name": "stability", "default": 0.5}],
        },
        {**PROMPTED, "parameters": [{**NUMBER, "name": "read_threshold", "default": None}]},
    ],
    "default": {"policy": "stability", "stability": 0.5},
    "latencies": ["low", "medium"],
    "languages": [["German", "English"], ["English", "German"]],
}


def test_a_policy_is_offered_with_what_it_can_do(browser, server):
    """A LAAL stands for a threshold; what is left empty is not sent; so are languages, if there are several pairs."""
    with visiting(browser, server.url("/")) as visit:
        model = server.service.info | OTHER_MODEL
        visit.page.route("**/model", lambda route: route.fulfill(json=model))
        sent = []
        visit.page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(json.loads(text))))
        visit.page.reload()
        visit.text.fill("the ")

        def choose(label, value):
            visit.choose(label, value)
            visit.waits_for("failed")  # this model has none of that
            return [message for message in sent if message["type"] == "start"][-1]

        assert choose("LAAL", "3.5")["decision"] == {"policy": "stability", "least": 1, "laal": 3.5}
        assert visit.page.get_by_label("stability", exact=True).is_disabled()
        assert choose("LAAL", "not set")["decision"] == {"policy": "stability", "least": 1, "stability": 0.5}
        assert choose("Policy", "model-driven")["decision"] == {"policy": "model_driven", "latency": "low"}
        start = choose("Languages", "English → German")
        assert (start["source_lang"], start["target_lang"]) == ("English", "German")


def test_the_pictures_of_the_pages_are_taken(browser, server, tmp_path):
    take_all = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "screenshots.py"))["take_all"]
    take_all(browser, server.url("/"), "the", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"page.png", "page_phone.png"}
    assert all(0 < path.stat().st_size < 150_000 for path in tmp_path.iterdir())
