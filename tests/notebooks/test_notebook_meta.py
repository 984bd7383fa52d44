"""What holds for every notebook: whole outputs, all parts, every exercise with its check."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TRANSLATIONS = sorted(FOLDER.glob("[a-z][a-z]/*.ipynb"))  # of equal parts: test_translations.py
PARTS = {
    "goals": r"what you will learn",
    "needs": r"what you need",
    "minutes": r"minutes",
    "exercises": r"^#+ exercise",
    "summary": r"^#+ .*summary",
    "recall": r"^#+ .*(recall|questions)",
    "what to read next": r"read next",
}
MACHINE_PATHS = re.compile(r"(?<![\w:/.])/(?:work|root|home|tmp|Users|mnt|opt)/\w|[A-Z]:\\\\?Users")


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"])]


def text_of(notebook: dict) -> str:
    return "\n\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] != "code")


def exercises_of(notebook: dict) -> dict[str, list[dict]]:
    """The cells of each exercise, by its heading: up to the next exercise or section."""
    found, current = {}, None
    for cell in notebook["cells"]:
        heading = re.match(r"^(#+) (.*)", "".join(cell["source"]))
        if cell["cell_type"] == "markdown" and heading:
            title = heading.group(2)
            current = title if re.match(r"Exercise \d", title) else None
            if current:
                found[current] = []
        if current:
            found[current].append(cell)
    return found


every_notebook = pytest.mark.parametrize(
    "file", NOTEBOOKS + TRANSLATIONS, ids=lambda f: str(f.relative_to(FOLDER).with_suffix(""))
)
every_original = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_stored_outputs_are_complete_and_in_order(file):
    counts = [cell["execution_count"] for cell in code_cells(read(file))]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_no_stored_output_is_an_error_or_on_stderr(file):
    for cell in code_cells(read(file)):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", "".join(cell["source"])
            assert output.get("name") != "stderr", "".join(output["text"])


@every_notebook
def test_nothing_is_skipped_and_what_is_ignored_has_a_reason(file):
    for cell in code_cells(read(file)):
        source = "".join(cell["source"])
        assert "NBVAL_SKIP" not in source
        assert "nbval-skip" not in cell["metadata"].get("tags", [])
        for line in re.findall(r"^.*NBVAL_IGNORE_OUTPUT.*$", source, re.MULTILINE):
            reason = line.partition("NBVAL_IGNORE_OUTPUT")[2].strip(" :,;-")
            assert len(reason.split()) >= 3, f"why is the output ignored? {line}"


@every_notebook
def test_some_deterministic_output_is_compared(file):
    assert any(
        "NBVAL_CHECK_OUTPUT" in "".join(c["source"])
        or "nbval-check-output" in c["metadata"].get("tags", [])
        for c in code_cells(read(file))
    )


@every_notebook
def test_no_placeholder_is_left(file):
    for cell in read(file)["cells"]:
        found = re.search(r"@[A-Z_]{2,}@|\bTODO\b|\bFIXME\b|\bXXX\b", "".join(cell["source"]))
        assert not found, found[0]


@every_notebook
def test_no_path_of_a_machine_is_stored(file):
    notebook = read(file)
    for cell in notebook["cells"]:
        stored = json.dumps([cell["source"], cell.get("outputs", [])], ensure_ascii=False)
        found = MACHINE_PATHS.search(re.sub(r'"image/png": "[^"]*"', "", stored))
        assert not found, stored[max(0, found.start() - 60) : found.end() + 60]


@every_notebook
def test_a_notebook_is_smaller_than_one_and_a_half_megabytes(file):
    assert file.stat().st_size < 1_500_000


@every_notebook
def test_no_cell_is_longer_than_thirty_lines(file):
    lengths = [len("".join(c["source"]).splitlines()) for c in code_cells(read(file))]
    assert max(lengths) <= 30
    assert sorted(lengths)[len(lengths) // 2] <= 12, "most cells are short"


@every_notebook
def test_no_control_is_a_list_from_which_jupyterlab_takes_the_arrow_keys(file):
    """In a <select> of ipywidgets an arrow key moves to another cell instead."""
    for cell in code_cells(read(file)):
        found = re.search(r"\b(Dropdown|Select|SelectMultiple)\b", "".join(cell["source"]))
        assert not found, f"{found[0]}: take ToggleButtons or a slider"


@every_notebook
def test_the_kernel_is_plain_python(file):
    assert read(file)["metadata"]["kernelspec"]["name"] == "python3"


@every_original
@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_there(file, part):
    assert re.search(PARTS[part], text_of(read(file)), re.IGNORECASE | re.MULTILINE)


@every_original
def test_there_are_three_exercises_each_with_check_hint_and_solution(file):
    found = exercises_of(read(file))
    assert len(found) >= 3
    for title, cells in found.items():
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        assert re.search(r"exercises\.check_\w+\(", code), f"{title}: no check"
        assert re.search(r"<details>\s*<summary>.*hint", prose, re.I), f"{title}: no hint"
        assert re.search(r"<details>\s*<summary>.*solution", prose, re.I), f"{title}: no solution"
        assert re.search(r"\d+ minutes", prose), f"{title}: no minutes"
        assert re.search(r"difficulty", prose, re.I), f"{title}: no difficulty"


@every_original
def test_five_questions_have_folded_answers(file):
    text = text_of(read(file))
    start = re.search(r"^#+ .*(recall|questions).*$", text, re.IGNORECASE | re.MULTILINE).end()
    assert text[start:].lower().count("<summary>answer") >= 5


@every_notebook
def test_every_folded_part_is_closed(file):
    for cell in read(file)["cells"]:
        source = "".join(cell["source"])
        assert source.count("<details") == source.count("</details>")


@every_notebook
def test_no_stored_output_of_an_exercise_gives_its_solution_away(file):
    for cell in code_cells(read(file)):
        if not re.search(r"exercises\.check_\w+\(", "".join(cell["source"])):
            continue
        for output in cell["outputs"]:
            text = "".join(output.get("text", []))
            checked = [line for line in text.splitlines() if line.startswith("[")]
            assert all(line.startswith("[not tried]") for line in checked)


def test_the_course_has_forty_exercises_with_a_hundred_and_sixty_wrong_answers():
    titles = [title for file in NOTEBOOKS for title in exercises_of(read(file))]
    assert len(titles) >= 40
    tests = (FOLDER.parent / "tests" / "course").glob("test_exercises*.py")
    assert sum(file.read_text().count("\n@wrong(") for file in tests) >= 160
