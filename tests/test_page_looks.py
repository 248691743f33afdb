"""How the page of `simulmask serve` looks, and how it is used: on a phone, in dark mode, by keyboard, by ear."""

import json
import runpy
from pathlib import Path

import pytest
from browsing import DARK, LIGHT, LONGEST, PHONE, expected, visiting
from serving_driver import serving, translator_of

TEXT = "the dog abc cat xyz dog"


@pytest.fixture(scope="module")
def translator(model_of, byte_level):
    return translator_of(model_of, byte_level, policy="wait_k", k=2)


@pytest.fixture(scope="module")
def server(translator):
    with serving(translator, words=320, max_target_tokens=LONGEST) as served:
        yield served


@pytest.fixture
def visit(browser, server):
    with visiting(browser, server.url("/")) as visit:
        yield visit


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
    assert visit.lane().locator("output").count() == 1, "a screen reader would say every lag"
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
