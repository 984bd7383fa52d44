"""Write the notebooks for a room: learner, instructor and HTML versions, from the committed files.

    python notebooks/workshop.py [FOLDER]      what `make workshop` runs; FOLDER is workshop/

FOLDER/learner has no solutions, FOLDER/instructor has them open with the notes of TEACHING.md on
top, FOLDER/html opens from disk without a network. Nothing is executed.
"""

import contextlib
import copy
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from mistune import BlockParser, InlineParser
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
RECORD = ".made.json"  # what an earlier run wrote, to tell it from what people wrote since
REMOVED = "*The solution is in the instructor's version.*"
NOTE = "<p><em>{}</em></p>"
LIVE = NOTE.format("The controls work in the running notebook; this is what they showed there.")
NO_PICTURE = NOTE.format("The controls that belong here work in the running notebook only.")

FENCE = r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)"
SPAN = r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`)"
CODE = rf"{FENCE}|{SPAN}|<!--.*?-->|<(?P<raw>pre|code)\b.*?</(?P=raw)\s*>"
FLAGS = re.DOTALL | re.IGNORECASE | re.MULTILINE
FOLD = re.compile(rf"{CODE}|(?P<open><details\b[^>]*>)|(?P<close></details\s*>)", FLAGS)
SUMMARY = re.compile(r"\s*<summary\b[^>]*>(.*?)</summary\s*>", FLAGS)
MATH = re.compile(
    rf"{CODE}|<[a-z/][^>]*>|\\\$"
    r"|(?<!\\)\$\$(?P<display>.+?)(?<!\\)\$\$"
    r"|(?P<environment>\\begin\{(?P<name>[a-z]+\*?)\}.*?\\end\{(?P=name)\})"
    # As pandoc reads it, so that prices stay prices: no space inside, no digit behind.
    r"|(?<![\\$])\$(?P<inline>(?![\s$])(?:(?!\n[ \t]*\n)[^$])*?(?<![\s\\]))\$(?![\d$])",
    FLAGS,
)
TRANSLATION = re.compile(r"^\[[^\]\n]*\]\([a-z]{2}/[^)\n]*\.ipynb\)\n+", re.MULTILINE)
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|frame|source|video|audio|embed|object|input|use|image)\b[^>]*?"
    r"\s(?:src|href|srcset|data|poster|xlink:href)\s*=\s*[\"']?\s*((?:https?:)?//[^\s\"'>]+)",
    FLAGS,
)
FETCHED_BY_STYLE = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", FLAGS)

PAGE = """
{%- extends 'index.html.j2' -%}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block extra_css %}<style>
main { max-width: 60rem; margin: 0 auto; }
math { font-size: 1.1em; }
.equation { display: flex; align-items: center; overflow-x: auto; margin: 1em 0; }
.equation math { flex: 1; }
details { margin: 0.5em 0; padding-left: 0.75em; border-left: 3px solid #bdbdbd; }
summary { cursor: pointer; }
</style>{% endblock %}
{% block body_header %}{{ super() }}<p><a href="index.html">All notebooks</a></p>{% endblock %}
"""
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>TinyBERT Lite: the notebooks</title>
<style>body {{ font: 1rem/1.6 sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem; }}
li {{ margin: 0.6rem 0; }} small {{ color: #555; }}</style></head>
<body><main><h1>TinyBERT Lite: the notebooks</h1>
<p>To read without a kernel and without a network. To run them, open the .ipynb files in JupyterLab.</p>
<ul>
{rows}
</ul></main></body></html>
"""


class WorkshopError(Exception):
    """What is wrong and what to do, in one plain sentence."""


@dataclass
class Fold:
    """One `<details>` of a Markdown text: its place, its summary, and those around it."""

    start: int
    end: int
    summary: str
    around: list["Fold"]

    @property
    def is_solution(self) -> bool:
        said = self.summary.lower()
        return "solution" in said and not said.startswith("hint")

    @property
    def is_answer(self) -> bool:
        return self.summary.lower().startswith("answer")


def folds(text: str) -> list[Fold]:
    """Every `<details>` of a Markdown text, outer ones first; those inside code are text.

    Raises WorkshopError where one is not closed or closed twice.
    """
    found, opened = [], []
    for match in FOLD.finditer(text):
        if match["open"]:
            summary = SUMMARY.match(text, match.end())
            said = html.unescape(re.sub(r"<[^>]*>|[*_]", "", summary[1])) if summary else ""
            fold = Fold(match.start(), -1, said.strip(), list(opened))
            found.append(fold)
            opened.append(fold)
        elif match["close"]:
            if not opened:
                raise WorkshopError("a </details> has no <details>; take it away.")
            opened.pop().end = match.end()
    if opened:
        raise WorkshopError(f'the <details> "{opened[-1].summary}" is not closed; close it.')
    return found


def without_solutions(text: str) -> str:
    """The text with a line in the place of each solution; hints and answers stay folded."""
    for fold in reversed(folds(text)):
        if fold.is_solution and not any(outer.is_solution for outer in fold.around):
            text = text[: fold.start] + REMOVED + text[fold.end :]
    return text


def opened_solutions(text: str) -> str:
    """The text with solutions, answers and whatever is folded inside them shown open."""
    for fold in reversed(folds(text)):
        if any(f.is_solution or f.is_answer for f in [fold, *fold.around]):
            end = text.index(">", fold.start)
            if not re.search(r"\sopen\b", text[fold.start : end]):
                text = f"{text[:end]} open{text[end:]}"
    return text


def exercise_cells(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Cells from an "Exercise N" heading to the next heading that is not below it."""
    level = 0
    for cell in notebook.cells:
        heading = re.match(r"(#+)\s+(exercise \d)?", cell.source, re.IGNORECASE)
        if cell.cell_type == "markdown" and heading and (heading[2] or len(heading[1]) <= level):
            level = len(heading[1]) if heading[2] else 0
        if level:
            yield cell


def learner(notebook: NotebookNode) -> NotebookNode:
    """A copy without solutions and without the outputs of exercises."""
    made = copy.deepcopy(notebook)
    for cell in exercise_cells(made):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = without_solutions(cell.source)
    return made


def instructor(notebook: NotebookNode, notes: str) -> NotebookNode:
    """A copy with the notes on top, solutions and answers open, those in outputs too."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = opened_solutions(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = opened_solutions(data["text/markdown"])
    first = nbformat.v4.new_markdown_cell(f"## Notes for teachers\n\n{notes}", id="teacher-notes")
    made.cells.insert(0, first)
    return made


def teaching_notes(text: str, name: str) -> str:
    """The section of TEACHING.md whose heading starts with the notebook's number.

    Raises WorkshopError where there is none.
    """
    number = name[:2]
    heading = re.search(rf"^(#+) {number} ·.*$", text, re.MULTILINE)
    if not heading:
        raise WorkshopError(f'TEACHING.md has no notes on it; add a section "### {number} · …".')
    rest = text[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start() if end else None].strip()


def title(notebook: NotebookNode) -> str:
    """The first heading, as plain text."""
    found = re.search(r"^# (.+)$", notebook.cells[0].source if notebook.cells else "", re.MULTILINE)
    return re.sub(r"[*_`]", "", found[1]).strip() if found else "Untitled"


