"""No number in a notebook's prose without a source: an output, the code, or the paper."""

import json
import re
from pathlib import Path

import pytest

from tinybert_lite.data import tasks
from tinybert_lite.models import loading

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.rglob("*.ipynb"))

# Decimals, percentages, multiples, and whole numbers from 1,000 on: what a reader takes for measured.
NUMBER = re.compile(
    r"(?<![\w.,·–-])"
    r"(?P<digits>\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d+)?"
    r"(?P<unit>\s?%| ?×| times\b|-fold\b)?"
    r"(?![\w·])"
)
REMOVED = (
    re.compile(  # what is no prose: code, formulas, links, tags, numbers of sections and tables
        r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|<[^>]*>"
        r"|\b(?:[Ss]ections?|[Tt]ables?|[Ee]quations?|eqs?\.|[Ff]igures?|[Nn]otebooks?|[Aa]ppendix)"
        r"\s[\d.]+(?:(?:,| and| to|–|,? or)\s?[\d.]+)*",
        re.DOTALL,
    )
)
# Numbers of the papers that the course quotes, with their place; Jiao et al. 2020.
QUOTED = {
    "22.5": "Table 1, billion FLOPs of BERT-base",
    "75.6": "Table 2, average of four tasks",
    "68.4": "Table 2, the same without data augmentation",
    "50.8": "Table 2, CoLA",
    "29.8": "Table 2, CoLA without data augmentation",
    "2,500": "section 4.2, million words of English Wikipedia",
    "1,043": "CoLA's dev set in GLUE",
}
# Settings of runs on file, which no output of the notebook prints.
RECORDED = {
    "1,701": "notebook 07, section 7: steps of the run that is tabled there",
    "1,210": "notebook 07, section 7: steps of the run that is tabled there",
    "1,700": "tests/benchmarks/bench_reviews.py: steps on the layers, rounded",
    "1,100": "tests/benchmarks/bench_reviews.py: steps on the predictions, rounded",
    "2,800": "tests/benchmarks/bench_reviews.py: both, rounded",
    "8,000": "tests/benchmarks/bench_reviews.py: passages that CSE reads",
}
# What a question imagines, not what was measured: notebook and number.
IMAGINED = {
    ("02_attention_maps", "0.000001"),
    ("04_soft_labels", "256 times"),  # 16 squared
    ("08_what_transferred", "0.9"),
    ("11_your_own", "52%"),
    ("11_your_own", "95%"),
}


def data_sizes() -> dict[str, int]:
    """Sizes of the data that the prose may name, computed from the data."""
    reviews = tasks.load_task("reviews")
    return {
        "2,074": len(reviews.splits["test"]),
        "7,212": len(reviews.splits["train"]),
        "13,000": round(len(tasks.unlabeled_sentences()), -3),
        "784": len(reviews.splits["dev"]),
        "30,522": loading.load_config("minilm").vocab_size,
        "30522": loading.load_config("minilm").vocab_size,
    }


def prose_numbers(text: str) -> list[tuple[str, str, bool]]:
    """(as written, plain digits, is it a ratio or percentage) of each number to be sourced."""
    found = []
    for match in NUMBER.finditer(REMOVED.sub(" ", text)):
        digits, decimals, unit = match["digits"], match["decimals"] or "", match["unit"]
        plain = digits.replace(",", "") + decimals
        year = not decimals and not unit and "," not in digits and 1900 < int(plain) < 2100
        if (decimals or unit or float(plain) >= 1000) and not year:
            found.append((match[0].strip(), plain, unit is not None and "%" in unit))
    return found


def sources(notebook: dict) -> list[float]:
    """All numbers that the notebook's code holds or its stored outputs print."""
    texts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        texts.append("".join(cell["source"]))
        for output in cell["outputs"]:
            texts.append("".join(output.get("text", "")))
            for kind, data in output.get("data", {}).items():
                if kind in ("text/plain", "text/markdown", "text/html"):
                    texts.append(re.sub(r"<[^>]*>", " ", "".join(data)))
    found = re.findall(r"\d[\d,_]*(?:\.\d+)?(?:e-?\d+)?", " ".join(texts))
    numbers = [re.sub(r"[,_]", "", one) for one in found]
    return [float(one) for one in numbers if one]


def has_source(plain: str, percent: bool, numbers: list[float]) -> bool:
    """Whether a number, rounded to the digits written, equals one of `numbers`."""
    places = len(plain.partition(".")[2])
    half = 0.5 * 10**-places + 1e-9
    wanted = float(plain)
    return any(
        abs(number - wanted) <= half or (percent and abs(100 * number - wanted) <= half)
        for number in numbers
    )


@pytest.fixture(scope="module")
def sizes():
    return data_sizes()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: str(f.relative_to(FOLDER)))
def test_every_number_of_the_prose_has_a_source(file, sizes):
    notebook = json.loads(file.read_text())
    numbers = sources(notebook)
    for place, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "markdown":
            continue
        for written, plain, percent in prose_numbers("".join(cell["source"])):
            known = written in QUOTED or written in RECORDED or written in sizes
            imagined = (file.stem, written.replace(" %", "%")) in IMAGINED
            source = known or imagined or has_source(plain, percent, numbers)
            assert source, f"cell {place}: {written} is in no output, setting or table"


def test_the_sizes_of_the_data_are_as_quoted(sizes):
    assert {written: int(written.replace(",", "")) for written in sizes} == sizes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("accuracy fell from 87.3 to 85 %, 2.3 points", ["87.3", "85 %", "2.3"]),
        ("in `0.5` and $x = 0.25$ and section 3.1, equations 7 and 8", []),
        ("7,212 sentences of 2020, 12 heads, 1.5 times", ["7,212", "1.5 times"]),
        ("layer 1, head 1·3, [a link](https://a.b/1.2)", []),
    ],
)
def test_what_is_taken_for_a_number_that_needs_a_source(text, found):
    assert [written for written, _, _ in prose_numbers(text)] == found


@pytest.mark.parametrize(
    ("plain", "percent", "sourced"),
    [("0.52", False, True), ("0.53", False, False), ("52", True, True), ("1.7", False, True)],
)
def test_a_source_may_have_more_digits_but_not_other_ones(plain, percent, sourced):
    assert has_source(plain, percent, [0.523, 1.68]) == sourced
