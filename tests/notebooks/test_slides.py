"""`make workshop`: slides, speaker notes and the handout."""

import copy
import html
import importlib.util
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tinybert_lite.course import environment

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


workshop = sys.modules.get("workshop") or load("workshop")
slides = load("slides")
WORDS = slides.words()
PICTURES = [slide for slide in WORDS["slide"] if "picture" in slide]
every_slide = pytest.mark.parametrize("slide", WORDS["slide"], ids=lambda slide: slide["title"])


@pytest.fixture(scope="module")
def notebooks():
    return workshop.read(FOLDER)


@pytest.fixture(scope="module")
def pages(notebooks):
    """slides.html and handout.html from the committed notebooks."""
    return slides.make(notebooks, WORDS)


class Page(HTMLParser):
    """What a browser would fetch, and each element's name and class."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched, self.elements = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.elements.append((tag, values))
        self.fetched += [values[key] for key in ("src", "href", "xlink:href") if values.get(key)]


def count_pages(pdf: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf.read_bytes()))


# What a slide says


@every_slide
def test_a_slide_has_one_title_at_most_three_lines_and_notes_worth_reading(slide):
    assert len(slide["title"]) <= 50
    assert 1 <= len(slide["bullets"]) <= 3
    assert all(len(bullet) <= 150 for bullet in slide["bullets"])
    assert len(slide["notes"].split()) >= 25


@every_slide
def test_a_slide_types_no_measured_number(slide):
    """Counts from 0 to 12, equation and notebook numbers are words; the rest is a {value}."""
    typed = " ".join([slide["title"], *slide["bullets"], slide["notes"]])
    typed = re.sub(r"\{\w+\}|\b\d:\d\d\b|EMNLP 2020|128 tokens|int8|float32", "value", typed)
    assert not re.search(r"\d[\d.,]*\s*(%|×|points|ms|MB|M\b)|\d[.,]\d", typed)
    assert all(int(number) <= 12 for number in re.findall(r"\d+", typed))


@pytest.mark.parametrize("slide", PICTURES, ids=lambda slide: slide["title"])
def test_a_slides_picture_is_a_stored_png_large_enough_to_project(slide, notebooks):
    where = slide["picture"]
    png = slides.picture(notebooks, where["notebook"], where["cell"])
    width, _height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width >= 500
    assert len(where["shows"].split()) >= 6, "a description for those who do not see it"


def test_every_notebook_of_the_course_but_the_last_gives_a_picture():
    taken = {slide["picture"]["notebook"] for slide in PICTURES}
    assert taken == {f"{n:02}" for n in range(11)}


def test_the_slides_follow_the_clock_of_a_two_hour_session():
    times = [tuple(map(int, slide["at"].split(":"))) for slide in WORDS["slide"]]
    minutes = [60 * hours + rest for hours, rest in times]
    assert minutes[0] == 0 and minutes == sorted(minutes) and minutes[-1] < 120


def test_the_run_sheet_of_the_two_hours_has_the_times_of_the_slides():
    teaching = (FOLDER / "TEACHING.md").read_text(encoding="utf-8")
    sheet = teaching.split("## Two hours")[1].split("\n## ")[0]
    shown = [row.split("|")[1].strip() for row in sheet.splitlines() if re.match(r"\| \d:", row)]
    assert {slide["at"] for slide in WORDS["slide"]} <= set(shown)


def test_every_value_is_used_and_every_place_for_one_has_a_value():
    text = str([WORDS["slide"], WORDS["handout"]])
    asked = set(re.findall(r"\{(\w+)\}", text)) - {"t"}  # t is a temperature of the handout
    assert asked == WORDS["values"].keys()


# The pages


def test_both_pages_hold_everything_they_need_and_no_path_of_this_machine(pages):
    for name, page in pages.items():
        outside = [a for a in Page(page).fetched if not a.startswith(("data:image/png", "#"))]
        assert not outside, name
        assert not re.search(r"@import|url\((?!#)", page), name
        assert not re.search(r"/(work|home|root|tmp|Users)/", re.sub(r'"data:[^"]*"', "", page))
        assert not re.search(
            r"\{\w+\}", re.sub(r"(?s)<(style|script).*?</\1>|aria-label=\"[^\"]*\"", "", page)
        )


def test_every_slide_is_on_the_page_with_its_notes_and_its_picture(pages):
    page = Page(pages["slides.html"])
    classes = [values.get("class") for _tag, values in page.elements]
    assert classes.count("slide") == classes.count("notes") == len(WORDS["slide"])
    pictures = [values for tag, values in page.elements if tag == "img"]
    assert len(pictures) == len(PICTURES)
    assert all(values["alt"] for values in pictures)
    for slide in WORDS["slide"]:
        assert html.escape(slide["title"]) in pages["slides.html"]


def test_the_handout_has_four_equations_three_mappings_and_both_stages(pages):
    page = Page(pages["handout.html"])
    drawn = [v.get("aria-label", "") for tag, v in page.elements if tag == "svg"]
    assert [label[:4] for label in drawn if "mathcal" in label] == ["(7) ", "(8) ", "(9) ", "(10)"]
    mapped = [label for label in drawn if label.startswith("g(m)")]
    assert [label.split(", ")[-1] for label in mapped] == ["uniform", "top", "bottom"]
    assert mapped[0].startswith("g(m) = 0, 2, 4, 6")
    assert "1 General distillation" in pages["handout.html"]
    assert "2 Task distillation" in pages["handout.html"]


def test_the_softened_probabilities_of_the_handout_are_those_of_softmax():
    assert slides.softened(1) == pytest.approx([0.8438, 0.1142, 0.0420], abs=1e-4)
    assert sum(slides.softened(4)) == pytest.approx(1)


def test_the_same_notebooks_give_the_same_pages(notebooks, pages):
    assert slides.make(notebooks, slides.words()) == pages


# What can go wrong


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: w["values"]["nano_kept"].update(cell="gone"), "no such cell"),
        (lambda w: w["values"]["nano_kept"].update(find="^never (.)"), "prints nothing like"),
        (lambda w: w["values"]["nano_ms"].update(path=["gone"]), "latency.json has no gone"),
        (lambda w: w["slide"][2]["picture"].update(notebook="77"), "notebook 77"),
        (lambda w: w["slide"][2]["picture"].update(cell="704101d6"), "stores no picture"),
    ],
)
def test_what_the_table_asks_for_and_is_gone_is_named(notebooks, spoil, said):
    spoiled = copy.deepcopy(WORDS)
    spoil(spoiled)
    with pytest.raises(workshop.WorkshopError, match=said):
        slides.make(notebooks, spoiled)


def test_a_browser_that_writes_nothing_is_an_error_of_one_sentence(tmp_path):
    with pytest.raises(workshop.WorkshopError, match=r"did not write a\.pdf"):
        slides.print_pdf(sys.executable, "about:blank", tmp_path / "a.pdf")


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, FOLDER / "slides.py", folder]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)


def test_without_chromium_the_pages_are_made_and_one_sentence_says_how_to_print_them(tmp_path):
    done = run(tmp_path / "a room", CHROMIUM="no-such-browser")
    assert done.returncode == 0, done.stderr
    assert "No PDF was made: print the two pages" in done.stdout
    files = {file.name for file in (tmp_path / "a room" / "slides").iterdir()}
    assert files == {"slides.html", "handout.html", workshop.RECORD}


@pytest.mark.browser
def test_the_printed_slides_have_a_page_each_and_the_handout_is_one_page(tmp_path, chromium):
    done = run(tmp_path, CHROMIUM=chromium)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "slides"
    assert count_pages(made / "slides.pdf") == len(WORDS["slide"])
    assert count_pages(made / "notes.pdf") == len(WORDS["slide"])
    assert count_pages(made / "handout.pdf") == 1
    letter = made / "letter.html"
    text = (made / "handout.html").read_text(encoding="utf-8")
    letter.write_text(text.replace("size: A4 portrait", "size: letter portrait"))
    slides.print_pdf(chromium, letter.as_uri(), made / "letter.pdf")
    assert "letter" in letter.read_text() and count_pages(made / "letter.pdf") == 1


def test_the_browser_for_the_pdf_is_the_one_of_the_browser_tests(monkeypatch):
    monkeypatch.setenv("CHROMIUM", sys.executable)
    assert environment.chromium() == sys.executable


def test_make_workshop_makes_the_slides_too(root):
    command = ["make", "-n", "-o", "setup", "workshop", "WORKSHOP=a room"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
    assert 'notebooks/slides.py "a room"' in said