def minutes(notebook: NotebookNode) -> str:
    """What the head cell states behind "Minutes", up to its first detail; "" where nothing."""
    head = notebook.cells[0].source if notebook.cells else ""
    found = re.search(r"\*\*Minutes:?\*\*:?\s*([^\n(.,;]+)", head)
    return found[1].strip() if found else ""


def mathml(latex: str, display: bool) -> str:
    """One equation as MathML; `\\tag{8}` is set as (8) at its right.

    Raises WorkshopError where a command is not known.
    """
    plain, tag = latex.strip(), re.search(r"\\tag\{([^{}]*)\}", latex)
    if tag:
        plain = plain.replace(tag[0], "")
    plain = re.sub(r"\\text\{[^{}]*\}", lambda m: m[0].replace(r"\_", "_"), plain)
    plain = re.sub(r"\\(begin|end)\{(aligned|equation\*?)\}", _environment, plain)
    try:
        made = convert(plain, display="block" if display else "inline")
    except Exception as error:  # latex2mathml raises a dozen kinds for broken input
        raise _unknown(latex) from error
    if "\\" in made or "<mi>&</mi>" in made:
        raise _unknown(latex)
    if not display:
        return made
    return f'<div class="equation">{made}{f"<span>({tag[1]})</span>" if tag else ""}</div>'


def _environment(match: re.Match) -> str:
    return f"\\{match[1]}{{align*}}" if match[2] == "aligned" else ""


def _unknown(latex: str) -> WorkshopError:
    said = " ".join(latex.split())
    return WorkshopError(f'the equation "{said}" cannot be turned into MathML; write it plainer.')


