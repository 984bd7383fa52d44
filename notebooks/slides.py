"""Slides with speaker notes and a one-page handout, from what the notebooks stored.

    python notebooks/slides.py [FOLDER]     `make workshop` runs it; FOLDER is workshop/

FOLDER/slides gets slides.html and handout.html, each one file that needs no network, and, where
Chromium is found, slides.pdf, notes.pdf (each slide above its notes) and handout.pdf. Every word
is in slides.toml, pictures and numbers come from the notebooks and data/results. Nothing is run.
"""

import base64
import io
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import workshop
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from nbformat import NotebookNode

from tinybert_lite.course import environment
from tinybert_lite.data import paths
from tinybert_lite.explorer.plots import STUDENT, TEACHER
from tinybert_lite.mapping import layer_mapping

HERE = Path(__file__).resolve().parent
RESULTS = paths.DATA / "results"
LOGITS = (3.0, 1.0, 0.0)  # of the handout's picture of temperature
OPTIONAL = ("picture", "drawing", "table", "equations")  # what a slide may show
PDFS = {
    "slides.pdf": "slides.html",
    "notes.pdf": "slides.html#notes",
    "handout.pdf": "handout.html",
}


def words(file: Path = HERE / "slides.toml") -> dict[str, Any]:
    """The text of slides and handout, with the places that its values come from."""
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _cell(notebooks: Mapping[str, NotebookNode], number: str, cell_id: str) -> NotebookNode:
    name = next((name for name in sorted(notebooks) if name.startswith(f"{number}_")), number)
    cells = notebooks[name].cells if name in notebooks else []
    found = next((cell for cell in cells if cell.id == cell_id), None)
    if found is None:
        raise workshop.WorkshopError(
            f"slides.toml takes something from cell {cell_id!r} of notebook {number}, which has no "
            "such cell; name another cell there."
        )
    return found


def picture(notebooks: Mapping[str, NotebookNode], number: str, cell_id: str) -> bytes:
    """The first PNG that a cell stored.

    Raises WorkshopError where there is no such cell or no picture.
    """
    for output in _cell(notebooks, number, cell_id).get("outputs", []):
        if stored := output.get("data", {}).get("image/png"):
            return base64.b64decode(stored)
    raise workshop.WorkshopError(
        f"Cell {cell_id!r} of notebook {number} stores no picture for the slides; run the notebook "
        "and save it, or name another cell in slides.toml."
    )


def value(place: Mapping[str, Any], notebooks: Mapping[str, NotebookNode]) -> str:
    """One number of the slides, from a results file or from what a notebook printed.

    Raises WorkshopError where it is no longer there.
    """
    if "file" in place:
        found = json.loads((RESULTS / place["file"]).read_text(encoding="utf-8"))
        try:
            for key in place["path"]:
                found = found[key]
        except KeyError as error:
            raise workshop.WorkshopError(
                f"{place['file']} has no {' / '.join(place['path'])}; correct slides.toml."
            ) from error
        return _formatted(found, place)
    outputs = _cell(notebooks, place["notebook"], place["cell"]).get("outputs", [])
    printed = "".join(o.get("text") or o.get("data", {}).get("text/markdown", "") for o in outputs)
    match = re.search(place["find"], printed, re.MULTILINE)
    if not match:
        raise workshop.WorkshopError(
            f"Cell {place['cell']!r} of notebook {place['notebook']} prints nothing like "
            f"{place['find']!r}; correct slides.toml."
        )
    if "format" in place:
        return _formatted(float(match[1]), place)
    return re.sub(r"-(?=\d)", "−", match[1]).replace(" %", "%")


def _formatted(number: Any, place: Mapping[str, Any]) -> str:
    return place["format"].format(number * place["scale"] if "scale" in place else number)


def filled(text: Any, values: Mapping[str, str]) -> Any:
    """The text, or each text of a list or table, with its {values} put in."""
    if isinstance(text, str):
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)
    if isinstance(text, list):
        return [filled(one, values) for one in text]
    if isinstance(text, dict):
        return {key: filled(one, values) for key, one in text.items()}
    return text


