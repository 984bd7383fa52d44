"""docs/own_data.md: its commands and example tables work, and its notes are what such tables give."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data.table_files import write_table
from tinybert_lite import UserError
from tinybert_lite.cli import build_parser, config_of
from tinybert_lite.data import hub, tables
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.validation import load_task

SHOWN = {  # the labels of the example tables
    "reviews.csv": ["bad", "good", "bad"],
    "tickets.xlsx": ["delivery", "billing", "delivery"],
    "mails.jsonl": ["True", "False", "True"],
    "posts.parquet": ["0", "1", "0"],
    "hub:saved-imdb": ["1", "0", "1"],
    "pairs.tsv": ["entailment", "contradiction", "entailment"],
    "stars.csv": [4.5, 2.8, 1.0],
    "topics.csv": [("cast", "plot"), ("music",), ()],
    "complaints.csv": ["ok", "ok", "complaint"],
}
THINGS = "acting script music camera pace ending sound dialogue façade".split()


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "own_data.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    return re.findall(r"(?m)^python -m tinybert_lite (run .+)$", page)


def write_shown(page: str, name: str) -> None:
    """Write the example table of the page that is introduced by this name."""
    import datasets
    import pandas as pd

    start = page.index(f"`{name.removeprefix('hub:')}`")
    block = page[start:].split("\n\n")[1]
    if block.startswith("```"):
        lines = block.split("\n")[1:-1]
        encoding = "cp1252" if name == "reviews.csv" else "utf-8"
        Path(name).write_text("\n".join(lines), encoding=encoding)
        return
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.split("\n")]
    frame = pd.DataFrame(rows[2:], columns=rows[0])
    last = frame.columns[-1]
    frame[last] = pd.to_numeric(frame[last]) if "xlsx" not in name else frame[last]
    if name.endswith(".xlsx"):
        frame.to_excel(name, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(name)
    else:
        split = datasets.Dataset.from_pandas(frame)
        datasets.DatasetDict(train=split).save_to_disk(name.removeprefix("hub:"))


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


@pytest.mark.parametrize("name", SHOWN)
def test_the_command_of_a_section_reads_the_table_shown_above_it(page, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_shown(page, name)
    (command,) = (c for c in commands(page) if f"--train {name} " in c)
    config = config_of(DistillationConfig, build_parser().parse_args(shlex.split(command)))
    columns = tables.Columns(
        config.text, config.label, config.text_pair, config.regression, config.multi_label
    )
    read = tables.read_examples(config.train, columns, [])
    assert read.labels == SHOWN[name]
    assert len(set(read.joined())) == 3


def test_every_section_of_the_page_is_linked_from_its_table(page):
    sections = re.findall(r"(?m)^## (.+)$", page)
    anchors = [re.sub(r"[^\w-]", "", s.lower().replace(" ", "-")) for s in sections]
    assert set(re.findall(r"\(#([\w-]+)\)", page)) == set(anchors)
    assert len(anchors) >= 9