class Renderer(IPythonRenderer):
    """nbconvert's, with links between notebooks that lead to their pages."""

    def __init__(self, pages: set[str], **options):
        super().__init__(**options)
        self.pages = pages

    def link(self, text: str, url: str, title: str | None = None) -> str:
        target = page_of(url, self.pages)
        return text if target is None else super().link(text, target, title)

    def block_html(self, html: str) -> str:
        return super().block_html(self._relinked(html))

    def inline_html(self, html: str) -> str:
        return super().inline_html(self._relinked(html))

    def _html_embed_images(self, html: str) -> str:
        # The parent's parser would close a <details> whose end comes after a blank line.
        return re.sub(
            r"<img\b[^>]*>", lambda m: super(Renderer, self)._html_embed_images(m[0]), html
        )

    def _relinked(self, text: str) -> str:
        def rewritten(match):
            return f"{match[1]}{page_of(match[2], self.pages) or '#'}{match[3]}"

        return re.sub(r"(<a\b[^>]*?\shref=[\"'])([^\"']*)([\"'])", rewritten, text, flags=re.I)


def page_of(url: str, pages: set[str]) -> str | None:
    """Where a link of a notebook leads on its page; None for files that are not among the pages.

    The page of a translation, zh/01_name.ipynb, is zh-01_name.html, beside the others.
    """
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or not parts.path:
        return url
    path = Path(unquote(parts.path).removesuffix(".ipynb"))
    stem = "-".join(part for part in path.parts if part != "..")
    if not parts.path.endswith(".ipynb") or stem not in pages:
        return None
    return f"{stem}.html" + (f"#{parts.fragment}" if parts.fragment else "")


def markdown(text: str, renderer: IPythonRenderer) -> str:
    """Markdown as HTML with its equations as MathML; dollars in code stay dollars."""
    equations = []

    def kept(match):
        latex = match["display"] or match["environment"] or match["inline"]
        if not latex:
            return match[0]
        equations.append(mathml(latex, display=not match["inline"]))
        return f"EQUATION-{len(equations) - 1}-"  # letters that every later step leaves alone

    marked = MATH.sub(kept, text)
    # Plain parsers: nbconvert's own would look for equations again, in code too.
    parser = MarkdownWithMath(renderer, BlockParser(), InlineParser(hard_wrap=False))
    page = re.sub(r"<p>(EQUATION-\d+-)</p>", r"\1", parser.render(marked))
    # Inside a tag, as the name of a heading, the letters may stay.
    return re.sub(
        r"<[^>]*>|EQUATION-(\d+)-", lambda m: equations[int(m[1])] if m[1] else m[0], page
    )


class Exporter(HTMLExporter):
    """nbconvert's lab page without any script, its Markdown through `markdown`."""

    def __init__(self, pages: set[str], **options):
        super().__init__(raw_template=PAGE, embed_images=True, **options)
        self.pages = pages

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        renderer = Renderer(
            self.pages,
            escape=False,
            embed_images=True,
            attachments=context.get("cell", {}).get("attachments", {}),
            path=context["resources"]["metadata"]["path"],
        )
        return markdown(source, renderer)


def stored_pictures(state: Mapping, model: str, seen: tuple[str, ...] = ()) -> list[dict]:
    """The outputs that a widget's Output children had when the notebook was saved."""
    if model in seen or model not in state:
        return []
    values = state[model]["state"]
    found = [o for o in values.get("outputs", []) if not is_widget(o)]
    for child in values.get("children", []):
        child = child.removeprefix("IPY_MODEL_")
        found += stored_pictures(state, child, (*seen, model))
    return found


def is_widget(output: Mapping) -> bool:
    return WIDGET in output.get("data", {})


def still(notebook: NotebookNode) -> NotebookNode:
    """A copy whose widgets are pictures, and whose LaTeX outputs are equations."""
    made = copy.deepcopy(notebook)
    state = made.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs = [s for o in cell.outputs for s in _still(o, state, cell.outputs)]
    return made


def _still(output: NotebookNode, state: Mapping, beside: list) -> list[NotebookNode]:
    data = output.get("data", {})
    said = partial(nbformat.v4.new_output, "display_data")
    if is_widget(output):
        kept = {kind: data[kind] for kind in PICTURES if kind in data}
        inside = stored_pictures(state, data[WIDGET].get("model_id", ""))
        pictures = [said(kept)] if kept else [nbformat.from_dict(o) for o in inside]
        shown = pictures or any(set(PICTURES) & set(o.get("data", {})) for o in beside)
        return [*pictures, said({"text/html": LIVE if shown else NO_PICTURE})]
    if "text/latex" in data and not set(data) & {"text/html", *PICTURES}:
        latex = re.sub(r"^\$+(?:\\displaystyle)?|\$+$", "", data["text/latex"].strip())
        return [said({"text/html": mathml(latex, display=True)})]
    data.pop("application/javascript", None)
    return [output]


def rendered(notebook: NotebookNode, folder: Path, pages: set[str]) -> str:
    """The notebook as one HTML page that asks for no other file.

    Raises WorkshopError where something would come from the network.
    """
    about = {"metadata": {"name": title(notebook), "path": str(folder)}}
    page, _ = Exporter(pages).from_notebook_node(still(notebook), resources=about)
    if found := fetched(page):
        raise WorkshopError(f"its page would fetch {found[0]}; put the file into the notebook.")
    return page