def equation(formula: str, number: str) -> Markup:
    """A formula in matplotlib's math notation as an SVG element in the color of the text.

    The same shapes on every machine: browsers set MathML with whatever fonts there are.
    """
    figure, drawn = Figure(figsize=(0.01, 0.01)), io.BytesIO()
    with matplotlib.rc_context({"mathtext.fontset": "stix", "svg.hashsalt": number}):
        figure.text(0, 0, f"${formula}$", fontsize=20)  # 20 points are 1em on the page
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        trim = {"bbox_inches": "tight", "pad_inches": 0.02}
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing, **trim)
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", drawn.getvalue().decode(), flags=re.DOTALL)
    svg = re.sub(r'="([\d.]+)pt"', lambda size: f'="{float(size[1]) / 20:.3f}em"', svg)
    label = f'<svg class="formula" role="img" aria-label="({number}) {escape(formula)}"'
    return Markup(svg[svg.index("<svg") :].replace("<svg", label, 1))


def indices(text: str) -> Markup:
    """Text for HTML in which d_k has an index."""
    return Markup(re.sub(r"\b([A-Za-z])_([a-z])\b", r"\1<sub>\2</sub>", str(escape(text))))


def softened(t: float) -> list[float]:
    """softmax(z / t) of the handout's logits."""
    powers = [math.exp(z / t) for z in LOGITS]
    return [power / sum(powers) for power in powers]


def make(notebooks: Mapping[str, NotebookNode], text: Mapping[str, Any]) -> dict[str, str]:
    """The two pages by file name.

    Raises WorkshopError where a picture or a value is missing, or a page would fetch something.
    """
    values = {name: value(place, notebooks) for name, place in text["values"].items()}
    slides = [dict.fromkeys(OPTIONAL) | slide for slide in filled(text["slide"], values)]
    for slide in slides:
        if slide["picture"]:
            where = slide["picture"]
            png = picture(notebooks, where["notebook"], where["cell"])
            where["data"] = "data:image/png;base64," + base64.b64encode(png).decode()
            width, height = struct.unpack(">II", png[16:24])
            where["beside"] = width / height < 1.7  # its text at the left, or above it
    jinja = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["indices"] = indices
    layers = int(values["teacher_layers"]), int(values["lite_layers"])
    shared = {
        "deck": text["deck"],
        "equations": {n: equation(x, n) for n, x in text["equations"].items()},
        "colors": {"teacher": TEACHER, "student": STUDENT},
        "teacher_layers": layers[0],
        "mappings": {g: layer_mapping(*layers, g) for g in ("uniform", "top", "bottom")},
    }
    pages = {
        "slides.html": jinja.get_template("slides.html.j2").render(shared, slides=slides),
        "handout.html": jinja.get_template("handout.html.j2").render(
            shared,
            handout=filled(text["handout"], values),
            softened={t: softened(t) for t in (0.5, 1, 4)},
        ),
    }
    for name, page in pages.items():
        if found := workshop.fetched(page):
            raise workshop.WorkshopError(f"{name} would fetch {found[0]}; take it out.")
    return pages


def print_pdf(browser: str, address: str, file: Path) -> None:
    """Print a page of this machine to a PDF with Chromium.

    Raises WorkshopError where Chromium writes none.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += [f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        command += [f"--print-to-pdf={file}", address]
        file.unlink(missing_ok=True)
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=300).stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
    if not file.is_file():
        why = (said.strip().splitlines() or ["no message"])[-1]
        raise workshop.WorkshopError(
            f"{browser} did not write {file.name} ({why}); open the HTML page and print it there."
        )


def main(arguments: list[str]) -> int:
    """Write slides and handout; exit status 2 and one sentence where that cannot be done."""
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0] if arguments else "workshop") / "slides"
    try:
        workshop.write(make(workshop.read(HERE), words()), folder)
        browser = environment.chromium()
        if browser:
            for name, page in PDFS.items():
                name_of_page, _, part = page.partition("#")
                address = (folder / name_of_page).resolve().as_uri() + (part and f"#{part}")
                print_pdf(browser, address, (folder / name).resolve())
    except workshop.WorkshopError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Error: {error.filename or folder}: {error.strerror}.", file=sys.stderr)
        return 2
    print(f"{folder}      slides.html, handout.html{''.join(f', {n}' for n in PDFS if browser)}")
    if not browser:
        print("No PDF was made: print the two pages from any browser, or install Chromium.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
