"""The prose is idiomatic American English: phrases of the first edition's dialect do not return."""

import io
import json
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED = {  # pattern: what to write instead
    r"\bwhoever\b": "who, anyone who, if you",
    r"\boftener\b": "more often",
    r"\bmend(?:s|ed|ing)?\b": "fix, repair",
    r"\bparted\b": "split",
    r"\bis off by\b": "differs by",
    r"\bby heart\b": "memorized",
    r"\bprais(?:e|ing) (?:or|and|from|/) ?blam(?:e|ing)\b": "positive or negative",
    r"\barriv(?:e|ed|es)\b(?! at)": "transferred, reached",
    r"\bas (?:it|they) came\b": "unchanged",
    r"(?<!-)\bstands?\b(?! for\b| out\b| alone|-in)": "is, are",
    r"\b(?:simply|obviously)\b": "leave it out",
    r"\b(?:models?|teachers?|students?|heads?|layers?|networks?|loss(?:es)?) "
    r"(?:sees?|saw|says?(?! (?:little|nothing|something))|said|hears?|heard|knows?|knew|answers?|answered)\b": (
        "predicts, reads, encodes"
    ),
    r"\b(?:million|billion) numbers\b|\bnumbers (?:a|per) (?:word|token)\b": "parameters, dimensions",
    r"\bhas the result of\b": "what does … return",
    r"(?<!-)\b(?:un)?labell(?:ed|ing)\b|\bcolour\w*|\bbehaviou?r(?<=our)\w*|\bneighbour\w*|\bfavour\w*|\bgrey\b"
    r"|\bcentred?\b|\b(?:memor|normal|initial|optim|general|minim|maxim|regular|quant|summar|"
    r"visual|token|real|organ|recogn|character)is(?:e|ed|es|ing|ation)\b": "American spelling",
}
SKIP = {"tests/test_prose.py", "tests/parity", "LICENSE"}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [
        n
        for n in listed.split("\0")
        if n.endswith((".py", ".md", ".ipynb", ".cff", ".html", ".js"))
    ]
    return [ROOT / n for n in names if not any(n.startswith(skip) for skip in SKIP)]


def prose_of(file: Path) -> str:
    """What people read: all of a text file; cells of a notebook; names, comments and strings of Python."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    if file.suffix != ".py":
        return text
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    kinds.add(tokenize.NAME)  # names are read as well
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


# Jiao et al. 2020, Findings of EMNLP.
SECTIONS = "2.1 2.2 3.1 3.2 4.1 4.2 4.3 4.4 4.5 4.5.1 4.5.2 4.6".split()
EQUATIONS, TABLES = range(1, 12), range(1, 8)


@pytest.mark.parametrize("file", tracked(), ids=lambda f: str(f.relative_to(ROOT)))
def test_sections_equations_and_tables_are_those_of_the_paper(file):
    text = prose_of(file)
    for number in re.findall(r"\b[Ss]ections? (\d\.\d(?:\.\d)?)", text):
        assert number in SECTIONS
    for number in re.findall(r"\b(?:[Ee]quations?|[Ee]qs?\.) (\d+)", text):
        assert int(number) in EQUATIONS
    for number in re.findall(r"\bTables? (\d+)", text):
        assert int(number) in TABLES


@pytest.mark.parametrize("file", tracked(), ids=lambda f: str(f.relative_to(ROOT)))
def test_no_phrase_of_the_dialect_is_left(file):
    text = prose_of(file)
    found = [
        f"{match[0]!r} in …{text[max(0, match.start() - 40) : match.end() + 40]!r}: write {better}"
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "Whoever writes this has measured noise",
        "the heads that arrived best",
        "what the student says",
        "a teacher of 22.7 million numbers",
        "praise or blame?",
        "the colours of labelled rows",
        "it stands below the line",
    ],
)
def test_the_dialect_is_recognized(text):
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in BANNED)


@pytest.mark.parametrize(
    "text", ["understands", "a stand-in", "aria-labelledby", "the word praise", "off-by-one errors"]
)
def test_plain_english_is_not(text):
    assert not any(re.search(pattern, text, re.IGNORECASE) for pattern in BANNED)
