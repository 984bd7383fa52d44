"""README.md's picture: the live page of a built site, as a visitor sees it.

    make site && python -m tests.browser.readme_picture site [FILE]

Serves the folder on loopback, classifies the course's sentence in headless Chromium, and writes
data/results/explorer.png (or FILE) with 128 colors.
"""

import functools
import os
import shutil
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.test_site import READY, Quiet
from tinybert_lite.data import paths

SENTENCE = "the film's sharp wit can't rescue its tired plot"


def picture(folder: Path, file: Path) -> Path:
    """Write the picture of the site in `folder` and return its file."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 958}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.evaluate(READY)
        page.get_by_role("textbox").first.fill(SENTENCE)
        page.get_by_role("button", name="Classify").click()
        page.locator("#answer-teacher").get_by_text("ms in this browser").wait_for()
        page.evaluate("document.fonts.ready")
        page.screenshot(path=file)
        browser.close()
    server.shutdown()
    image = Image.open(file).convert("RGB").quantize(128)
    image.save(file, optimize=True)
    return file


if __name__ == "__main__":
    default = paths.ROOT / "data" / "results" / "explorer.png"
    print(picture(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default))
