"""A page of `make workshop` in a real browser: from disk, with every request outside refused."""

import subprocess
import sys

import pytest
from playwright.sync_api import expect

NOTEBOOK = "02_attention_maps"


@pytest.fixture(scope="module")
def html(root, tmp_path_factory):
    """The folder of pages, written by the program as make runs it."""
    folder = tmp_path_factory.mktemp("a room")
    command = [sys.executable, root / "notebooks" / "workshop.py", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_a_page_opens_from_disk_with_equations_pictures_and_folds_and_no_request(page, html):
    page.goto((html / f"{NOTEBOOK}.html").as_uri())
    equation = page.locator(".equation math").first
    expect(equation).to_be_visible()
    assert equation.locator("mfrac").count(), "a fraction is set as a fraction"
    assert equation.bounding_box()["height"] > 25, "and takes two lines"
    broken = "images => images.filter(i => !i.complete || !i.naturalWidth).length"
    assert page.locator("img").count() >= 10
    assert page.locator("img").evaluate_all(broken) == 0
    solution = page.locator("details", has=page.locator("summary", has_text="Solution")).first
    expect(solution.locator("pre").first).not_to_be_visible()
    solution.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(solution.locator("pre").first).to_be_visible()
    wider = "() => document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(wider) <= 0, "nothing sticks out at the side"


def test_every_page_is_reached_from_the_index_and_leads_back(page, html):
    page.goto((html / "index.html").as_uri())
    links = page.locator("main li a").evaluate_all("links => links.map(a => a.href)")
    assert sorted(links) == sorted(p.as_uri() for p in html.glob("[0-9]*.html"))
    for link in links:
        page.goto(link)
        expect(page.locator("h1").first).to_be_visible()
        assert page.title() and page.locator("script").count() == 0
    page.get_by_role("link", name="All notebooks").click()
    expect(page.locator("main li")).to_have_count(len(links))
