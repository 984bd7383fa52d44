"""The course as static pages, part of `make site`: notebooks, search, licenses, the way to run them.

    python notebooks/course_site.py SITE [--repository OWNER/NAME]

SITE is the folder of the live page, which gets a link to the course; the pages go to SITE/course.
They need no server and no network. With the address of the repository on GitHub each page links to
Colab, Binder and Codespaces.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import slides
import workshop
from jinja2 import Environment, FileSystemLoader
from nbconvert.exporters import HTMLExporter
from PIL import Image

from tinybert_lite.data import assets, paths

HERE = Path(__file__).resolve().parent
PARTS = HERE / "site"
VENDOR = paths.ROOT / "tinybert_lite" / "explorer" / "site" / "vendor.json"
COURSE_LINK = "<!--COURSE-->"  # where the live page gets its links
SKIPPED = {"style", "script", "math", "details", "title"}  # text that search does not look into


class Sections(HTMLParser):
    """The text of a page by heading: what search looks into."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[dict[str, str]] = []
        self.skipped: list[str] = []
        self.in_heading = False

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = dict(attributes)
        output = "jp-OutputArea" in (found.get("class") or "")
        if tag in SKIPPED or output or self.skipped[-1:] == [tag]:
            self.skipped.append(tag)
        if not self.skipped and re.fullmatch("h[1-4]", tag) and found.get("id"):
            self.sections.append({"id": found["id"], "title": "", "text": ""})
            self.in_heading = True

    def handle_endtag(self, tag: str) -> None:
        if self.skipped and tag == self.skipped[-1]:
            self.skipped.pop()
        elif re.fullmatch("h[1-4]", tag):
            self.in_heading = False

    def handle_data(self, data: str) -> None:
        if self.sections and not self.skipped and data != "¶":
            self.sections[-1]["title" if self.in_heading else "text"] += f"{data} "


def sections(page: str) -> list[dict[str, str]]:
    """Anchor, title and text of each section of a rendered page."""
    parser = Sections()
    parser.feed(page.partition("<main")[2])
    return [{k: " ".join(v.split()) for k, v in s.items()} for s in parser.sections]


class Exporter(workshop.Exporter):
    """The workshop's pages with one style sheet for all, in light and dark."""

    def __init__(self, pages: set[str], **options):
        super().__init__(pages, **options)
        self.raw_template = (PARTS / "notebook.html.j2").read_text(encoding="utf-8")


def with_picture_files(page: str, files: dict[str, str | bytes]) -> str:
    """The page with its PNG pictures in files of 256 colors: a third of the bytes."""

    def moved(match: re.Match) -> str:
        content = base64.b64decode(match[1])
        smaller = io.BytesIO()
        picture = Image.open(io.BytesIO(content)).convert("RGBA")
        picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            smaller, "PNG", optimize=True
        )
        content = min(content, smaller.getvalue(), key=len)
        name = f"pictures/{hashlib.sha256(content).hexdigest()[:16]}.png"
        files[name] = content
        return f'"{name}"'

    return re.sub(r'"data:image/png;base64,([A-Za-z0-9+/=\s]+)"', moved, page)


def stylesheet() -> str:
    """nbconvert's styles of JupyterLab, light and dark, and our own."""
    template = next(
        Path(folder)
        for folder in HTMLExporter().template_paths
        if (Path(folder) / "static" / "theme-dark.css").is_file()
    )
    lab, light, dark = (
        (template / "static" / f"{name}.css").read_text(encoding="utf-8")
        for name in ("index", "theme-light", "theme-dark")
    )
    own = (PARTS / "course.css").read_text(encoding="utf-8")
    return f"{lab}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def run_links(name: str, repository: str | None) -> list[tuple[str, str]]:
    """Where a notebook can be run: (text, address)."""
    links = [("Download for JupyterLab", f"notebooks/{name}.ipynb")]
    if repository:
        file = f"notebooks/{name}.ipynb"
        colab = f"https://colab.research.google.com/github/{repository}/blob/main/{file}"
        binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{file}"
        links += [("Colab", colab), ("Binder", binder)]
        links += [("Codespaces", f"https://codespaces.new/{repository}")]
    return links


def licenses() -> list[dict[str, str]]:
    """What the site contains that others wrote."""
    programs = json.loads(VENDOR.read_text(encoding="utf-8"))
    found = [
        {"name": f"{name} {entry['version']}", "license": entry["license"], "note": "live page"}
        for name, entry in programs.items()
    ]
    found.append(
        {
            "name": "JupyterLab styles, from nbconvert",
            "license": "BSD-3-Clause",
            "note": "notebooks",
        }
    )
    for entry in assets.manifest().values():
        note = f"{entry['attribution']}; {entry['origin']}"
        found.append({"name": entry["title"], "license": entry["license"], "note": note})
    return found


