"""Takes the pictures of the page of `simulmask serve`, with Chromium as the system has it.

python benchmarks/screenshots.py                          make screenshots: docs/images/page*.png
python benchmarks/screenshots.py --model output/demo/merged --text "su dise rupo fo" --images output/pictures
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from simulmask_plugin.files.atomic import replacing

ROOT = Path(__file__).parents[1]
MODEL = "saves/smollm2_135m_merged"
TEXT = "Zwei Kinder spielen mit einem roten Ball im Park."
WORDS_PER_SECOND = "1"
COLORS = 128
PATIENCE = 300_000
"""Milliseconds for a whole sentence."""


@contextmanager
def served(model: str) -> Iterator[str]:
    """Serve a model at a free port, with wait-3; yield the address of the page."""
    options = ["--port", "0", "--policy", "wait_k", "--k", "3"]
    command = [sys.executable, "-m", "simulmask_plugin", "serve", model, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                raise SystemExit(f"{model} is not served; its error is above.")
            yield found[0]
        finally:
            server.terminate()


def play(page: Page, text: str) -> None:
    """Play a text, and wait until every lane has translated it."""
    page.get_by_role("textbox", name="Source").fill(text)
    page.get_by_label("words per second").fill(WORDS_PER_SECOND)
    page.get_by_role("button", name="Play").click()
    for lane in page.locator(".lane").all():
        lane.and_(page.locator("[data-state=finished]")).wait_for(timeout=PATIENCE)


def take(page: Page, path: Path, last: str) -> None:
    """Take the page from its top to the end of an element, without what moves, in few colours."""
    box, size = page.locator(last).bounding_box(), page.viewport_size
    assert box is not None and size is not None
    page.set_viewport_size({"width": size["width"], "height": round(box["y"] + box["height"] + 12)})
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    with Image.open(BytesIO(page.screenshot(animations="disabled"))) as picture, replacing(path) as new:
        picture.convert("RGB").quantize(COLORS).save(new, format="PNG", optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def take_all(browser: Browser, url: str, text: str, images: Path) -> None:
    """Two policies side by side; and one of them on a phone in dark colours."""
    page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
    page.goto(url)
    page.locator(".lane").wait_for()
    page.get_by_role("button", name="Compare with a second policy").click()
    page.locator(".lane").nth(1).get_by_role("combobox", name="Policy").select_option("confidence")
    play(page, text)
    take(page, images / "page.png", "#lanes")
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark", device_scale_factor=1.5)
    page.goto(url)
    page.locator(".lane").wait_for()
    play(page, text)
    take(page, images / "page_phone.png", ".lags")


def main() -> int:
    """Serve, visit, take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="as for simulmask serve (default: %(default)s)")
    parser.add_argument("--text", default=TEXT, help="to translate (default: %(default)s)")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("There is no chromium: apt-get install chromium.")
    options.images.mkdir(parents=True, exist_ok=True)
    with served(options.model) as url, sync_playwright() as playwright:
        # without a sandbox, which root does not get; only our own page is visited
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_all(browser, url, options.text, options.images)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
