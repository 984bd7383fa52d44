"""`make workshop`: what learners, instructors and readers of the HTML pages get."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("name", NAMES)

_spec = importlib.util.spec_from_file_location("workshop", FOLDER / "workshop.py")
workshop = sys.modules["workshop"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workshop)

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HEAD = """# 42 · The *toy*

**Minutes** About 2 on two cores (measured), plus five for the exercises"""
EXERCISE = """### Exercise 1 · Count · difficulty ●○○ · 3 minutes

Write `<details><summary>Solution</summary>` never.

<details><summary>Hint</summary>

Count with $n$ fingers.

<details><summary>A second hint</summary>Two hands.</details>
</details>

<details>
<summary><b>Solution</b></summary>

```python
answer = "SECRET </details> $5"
```
<details><summary>Why</summary>SECRET, again.</details>

SECRET at the end.
</details>
After it."""
RECALL = """## Five questions to recall

1. What is $x$?
<details><summary>Answer</summary>It is $x_1$, of course.</details>"""
HOSTILE = r"""## Dollars $e^x$

It costs $5 *or* $6, not $7–$8, `$$` or `a $$ b`, <code>$HOME $PATH</code> and \$7.

```bash
echo $$ $HOME $$  # <details>
```

$$\mathcal{L} = \text{MSE}(a, b) \tag{8}$$

