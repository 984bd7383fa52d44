"""The slides of `make workshop` in a real browser: keys, notes, nothing cut off, light and dark."""

import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import look

TOO_LARGE = """() => [...document.querySelectorAll('.slide')].filter(slide => {
  const page = slide.querySelector('.page'), frame = page.getBoundingClientRect();
  const inside = [...page.querySelectorAll('h1, h2, li, img, svg, table, footer')];
  return page.scrollHeight > page.clientHeight + 1 || inside.some(part => {
    const box = part.getBoundingClientRect();
    return box.right > frame.right + 1 || box.bottom > frame.bottom + 1 || box.left < frame.left - 1;
  });
}).map(slide => slide.id)"""


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """What the program writes, here without its PDFs."""
    room = tmp_path_factory.mktemp("a room")
    command = [sys.executable, root / "notebooks" / "slides.py", room]
    done = subprocess.run(command, capture_output=True, text=True, env={"CHROMIUM": "none"})
    assert done.returncode == 0, done.stderr
    return room / "slides"


@pytest.mark.parametrize("size", [(1280, 720), (1024, 768)])
def test_nothing_on_any_slide_is_cut_off(page, folder, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto((folder / "slides.html").as_uri())
    page.evaluate("document.documentElement.classList.remove('live')")  # all slides at once
    assert page.evaluate(TOO_LARGE) == []


def test_keys_lead_through_the_slides_and_n_shows_the_notes(page, folder):
    page.goto((folder / "slides.html").as_uri())
    shown = page.locator(".slide:visible")
    expect(shown).to_have_id("slide-1")
    expect(shown.locator(".notes")).not_to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    expect(shown).to_have_id("slide-2")
    expect(shown.locator(".notes")).to_be_visible()
    page.keyboard.press("n")
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(shown.locator("h2")).to_have_text("Where to go from here")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    expect(shown).to_have_id("slide-1")


def test_an_address_leads_to_its_slide_from_the_notes_too(page, folder):
    shown = page.locator(".slide:visible")
    page.goto((folder / "slides.html").as_uri() + "#notes")
    expect(shown).to_have_id("slide-1")
    page.evaluate("location.hash = '#slide-6'")
    expect(shown).to_have_id("slide-6")
    expect(shown.locator(".notes")).to_be_visible()
    page.evaluate("location.hash = '#nowhere'")
    expect(shown).to_have_id("slide-6")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_have_contrast_on_either_theme(page, folder, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto((folder / "slides.html").as_uri())
    colors = (
        "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }"
    )
    ink, paper = [sum(map(int, color[4:-1].split(","))) / 765 for color in page.evaluate(colors)]
    assert abs(ink - paper) > 0.7 and (paper > ink) == (scheme == "light")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    look(page, f"slides_{scheme}")


def test_the_handout_has_no_text_over_other_text(page, folder):
    page.set_viewport_size({"width": 900, "height": 1200})
    page.goto((folder / "handout.html").as_uri())
    table = page.locator(".symbols").bounding_box()
    mapping = page.locator(".columns section").nth(1).bounding_box()
    assert table["x"] + table["width"] <= mapping["x"]
    wider = "() => document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(wider) <= 0