def make(repository: str | None = None) -> dict[str, str | bytes]:
    """All files of the course by their path in its folder.

    Raises WorkshopError, which names the notebook.
    """
    notebooks = workshop.read(HERE)
    names = list(notebooks)
    translations = {
        f"{folder.name}-{name}": notebook
        for folder in sorted(HERE.glob("[a-z][a-z]"))
        for name, notebook in workshop.read(folder).items()
    }
    templates = Environment(loader=FileSystemLoader(PARTS), autoescape=True)
    titles = {n: workshop.title(nb) for n, nb in (notebooks | translations).items()}
    files: dict[str, str | bytes] = {}
    index = []
    for i, (name, notebook) in enumerate((notebooks | translations).items()):
        neighbors = {
            where: {"page": f"{names[j]}.html", "title": titles[names[j]]}
            for where, j in (("previous", i - 1), ("next", i + 1))
            if name in notebooks and 0 <= j < len(names)
        }
        language = "en" if name in notebooks else name[:2]
        source = name if name in notebooks else name.replace("-", "/", 1)
        try:
            page = rendered(notebook, set(titles), language)
        except workshop.WorkshopError as error:
            raise workshop.WorkshopError(f"{source}.ipynb: {error}") from error
        page, links = with_picture_files(page, files), run_links(source, repository)
        top = templates.get_template("nav.html.j2").render(links=links, **neighbors)
        bottom = templates.get_template("nav.html.j2").render(bottom=True, **neighbors)
        files[f"{name}.html"] = page.replace("<!--TOP-->", top).replace("<!--BOTTOM-->", bottom)
        if name in notebooks:
            about = {"page": f"{name}.html", "notebook": titles[name]}
            index += [about | section for section in sections(page)]
        files[f"notebooks/{source}.ipynb"] = nbformat.writes(without_outputs(notebook)) + "\n"
    rows = [(f"{n}.html", titles[n], workshop.minutes(nb)) for n, nb in notebooks.items()]
    files["index.html"] = templates.get_template("index.html.j2").render(
        rows=rows,
        translations=[(f"{name}.html", titles[name], name[:2]) for name in translations],
        repository=repository,
    )
    files |= for_teachers(notebooks, set(titles))
    license_text = (paths.ROOT / "LICENSE").read_text(encoding="utf-8")
    files["licenses.html"] = templates.get_template("licenses.html.j2").render(
        parts=licenses(), license=license_text
    )
    files["course.css"] = stylesheet()
    files["search.js"] = (PARTS / "search.js").read_text(encoding="utf-8")
    files["search-index.js"] = f"window.COURSE = {json.dumps(index, ensure_ascii=False)};\n"
    return files


def for_teachers(
    notebooks: dict[str, nbformat.NotebookNode], pages: set[str]
) -> dict[str, str | bytes]:
    """TEACHING.md as a page, the slides, and the handout."""
    text = (HERE / "TEACHING.md").read_text(encoding="utf-8")
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):  # nbconvert's anchors keep capitals
        anchor = title.replace(" ", "-")
        text = text.replace(f"](#{anchor.lower()})", f"](#{anchor})")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    nav = Environment(loader=FileSystemLoader(PARTS), autoescape=True).get_template("nav.html.j2")
    page = rendered(book, pages, "en").replace("<!--TOP-->", nav.render(links=[]))
    made = {"teaching.html": page.replace("<!--BOTTOM-->", nav.render(bottom=True))}
    return made | slides.make(notebooks, slides.words())


def rendered(notebook: nbformat.NotebookNode, pages: set[str], language: str) -> str:
    """A notebook as a page. Raises WorkshopError where it would ask the network for something."""
    about = {"metadata": {"name": workshop.title(notebook), "path": str(HERE)}}
    exporter = Exporter(pages, language_code=language)
    page, _ = exporter.from_notebook_node(workshop.still(notebook), resources=about)
    if found := workshop.fetched(page):
        raise workshop.WorkshopError(
            f"its page would fetch {found[0]}; put the file into the notebook."
        )
    return page


def without_outputs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy to run: no outputs, no state of widgets."""
    made = nbformat.from_dict(json.loads(json.dumps(notebook)))
    made.metadata.pop("widgets", None)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return made


def write(site: Path, repository: str | None = None) -> Path:
    """Write the course beside the live page of a site; returns its index.html."""
    front = site / "index.html"
    page = front.read_text(encoding="utf-8")
    for name, content in make(repository).items():
        file = site / "course" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    links = (
        '<nav aria-label="Course"><a href="course/index.html">The course: twelve notebooks</a> · '
        '<a href="course/licenses.html">Licenses</a></nav>'
    )
    front.write_text(page.replace(COURSE_LINK, links), encoding="utf-8")
    return site / "course" / "index.html"


def main() -> int:
    """Write the course; 1 and one sentence where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", type=Path, help="the folder of the live page")
    address = os.environ.get("GITHUB_REPOSITORY") or None
    parser.add_argument("--repository", default=address, metavar="OWNER/NAME")
    options = parser.parse_args()
    if not (options.site / "index.html").is_file():
        print(f"{options.site} holds no live page; run `make site`.", file=sys.stderr)
        return 1
    try:
        index = write(options.site, options.repository or None)
    except workshop.WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    course = sum(f.stat().st_size for f in index.parent.rglob("*") if f.is_file())
    total = sum(f.stat().st_size for f in options.site.rglob("*") if f.is_file())
    print(f"{index}: {course / 1e6:.1f} MB; the site in all {total / 1e6:.1f} MB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