See [01](01_other.ipynb#Part), [07](07_missing.ipynb), <a href="01_other.ipynb">other</a>,
[the paper](https://example.org/paper) and ![a dot](attachment:dot.png)"""


@pytest.fixture
def toy():
    """A notebook with what real ones have, and with what a careless program trips over."""
    widget = {workshop.WIDGET: {"model_id": "box"}, "text/plain": "VBox(children=())"}
    state = {
        "box": {"state": {"children": ["IPY_MODEL_out", "IPY_MODEL_box"]}},
        "out": {"state": {"outputs": [new_output("display_data", {"image/png": DOT})]}},
    }
    lost = {workshop.WIDGET: {"model_id": "gone"}, "text/plain": "Text(value='')"}
    tried = new_output("execute_result", {"text/plain": "[not tried]"}, execution_count=2)
    cells = [
        new_markdown_cell(HEAD),
        new_code_cell('print("$$")', outputs=[new_output("stream", text="$$\n")]),
        new_markdown_cell(HOSTILE, attachments={"dot.png": {"image/png": DOT}}),
        new_code_cell("slider", outputs=[new_output("display_data", widget)]),
        new_code_cell("text", outputs=[new_output("display_data", lost)]),
        new_code_cell("Math()", outputs=[new_output("display_data", {"text/latex": "$$y^2$$"})]),
        new_markdown_cell(EXERCISE),
        new_code_cell("answer = ...", outputs=[tried], execution_count=2),
        new_markdown_cell("#### A remark on it"),
        new_code_cell("check(answer)", outputs=[tried], execution_count=3),
        new_markdown_cell(RECALL),
        new_code_cell("took", outputs=[new_output("stream", text="2 seconds")], execution_count=4),
    ]
    return new_notebook(
        cells=cells, metadata={"widgets": {workshop.WIDGET_STATE: {"state": state}}}
    )


@pytest.fixture
def folder(toy, tmp_path):
    """A folder of notebooks with the toy, another one, and notes for teachers."""
    nbformat.write(toy, tmp_path / "42_toy.ipynb")
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# 01 · Other")]), tmp_path / "01_other.ipynb"
    )
    notes = (
        "# For teachers\n\n### 01 · Other\n\nNothing.\n\n### 42 · The toy\n\nAsk first.\n\n## End\n"
    )
    (tmp_path / "TEACHING.md").write_text(notes)
    return tmp_path


@pytest.fixture(scope="module")
def made():
    """The files that the committed notebooks give."""
    return workshop.make(FOLDER)


@pytest.fixture(scope="module")
def committed():
    """The notebooks as git has them: what somebody edits at the moment is in no version."""
    return workshop.read(FOLDER)


class Page(HTMLParser):
    """What a browser would fetch, where links lead, and the text outside of code."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched, self.links, self.text, self.code = [], [], "", 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.code += tag in ("pre", "code", "script", "style")
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("script", "link", "img", "iframe"):
            self.fetched += [values[key] for key in ("src", "href") if key in values]

    def handle_endtag(self, tag):
        self.code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        self.text += "" if self.code else data


def sources(text: str) -> str:
    """All cells of a written notebook, one after the other."""
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    return "\n\n".join(cell.source for cell in notebook.cells)


def shown(text: str) -> str:
    """What a reader is shown as Markdown: Markdown cells and Markdown outputs, no code."""
    notebook = nbformat.reads(text, as_version=4)
    outputs = [o.get("data", {}) for c in notebook.cells for o in c.get("outputs", [])]
    printed = [data["text/markdown"] for data in outputs if "text/markdown" in data]
    return "\n\n".join([c.source for c in notebook.cells if c.cell_type == "markdown"] + printed)


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^#+ Exercise \d.*$", text)


def solutions(text: str) -> list[str]:
    return re.findall(r"(?is)<summary>[^<]*solution.*?</summary>(.*?)</details>", text)


# The committed notebooks


def test_every_notebook_is_there_in_three_versions_and_the_index_leads_to_each(made):
    links = Page(made["html/index.html"]).links
    assert links == [f"{name}.html" for name in NAMES]
    files = {f"{kind}/{name}" for kind in ("learner", "instructor") for name in NAMES}
    expected = {f"{file}.ipynb" for file in files} | {f"html/{link}" for link in links}
    assert made.keys() == expected | {"html/index.html"}


@every_notebook
def test_learners_get_no_solution_and_every_exercise_with_its_hint(made, committed, name):
    before = sources(nbformat.writes(committed[name]))
    after = sources(made[f"learner/{name}.ipynb"])
    assert len(solutions(before)) >= len(headings(before)) >= 3
    assert not re.search(r"<summary[^>]*>[^<]*solution", after, re.I)
    for solution in solutions(before):
        assert solution.strip() not in after
    assert headings(after) == headings(before)
    hints = r"(?i)<summary>\s*hint"
    assert len(re.findall(hints, after)) == len(re.findall(hints, before))
    assert after.count("<details") == after.count("</details>")


@every_notebook
def test_learners_get_every_cell_and_every_output_but_those_of_exercises(made, committed, name):
    before = committed[name]
    after = nbformat.reads(made[f"learner/{name}.ipynb"], as_version=4)
    asked = {cell.id for cell in workshop.exercise_cells(before)}
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    for old, new in zip(before.cells, after.cells):
        if old.cell_type == "code":
            assert new.source == old.source
            assert new.outputs == ([] if old.id in asked else old.outputs)


@every_notebook
def test_instructors_see_each_solution_and_answer_open_under_the_notes(made, committed, name):
    before = sources(nbformat.writes(committed[name]))
    after = sources(made[f"instructor/{name}.ipynb"])
    assert after.startswith("## Notes for teachers\n\n")
    assert len(after.partition("\n# ")[0]) > 400, "the notes say something"
    for solution in solutions(before):
        assert solution in after
    visible = shown(made[f"instructor/{name}.ipynb"])
    folded = re.findall(r"(?i)<details>\s*<summary>\s*(?:<b>)?(\w+)", visible)
    assert not {word.lower() for word in folded} & {"solution", "answer", "answers"}
    assert headings(after) == headings(before)


@every_notebook
def test_a_page_fetches_nothing_and_its_equations_are_set(made, name):
    page = Page(made[f"html/{name}.html"])
    assert not [address for address in page.fetched if not address.startswith("data:")]
    assert "$$" not in page.text and "\\frac" not in page.text
    assert "@import" not in made[f"html/{name}.html"]
    assert "widget-view" not in made[f"html/{name}.html"]
    pages = {*(f"{n}.html" for n in NAMES), "index.html"}
    for link in page.links:
        assert link.startswith(("#", "https://", "http://")) or link.partition("#")[0] in pages


@every_notebook
def test_a_page_shows_every_stored_picture(made, committed, name):
    outputs = [output for cell in committed[name].cells for output in cell.get("outputs", [])]
    stored = sum("image/png" in output.get("data", {}) for output in outputs)
    assert made[f"html/{name}.html"].count('src="data:image/png') >= stored


# A hostile toy


def test_a_solution_goes_with_everything_folded_inside_and_hints_keep_theirs(toy):
    text = sources(nbformat.writes(workshop.learner(toy)))
    assert "SECRET" not in text and text.count(workshop.REMOVED) == 1
    assert "Write `<details><summary>Solution</summary>` never." in text, "code is text"
    assert "A second hint" in text and "After it." in text
    assert "<summary>Answer</summary>" in text


def test_outputs_of_exercises_go_and_those_after_the_exercise_stay(toy):
    outputs = {c.source: c.outputs for c in workshop.learner(toy).cells if c.cell_type == "code"}
    assert outputs["answer = ..."] == outputs["check(answer)"] == []
    assert outputs["took"] and outputs["slider"]


def test_the_given_notebook_is_not_changed(toy):
    before = nbformat.writes(toy)
    workshop.learner(toy), workshop.instructor(toy, "Ask."), workshop.still(toy)
    assert nbformat.writes(toy) == before


def test_the_instructor_sees_a_solution_open_with_what_is_folded_in_it_and_hints_folded(toy):
    text = sources(nbformat.writes(workshop.instructor(toy, "Ask first.")))
    assert text.startswith("## Notes for teachers\n\nAsk first.\n\n# 42 · The *toy*")
    assert "<details open>\n<summary><b>Solution</b>" in text
    assert "<details open><summary>Why</summary>" in text
    assert "<details open><summary>Answer</summary>" in text
    assert "<details><summary>Hint</summary>" in text
    assert "`<details><summary>Solution</summary>` never" in text and "# <details>" in text


def test_an_answer_that_a_cell_prints_is_open_for_the_instructor_and_folded_for_learners(toy):
    printed = "<details><summary>Answers to all</summary>\n\nTHE ANSWER\n</details>"
    toy.cells[-1].outputs = [new_output("display_data", {"text/markdown": printed})]
    assert "<details open><summary>Answers to all" in shown(
        nbformat.writes(workshop.instructor(toy, "Ask first."))
    )
    assert printed in shown(nbformat.writes(workshop.learner(toy)))


@pytest.mark.parametrize(
    ("link", "page"),
    [
        ("01_other.ipynb#Part", "01_other.html#Part"),
        ("../01_other.ipynb", "01_other.html"),
        ("zh/01_other.ipynb", "zh-01_other.html"),
        ("de/01_other.ipynb", None),
        ("../README.md", None),
    ],
)
def test_a_link_leads_to_the_page_of_its_language(link, page):
    assert workshop.page_of(link, {"01_other", "zh-01_other"}) == page


def test_a_workshop_leaves_out_the_links_to_translations(made):
    for name in ("learner/00_start_here.ipynb", "instructor/00_start_here.ipynb"):
        assert "](zh/" not in made[name] and "简体中文" not in made[name]
    assert "简体中文" not in made["html/00_start_here.html"]


@pytest.mark.parametrize("summary", ["Answer", "Answers", "<b>Answer</b> to it", "One *Solution*"])
def test_answers_and_solutions_are_opened_however_their_summary_is_written(summary):
    opened = workshop.opened_solutions(
        f"<details class='x'><summary>{summary}</summary>x</details>"
    )
    assert opened.startswith("<details class='x' open><summary>")


def test_dollars_in_code_and_prices_stay_and_equations_become_mathml(folder, toy):
    html = workshop.rendered(toy, folder, {"42_toy", "01_other"})
    page = Page(html)
    assert "It costs $5 or $6, not $7–$8, " in page.text and "$7." in page.text
    assert "$5 <em>or</em> $6" in html
    assert "<code>$$</code> or <code>a $$ b</code>" in html
    assert "<code>$HOME $PATH</code>" in html
    assert "$$" not in page.text
    assert html.count("<math") == 6, "e^x, eq. 8, the output, n, x and x_1"
    assert "<span>(8)</span>" in html and "tag" not in page.text
    assert "It is <math" in html, "inside a folded answer on one line too"


def test_links_lead_to_pages_and_those_to_nowhere_are_text(folder, toy):
    page = Page(workshop.rendered(toy, folder, {"42_toy", "01_other"}))
    leads = [link for link in page.links if not link.startswith("#")]
    other = ["01_other.html#Part", "01_other.html", "https://example.org/paper"]
    assert leads == ["index.html", *other]
    assert "07" in page.text


def test_a_widget_is_the_picture_it_showed_or_a_sentence(folder, toy):
    html = workshop.rendered(toy, folder, {"42_toy"})
    assert html.count('src="data:image/png') == 2, "the attachment and the stored output"
    assert html.count(workshop.LIVE) == html.count(workshop.NO_PICTURE) == 1
    assert "VBox" not in html and "<script" not in html


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        "<img alt='' src='http://example.org/x.png'>",
        '<link rel="stylesheet" href="//example.org/x.css">',
        '<iframe title="x" src="https://example.org"></iframe>',
        "<style>@import 'https://example.org/x.css';</style>",
        '<p style="background: url(https://example.org/x.png)">x</p>',
    ],
)
def test_a_page_that_would_fetch_something_is_refused(folder, toy, html):
    toy.cells[4].outputs = [new_output("display_data", {"text/html": html})]
    with pytest.raises(workshop.WorkshopError, match=r"would fetch .*example\.org"):
        workshop.rendered(toy, folder, set())
    assert workshop.fetched(f'<a href="https://example.org">{html}</a>') != []
    assert workshop.fetched('<a href="https://example.org">x</a>') == []


def test_an_equation_with_an_unknown_command_is_named():
    with pytest.raises(workshop.WorkshopError, match=r"x \\foo y"):
        workshop.mathml(r"x \foo y", display=False)
    with pytest.raises(workshop.WorkshopError, match="frac"):
        workshop.mathml(r"\frac{", display=True)


def test_an_underscore_in_the_name_of_a_function_is_set_as_one():
    made = workshop.mathml(r"\text{log\_softmax}(z_i)", display=True)
    assert "<mtext>log_softmax</mtext>" in made and made.count("<msub>") == 1


def test_lines_of_an_aligned_equation_become_rows():
    made = workshop.mathml(r"\begin{aligned}a &= b \\ c &= d\end{aligned}", display=True)
    assert made.count("<mtr>") == 2


@pytest.mark.parametrize("text", ["<details><summary>Solution</summary>x", "x</details>"])
def test_a_fold_that_is_not_closed_is_an_error_and_no_leak(text):
    with pytest.raises(workshop.WorkshopError, match="details>"):
        workshop.without_solutions(text)


def test_what_was_run_or_solved_since_the_last_commit_stays_out(folder):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)

    before = workshop.make(folder)
    git("init")
    git("add", ".")
    git("commit", "-m", "as written")
    for file in folder.glob("*.ipynb"):
        notebook = nbformat.read(file, as_version=4)
        for cell in notebook.cells:
            cell.source += "\nSOLVED"
        nbformat.write(notebook, file)
    assert workshop.make(folder) == before


def test_the_index_has_title_and_minutes(folder):
    page = workshop.make(folder)["html/index.html"]
    assert '<a href="42_toy.html">42 · The toy</a>' in page
    assert "Minutes: About 2 on two cores</small>" in page


def test_notes_end_where_the_next_section_starts_and_a_missing_one_is_named(folder):
    text = (folder / "TEACHING.md").read_text()
    assert workshop.teaching_notes(text, "42_toy") == "Ask first."
    with pytest.raises(workshop.WorkshopError, match="no notes.*07"):
        workshop.teaching_notes(text, "07_new")


@every_notebook
def test_the_notes_for_teachers_answer_every_guess_and_every_exercise(committed, name):
    text = (FOLDER / "TEACHING.md").read_text(encoding="utf-8")
    guesses, _, rest = workshop.teaching_notes(text, name).partition("| exercise |")
    asked = sum("course.guess(" in cell.source for cell in committed[name].cells)
    rows = guesses.partition("| guess |")[2].strip().splitlines()[2:]
    assert len([row for row in rows if row.startswith("| ")]) == asked
    numbers = re.findall(r"(?m)^\| (\d) .+ \| .+ \| .+ \|$", rest)
    found = headings("\n".join(cell.source for cell in committed[name].cells))
    assert numbers == [re.search(r"Exercise (\d)", heading)[1] for heading in found]


# Writing


def test_writing_twice_is_quiet_and_removes_what_is_no_longer_made(folder, tmp_path):
    out = tmp_path / "out"
    workshop.write(workshop.make(folder), out)
    workshop.write(workshop.make(folder), out)
    (folder / "01_other.ipynb").unlink()
    workshop.write(workshop.make(folder), out)
    assert sorted(p.name for p in out.rglob("*.*") if p.is_file()) == [
        ".made.json",
        "42_toy.html",
        "42_toy.ipynb",
        "42_toy.ipynb",
        "index.html",
    ]


def test_what_a_learner_wrote_is_never_overwritten_nor_removed(folder, tmp_path):
    out = tmp_path / "out"
    workshop.write(workshop.make(folder), out)
    mine = out / "learner" / "01_other.ipynb"
    mine.write_text(mine.read_text() + " ")
    kept = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for gone in (False, True):
        if gone:
            (folder / "01_other.ipynb").unlink()
        with pytest.raises(workshop.WorkshopError, match="01_other.ipynb was changed"):
            workshop.write(workshop.make(folder), out)
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == kept


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    shutil.copy(FOLDER / "workshop.py", folder)
    command = [sys.executable, folder / "workshop.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_program_writes_into_the_named_folder_and_says_what(folder):
    done = run(folder, "a room")
    assert done.returncode == 0, done.stderr
    assert "a room/learner     2 notebooks" in done.stdout
    assert (folder / "a room" / "html" / "42_toy.html").is_file()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "TEACHING.md").unlink(), "TEACHING.md is not beside the notebooks"),
        (lambda f: (f / "01_other.ipynb").write_text("{"), "01_other.ipynb cannot be read"),
        (lambda f: (f / "out").write_text("a file"), "out"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence_without_a_traceback(folder, spoil, said):
    spoil(folder)
    done = run(folder, "out")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_make_workshop_runs_the_program_on_the_folder_asked_for(root):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    command = ["make", "-n", "-o", "setup", "workshop", "WORKSHOP=a room"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
    assert 'notebooks/workshop.py "a room"' in said
    assert "workshop/" in (root / ".gitignore").read_text().splitlines()


def test_the_record_names_every_file_written(folder, tmp_path):
    files = workshop.make(folder)
    workshop.write(files, tmp_path / "out")
    assert json.loads((tmp_path / "out" / workshop.RECORD).read_text()).keys() == files.keys()
