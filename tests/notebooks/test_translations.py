"""A translated notebook, notebooks/LANGUAGE/NAME.ipynb, has the cells of its original.

Code is compared without its comments, and without the strings that readers see. Text is compared by
what translation leaves alone: headings, code, formulas, numbers, links, tables, folded parts.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from matplotlib import font_manager, ft2font

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
TRANSLATIONS = sorted(FOLDER.glob("[a-z][a-z]/*.ipynb"))
# A string may differ from the original only where it is translated: by the letters of the language.
LETTERS = {"zh": r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"}  # Chinese, with its punctuation
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAME = {
    "headings": r"^(#+) ",
    "formulas": r"(\$\$.+?\$\$|\$[^$\n]+\$)",
    "code spans": r"(`[^`\n]+`)",
    "numbers": r"\d+(?:[.,]\d+)*",
    "HTML": r"(</?[a-z]+)\b",
    "rows": r"^(\|)",
    "items": r"^(\d+\.|-) ",
}
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=[\"']([^\"']+)")


class Skeleton(ast.NodeTransformer):
    """Takes the strings out of a piece of code and keeps them, in order, in `strings`.

    Of an f-string the values and their formats stay, in an order of their own: another language
    may need another one.
    """

    def __init__(self) -> None:
        self.strings: list[str] = []

    def visit_Constant(self, node):
        if not isinstance(node.value, str):
            return node
        self.strings.append(node.value)
        return ast.Constant("text")

    def visit_JoinedStr(self, node):
        self.strings.append("".join(v.value for v in node.values if isinstance(v, ast.Constant)))
        values = [v for v in node.values if isinstance(v, ast.FormattedValue)]
        for value in values:
            value.value = self.visit(value.value)
        return ast.JoinedStr(sorted(values, key=ast.dump))


def code_differences(original: str, translation: str, letters: str) -> list[str]:
    """What differs between two pieces of code beyond comments and translated strings."""
    found = []
    for source in (original, translation):
        skeleton = Skeleton()
        tree = skeleton.visit(ast.parse(TransformerManager().transform_cell(source)))
        found.append((ast.dump(tree), skeleton.strings))
    (code, strings), (other_code, other_strings) = found
    if code != other_code:
        return ["code"]
    pairs = zip(strings, other_strings, strict=True)
    return [f"string {b!r}" for a, b in pairs if a != b and not re.search(letters, b)]


def text_differences(original: str, translation: str, letters: str, name: str) -> list[str]:
    """What differs between two Markdown texts beyond their words."""
    found = []
    fences, other_fences = FENCE.findall(original), FENCE.findall(translation)
    if [kind for kind, _ in fences] != [kind for kind, _ in other_fences]:
        found.append("fenced code")
    else:
        for (_, code), (_, other_code) in zip(fences, other_fences):
            found += code_differences(code, other_code, letters)
    texts = FENCE.sub("", original), FENCE.sub("", translation)
    links = [[a or b for a, b in LINK.findall(text)] for text in texts]
    if Counter(moved(link, name) for link in links[0]) != Counter(links[1]):
        found.append("links")
    plain = [LINK.sub("", text) for text in texts]
    for what, pattern in SAME.items():
        marks, others = (re.findall(pattern, text, re.MULTILINE) for text in plain)
        if what in ("headings", "HTML"):
            same = marks == others
        else:
            same = Counter(marks) == Counter(others)
        if not same:
            found.append(what)
    return found


def moved(link: str, name: str) -> str:
    """A link of an original as its translation needs it: from one folder further down.

    The link to the translation becomes the link back; this and "../" are all that changes.
    """
    if re.match(r"[a-z]+:|#", link):
        return link
    path = re.sub(rf"^[a-z][a-z]/(?={re.escape(name)}$)", "", link)
    return f"../{path}"


def differences(original, translation, language: str, name: str) -> list[str]:
    """Cells of a translation that are not those of its original, with what is wrong."""
    here, there = (
        [(cell.id, cell.cell_type, cell.metadata.get("tags", [])) for cell in book.cells]
        for book in (original, translation)
    )
    if here != there:
        return ["cells"]
    found = []
    for cell, other in zip(original.cells, translation.cells):
        if cell.cell_type == "code":
            said = code_differences(cell.source, other.source, LETTERS[language])
        else:
            said = text_differences(cell.source, other.source, LETTERS[language], name)
        found += [f"{cell.id}: {what}" for what in said]
    return found


def read(file: Path):
    return nbformat.read(file, as_version=4)


every_translation = pytest.mark.parametrize(
    "file", TRANSLATIONS, ids=lambda file: f"{file.parent.name}-{file.stem}"
)


def test_there_is_a_translation():
    assert TRANSLATIONS


@every_translation
def test_a_translation_has_the_cells_of_its_original(file):
    original = read(FOLDER / file.name)
    assert differences(original, read(file), file.parent.name, file.name) == []


@every_translation
def test_original_and_translation_link_to_each_other(file):
    first = read(FOLDER / file.name).cells[0].source
    assert f"]({file.parent.name}/{file.name})" in first
    assert f"](../{file.name})" in read(file).cells[0].source


@every_translation
def test_every_text_is_translated(file):
    for cell, other in zip(read(FOLDER / file.name).cells, read(file).cells, strict=True):
        if cell.cell_type == "markdown":
            assert cell.source != other.source
            for words in re.split(LETTERS[file.parent.name], FENCE.sub("", other.source)):
                plain = re.sub(
                    r"`[^`]*`|\([^)]*\.ipynb\)|\*[^*]*\*|<[^>]*>|[\"“].*?[\"”]", "", words
                )
                assert len(plain.split()) < 8, f"left in English: {plain}"


@every_translation
def test_pictures_use_only_letters_that_matplotlib_brings_along(file):
    """A font with, for example, Chinese letters is not on every machine."""
    has = ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    for cell in read(file).cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            skeleton = Skeleton()
            skeleton.visit(ast.parse(TransformerManager().transform_cell(cell.source)))
            missing = {letter for letter in "".join(skeleton.strings) if ord(letter) not in has}
            assert not missing, f"{cell.id}: no font for {''.join(missing)}"


@pytest.mark.parametrize(
    ("cell_type", "old", "new", "found"),
    [
        ("code", "repeats=8", "repeats=9", "code"),
        ("code", ".0%", ".1%", "code"),
        ("code", '"reviews-nano"', '"reviews-lite"', "string 'reviews-lite'"),
        ("code", "if ", "while ", "code"),
        ("markdown", "2,074", "2,047", "numbers"),
        ("markdown", "`nano`", "nano", "code spans"),
        ("markdown", "](../07_task_distillation.ipynb)", "](07_task_distillation.ipynb)", "links"),
        ("markdown", "/ (teacher - majority)", "/ (teacher - student)", "code"),
        ("markdown", "### ", "## ", "headings"),
        ("markdown", "</details>", "", "HTML"),
        ("markdown", "```python", "```", "fenced code"),
        ("markdown", "| 03 |", "03 |", "rows"),
        ("markdown", "\n2. ", "\n\n", "items"),
    ],
)
def test_what_differs_is_found(cell_type, old, new, found):
    name = "00_start_here.ipynb"
    original, translation = read(FOLDER / name), read(FOLDER / "zh" / name)
    cells = [c for c in translation.cells if c.cell_type == cell_type and old in c.source]
    cells[0].source = cells[0].source.replace(old, new, 1)
    assert f"{cells[0].id}: {found}" in differences(original, translation, "zh", name)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda cells: cells.pop(3), id="missing"),
        pytest.param(lambda cells: cells.reverse(), id="order"),
        pytest.param(lambda cells: cells[0].update(cell_type="raw"), id="type"),
    ],
)
def test_missing_and_changed_cells_are_found(change):
    name = "00_start_here.ipynb"
    original, translation = read(FOLDER / name), read(FOLDER / "zh" / name)
    change(translation.cells)
    assert differences(original, translation, "zh", name) == ["cells"]


def test_an_f_string_may_say_its_values_in_another_order():
    original, translation = 'print(f"{a:.1f} of {b}")', 'print(f"{b} 中的 {a:.1f}")'
    assert code_differences(original, translation, LETTERS["zh"]) == []
    assert code_differences(original, original.replace("of", "in"), LETTERS["zh"]) != []
