"""docs/own_data.md: its commands are commands, and its notes are what such tables give."""

import re
import shlex

import pytest

from tests.data.table_files import write_table
from tinybert_lite import UserError
from tinybert_lite.cli import build_parser, config_of
from tinybert_lite.data import hub
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.validation import load_task

THINGS = "acting script music camera pace ending sound dialogue façade".split()


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "own_data.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    return re.findall(r"(?m)^python -m tinybert_lite (run .+)$", page)


def sentence(i: int) -> str:
    n = len(THINGS)
    return (
        f"The {THINGS[i % n]} was {THINGS[i * i % n]} and the {THINGS[i // n % n]} no. {i}, façade"
    )


@pytest.fixture
def made(tmp_path, monkeypatch) -> None:
    """The tables that the commands name, made up, in the current folder."""
    import datasets
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    texts = [sentence(i) for i in range(160)]

    def write(kind: str, to: str, header: list[str], rows: list) -> None:
        (tmp_path / write_table(tmp_path, kind, header, rows)).rename(tmp_path / to)

    def rows(*labels) -> list[list]:
        return [[text, labels[i % len(labels)]] for i, text in enumerate(texts)]

    write("windows-semicolon.csv", "reviews.csv", ["Text", "Urteil"], rows("bad", "good"))
    with pd.ExcelWriter("tickets.xlsx") as book:
        frame = pd.DataFrame(rows("delivery", "billing"), columns=["message", "team"])
        frame.to_excel(book, sheet_name="March", index=False)
        frame.to_excel(book, sheet_name="notes", index=False)
    write("lines.jsonl", "mails.jsonl", ["body", "spam"], rows(True, False))
    write("table.parquet", "posts.parquet", ["post", "toxic"], rows(0.0, 1.0))
    pairs = [[text, f"not so, {text}", "yes no".split()[i % 2]] for i, text in enumerate(texts)]
    write("tab.tsv", "pairs.tsv", ["premise", "hypothesis", "label"], pairs)
    write("semicolon.csv", "stars.csv", ["review", "stars"], rows("1,9", "3,2", "4,0"))
    write("comma.csv", "topics.csv", ["text", "about"], rows("cast|plot", "music", "cast", ""))
    write("comma.csv", "complaints.csv", ["text", "label"], rows(*["ok"] * 11, "complaint"))
    split = datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(160)]})
    datasets.DatasetDict(train=split, test=split).save_to_disk("saved-imdb")


def test_every_command_of_the_page_loads_its_table_and_every_note_of_the_page_is_given(page, made):
    notes, kinds = [], set()
    for command in commands(page):
        given = build_parser().parse_args(shlex.split(command))
        if {"FILE", "hub:OWNER/NAME"} & set(shlex.split(command)):
            with pytest.raises(UserError):
                load_task(config_of(DistillationConfig, given))
            continue
        task = load_task(config_of(DistillationConfig, given))
        notes += task.notes
        kinds.add(task.kind)
    assert kinds == {"classification", "regression", "multilabel"}
    quoted = re.findall(r"(?m)^note: (.+)$", page)
    assert len(quoted) >= 5
    assert set(quoted) <= set(notes)


def test_every_section_of_the_page_is_linked_from_its_table(page):
    sections = re.findall(r"(?m)^## (.+)$", page)
    anchors = [re.sub(r"[^\w-]", "", s.lower().replace(" ", "-")) for s in sections]
    assert set(re.findall(r"\(#([\w-]+)\)", page)) == set(anchors)
    assert len(anchors) >= 9
