"""The course as static pages: they open without a network, link to each other, and can be searched."""

import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import look
from tinybert_lite.data import assets


@pytest.fixture(scope="module")
def course(root, tmp_path_factory):
    """The folder of the course's pages beside the live page's text, as `make site` makes them."""
    site = tmp_path_factory.mktemp("site")
    live = root / "tinybert_lite" / "explorer" / "site" / "page.html"
    shutil.copy(live, site / "index.html")
    command = [sys.executable, root / "notebooks" / "course_site.py", site]
    environ = os.environ | {"GITHUB_REPOSITORY": "owner/name"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return site / "course"


class Addresses(HTMLParser):
    """The links, pictures, scripts, styles and anchors of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.anchors = [], set()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        if address := found.get("href") or found.get("src"):
            self.links.append((tag, address))


def addresses(file):
    parser = Addresses()
    parser.feed(file.read_text(encoding="utf-8"))
    return parser


def test_every_link_leads_to_a_file_and_a_heading_that_are_there(course):
    pages = {
        file: addresses(file) for file in [*course.glob("*.html"), course.parent / "index.html"]
    }
    assert len(pages) == 19
    broken = []
    for file, page in pages.items():
        for tag, address in page.links:
            parts = urlsplit(address)
            if parts.scheme:
                assert tag == "a" or parts.scheme == "data", f"{file.name} fetches {address}"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchors = pages[target].anchors if target in pages else set()
            heading = {parts.fragment, unquote(parts.fragment)} & {"", *anchors}
            if not target.is_file() or not heading:
                broken.append(f"{file.name}: {address}")
    assert broken == []


def test_a_notebook_links_to_the_places_where_it_can_be_run(course):
    page = (course / "03_hidden_states.html").read_text(encoding="utf-8")
    for place in ("colab.research.google.com/github/owner/name/blob/main/notebooks/", "mybinder.org",
                  "codespaces.new/owner/name"):  # fmt: skip
        assert place in page
    fresh = nbformat.read(course / "notebooks" / "03_hidden_states.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in fresh.cells)


def test_a_translation_is_a_page_in_its_language_that_leads_to_its_original_and_back(course):
    page = (course / "zh-00_start_here.html").read_text(encoding="utf-8")
    original = (course / "00_start_here.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in page and '<html lang="en">' in original
    assert 'href="00_start_here.html"' in page and 'href="zh-00_start_here.html"' in original
    assert 'href="11_your_own.html"' in page
    assert "/blob/main/notebooks/zh/00_start_here.ipynb" in page
    assert (course / "notebooks" / "zh" / "00_start_here.ipynb").is_file()


def test_the_licenses_of_all_third_party_parts_are_listed(course):
    page = html.unescape((course / "licenses.html").read_text(encoding="utf-8"))
    titles = [entry["title"] for entry in assets.manifest().values()]
    for part in ("onnxruntime-web", "BSD-3-Clause", "Apache License", *titles):
        assert part in page, part


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_every_page_opens_without_a_network_and_fits(page, course, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    broken = "images => images.filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
    for file in sorted(course.glob("*.html")):
        page.goto(file.as_uri())
        expect(page.locator("h1").first).to_be_visible()
        assert page.locator("img").evaluate_all(broken) == [], file.name
        look(page, f"course-{file.stem[:2]}-{scheme}")
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{file.name} sticks out by {over} pixels"


def test_search_finds_a_word_and_leads_to_its_section(page, course):
    page.goto((course / "index.html").as_uri())
    page.get_by_label("Search the course").fill("gram")
    expect(page.locator("#results li").first).to_be_visible()
    assert re.fullmatch(r"\d+ sections? found", page.locator("#found").inner_text())
    page.locator("#results a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(":target")).to_be_visible()
    page.get_by_label("Search the course").fill("zzzz")
    expect(page.locator("#found")).to_have_text("0 sections found")
    page.get_by_role("link", name="Live page").click()
    expect(page.get_by_role("link", name="The course: twelve notebooks")).to_be_visible()