def fetched(page: str) -> list[str]:
    """Addresses on the network that a browser would ask for when it opens the page."""
    styles = "".join(re.findall(r"<style\b.*?</style>|\sstyle=\"[^\"]*\"", page, FLAGS))
    return FETCHED.findall(page) + FETCHED_BY_STYLE.findall(styles)


def index(notebooks: Mapping[str, NotebookNode]) -> str:
    """The page that leads to all others."""
    rows = []
    for name, notebook in notebooks.items():
        said = minutes(notebook)
        about = f"<br><small>Minutes: {html.escape(said)}</small>" if said else ""
        link = f'<a href="{html.escape(name)}.html">{html.escape(title(notebook))}</a>'
        rows.append(f"<li>{link}{about}</li>")
    return INDEX.format(rows="\n".join(rows))


def read(folder: Path) -> dict[str, NotebookNode]:
    """The notebooks of a folder by name, in reading order, as they were last committed.

    What somebody ran or solved in them since stays out of a learner's version. Raises WorkshopError
    where there is none or one cannot be read.
    """
    found = {}
    for file in sorted(folder.glob("*.ipynb")):
        try:
            found[file.stem] = nbformat.reads(_committed(file), as_version=4)
        except (OSError, ValueError, nbformat.ValidationError) as error:
            said = str(error).partition("\n")[0]
            raise WorkshopError(f"{file.name} cannot be read as a notebook: {said}") from error
    if not found:
        raise WorkshopError(f"{folder} holds no notebooks; name the folder that does.")
    return found


def _committed(file: Path) -> str:
    """The text of a file in git's last commit; as it is on disk where git does not know it."""
    with contextlib.suppress(OSError):
        show = ["git", "show", f"HEAD:./{file.name}"]
        said = subprocess.run(show, cwd=file.parent, capture_output=True, check=False)
        if said.returncode == 0:
            return said.stdout.decode("utf-8")
    return file.read_text(encoding="utf-8")


def make(source: Path) -> dict[str, str]:
    """All files of a workshop by their path in its folder.

    Raises WorkshopError, which names the notebook.
    """
    notebooks = read(source)
    teaching = source / "TEACHING.md"
    if not teaching.is_file():
        raise WorkshopError(f"{teaching.name} is not beside the notebooks; bring it back from git.")
    notes, pages = teaching.read_text(encoding="utf-8"), set(notebooks)
    files = {}
    for name, notebook in notebooks.items():
        for cell in notebook.cells[:1]:  # a workshop is in one language
            cell.source = TRANSLATION.sub("", cell.source)
        try:
            files[f"learner/{name}.ipynb"] = nbformat.writes(learner(notebook)) + "\n"
            taught = instructor(notebook, teaching_notes(notes, name))
            files[f"instructor/{name}.ipynb"] = nbformat.writes(taught) + "\n"
            files[f"html/{name}.html"] = rendered(notebook, source, pages)
        except WorkshopError as error:
            raise WorkshopError(f"{name}.ipynb: {error}") from error
    return files | {"html/index.html": index(notebooks)}


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files and remove what an earlier run made and this one does not.

    Raises WorkshopError, before anything is written, where somebody worked in a file since.
    """
    record = folder / RECORD
    try:
        earlier = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    except ValueError:
        earlier = {}
    now = {name: _digest(text.encode()) for name, text in files.items()}
    for name in {**earlier, **now}:
        file = folder / name
        if file.exists() and _digest(file.read_bytes()) not in (earlier.get(name), now.get(name)):
            raise WorkshopError(
                f"{file} was changed after it was made; move it away, or choose another folder: "
                "make workshop WORKSHOP=folder"
            )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _replace(folder / name, text)
    for name in earlier.keys() - now.keys():
        (folder / name).unlink(missing_ok=True)
    _replace(record, json.dumps(now, indent=1))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(file.name + ".part")
    beside.write_bytes(text.encode())
    os.replace(beside, file)


def main(arguments: list[str]) -> int:
    """Write a workshop; exit status 2 and one sentence where that cannot be done."""
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0] if arguments else "workshop")
    try:
        files = make(HERE)
        write(files, folder)
    except WorkshopError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Error: {error.filename or folder}: {error.strerror}.", file=sys.stderr)
        return 2
    print(f"{folder}/learner     {sum(n.startswith('learner') for n in files)} notebooks")
    print(f"{folder}/instructor  the same, with notes and solutions")
    print(f"{folder}/html        open index.html in a browser, no network needed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
