"""Command lines that documents, notebooks and cards quote are ones that the program accepts."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tinybert_lite import UserError
from tinybert_lite.cli import build_parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("data/**/README.md"),
    *ROOT.glob("notebooks/*.md"),
    *ROOT.glob("notebooks/*.ipynb"),
]
QUOTED = re.compile(r"python -m tinybert_lite ([^\n`|\"'…;]+)")


def quoted(document: Path) -> list[str]:
    """The complete command lines in a document; `run` alone names a command."""
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    commands = [m[1].split("#")[0] for m in QUOTED.finditer(text.replace("\\\n", " "))]
    return [c.strip().rstrip(".,:") for c in commands if "--out" in c and "[" not in c]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_command_lines_in_a_document_are_accepted(document):
    for command in quoted(document):
        try:
            build_parser().parse_args(shlex.split(command))
        except UserError as error:
            pytest.fail(f"{command}: {error}")


def test_command_lines_are_found():
    assert sum(len(quoted(document)) for document in DOCUMENTS) >= 5
