"""A real browser on the page of `simulmask serve`, and what a user does there."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simulmask_plugin.policies import Action

LONGEST = 60
"""Target tokens of a session."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIGHT, DARK, PHONE = {}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}

CONTRASTS = (Path(__file__).with_name("contrasts.js")).read_text(encoding="utf-8")


@contextmanager
def browsing():
    """Chromium, as the system has it; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"There is no browser ({', '.join(BROWSERS)}): apt-get install chromium.")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root needs that
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and what a user finds there.

    Attributes:
        page: of Playwright.
        hosts: that it has asked for something.
        faults: that the browser has found.
    """

    page: object
    hosts: set = field(default_factory=set)
    faults: list = field(default_factory=list)

    @property
    def text(self):
        return self.page.get_by_role("textbox", name="Source")

    @property
    def connection(self):
        return self.page.locator("#connection")

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def lane(self, number=0):
        return self.page.locator(".lane").nth(number)

    def choose(self, name, option, lane=0):
        """Choose an option of a list, of a lane or of the page."""
        lists = self.lane(lane).or_(self.page.locator(".source")).get_by_role("combobox", name=name, exact=True)
        lists.select_option(option)

    def part(self, name, number=0):
        """A part of a lane: read, written, lag-words, state, problem, ..."""
        return self.lane(number).locator(f".{name}").first

    def waits_for(self, state, number=0):
        self.lane(number).and_(self.page.locator(f"[data-state={state}]")).wait_for()

    def waits_for_step(self, kind, count, lane=0):
        """Until the table has so many READs, or WRITEs."""
        self.lane(lane).locator(f"details tr.{kind.lower()}").nth(count - 1).wait_for(state="attached")

    def translation(self, number=0):
        """The words that were read, and what was written."""
        reads = [step[1] for step in self.steps(number) if step[0] == "READ"]
        return reads, self.part("written", number).text_content()

    def steps(self, number=0):
        """The cells of the table of steps."""
        return cells(self.lane(number).locator("details tbody tr"))

    def finished(self):
        """The list of finished sentences, the last one first."""
        return cells(self.page.locator("#history tbody tr"))

    def waits_for_finished(self, count):
        self.page.locator("#history tbody tr").nth(count - 1).wait_for()

    def focused(self):
        """The name that a screen reader says of what has the focus; None: nothing has it."""
        focus = self.page.locator(":focus")
        if not focus.count():
            return None
        role = re.match(r"""- '?\w+ "([^"]*)\"""", focus.aria_snapshot())
        return role[1] if role else focus.text_content()

    def unnamed(self):
        """What has a role and no name, though its role needs one."""
        snapshot = self.page.locator("body").aria_snapshot()
        return re.findall(r"""- '?(?:button|combobox|img|region|spinbutton|textbox)\b(?! ").*""", snapshot)

    def contrasts(self):
        """Of every text that is seen, its contrast to what is behind it, and the text."""
        return self.page.evaluate(CONTRASTS)


def cells(rows):
    return rows.evaluate_all("rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))")


@contextmanager
def visiting(browser, url, **options):
    """Open the page; whatever it asks of another host, and whatever the browser complains of, is remembered."""
    with browser.new_context(**options) as context:
        visit = Visit(context.new_page())
        visit.page.set_default_timeout(30_000)
        visit.page.on("request", lambda request: visit.hosts.add(host_of(request.url)))
        visit.page.on("websocket", lambda socket: visit.hosts.add(host_of(socket.url)))
        visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
        visit.page.on("console", lambda message: visit.faults.append(message.text))
        visit.page.goto(url)
        visit.lane().wait_for()
        yield visit


def host_of(url):
    return re.fullmatch(r"\w+://([^/]+)/.*", url)[1]


def expected(translator, text, policy=None, **options):
    """The words that the same model reads, and what it writes, without a server."""
    options = {"policy": policy, "max_target_tokens": LONGEST, **options}
    reads = [step.text for step in translator.stream(text, **options) if step.action is Action.READ]
    return reads, translator.translate(text, **options).strip()
