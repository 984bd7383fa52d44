"""Bad tables, generated: each ends in one sentence and exit status 2, and no file is changed.

Every fault is drawn several times, for every format it can have, and goes through the command line.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.data.table_files import DELIMITED, KINDS, TYPED, write_table
from tests.faults.user_errors import contents, tell

WORDS = "plot cast sound pace script ending music camera story scene light end".split()
TYPED_LISTS = ("lines.jsonl", "table.parquet", "hub:saved")
BINARY = ("table.parquet", "sheet.xlsx")
TEXT = tuple(kind for kind in DELIMITED if not kind.endswith(".gz")) + ("lines.jsonl",)
WITHOUT_MARK = ("comma.csv", "semicolon.csv", "tab.csv", "bar.csv", "tab.tsv", "lines.jsonl")


def good_rows(draw: random.Random, labels=("yes", "no"), n: int = 24) -> list[list]:
    """Rows with nothing wrong, of a text and a label."""
    first = draw.randrange(10**6)
    texts = [f"{' '.join(draw.choices(WORDS, k=6))} {first + i}" for i in range(n)]
    return [[text, labels[i % len(labels)]] for i, text in enumerate(texts)]


class Draw:
    """One generated input: where it is written, and by which random choices."""

    def __init__(self, folder: Path, kind: str, seed: int):
        self.folder, self.kind = folder, kind
        self.random = random.Random(f"{kind} {seed}")

    def table(self, rows=None, header=("text", "label")) -> str:
        """A table of these rows, or of good ones; returns its name."""
        rows = good_rows(self.random) if rows is None else rows
        return write_table(self.folder, self.kind, list(header), rows)

    def with_row(self, row: list, labels=("yes", "no")) -> str:
        """A table of good rows with this one among them."""
        rows = good_rows(self.random, labels)
        rows.insert(self.random.randrange(len(rows)), row)
        return self.table(rows)

    def changed(self, change: Callable[[bytes], bytes]) -> str:
        """A good table whose bytes are changed."""
        file = Path(self.table())
        file.write_bytes(change(file.read_bytes()))
        return str(file)

    def line(self, content: str) -> str:
        """A good text file with this line in it."""
        encoding = DELIMITED.get(self.kind, ("", "utf-8"))[1].replace("-sig", "")
        end = "\n".encode(encoding)[-(2 if "16" in encoding else 1) :]
        made = content.encode(encoding).removeprefix(b"\xff\xfe") + end

        def add(data: bytes) -> bytes:
            lines = data.split(end)
            at = self.random.randrange(2, len(lines))
            return end.join(lines[:at]) + end + made + end.join(lines[at:])

        return self.changed(add)

    def delimiter(self) -> str:
        return DELIMITED[self.kind][0]


def cut(d: Draw) -> str:
    return d.changed(lambda data: data[: d.random.randrange(len(data) * 9 // 10)])


def other_alphabet(d: Draw) -> str:
    encoding, letters = d.random.choice(
        [("cp1251", "хорошийфильм"), ("gbk", "这部电影非常精彩"), ("koi8-r", "сюжетскучный"),
         ("shift-jis", "この映画は面白い"), ("cp1253", "ηταινιαηταν"), ("big5", "這部電影非常精彩")]
    )  # fmt: skip
    lines = ["text,label", *("".join(d.random.choices(letters, k=30)) + ",a" for _ in range(30))]
    (d.folder / "a.csv").write_bytes("\n".join(lines).encode(encoding))
    return str(d.folder / "a.csv")


def renamed(d: Draw) -> str:
    file, suffix = Path(d.table()), d.random.choice([".csv", ".tsv", ".jsonl"])
    return str(file.rename(file.with_suffix(suffix)))


def damaged_set(d: Draw) -> str:
    folder = Path(d.table().removeprefix("hub:"))
    file = next(folder.glob(d.random.choice(["*.arrow", "state.json", "dataset_info.json"])))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return f"hub:{folder}"


def odd_hub_name(d: Draw) -> str:
    return "hub:" + d.random.choice(
        ["", ":", "a b", "a/b/c", "/", "..", "owner/", "/name", "a:b:c:d", "no-such/set", "?", "a//b",
         "~", "nobody", "no-such/set:test", "no-such/set:train:en", "é é", "-", "a/b:c:"]
    )  # fmt: skip


# fault: formats it can have, the table, further arguments, what the sentence must have
FAULTS: dict[str, tuple] = {
    "no such column": (KINDS, lambda d: d.table(header=("text", "gold")), "", "has no column 'label'"),
    "column twice": ((*DELIMITED, "sheet.xlsx"), lambda d: d.table([[*r, r[1]] for r in good_rows(d.random)], ("text", "label", "label")), "", "2 columns 'label'"),
    "only a header": ((*DELIMITED, "table.parquet", "sheet.xlsx"), lambda d: d.table([]), "", "no rows"),
    "missing labels": (KINDS, lambda d: d.with_row(["a text", None]), "", "1 of the 25 rows"),
    "too few rows": (KINDS, lambda d: d.table(good_rows(d.random, n=d.random.randint(1, 9))), "", "at least 10"),
    "one class": (KINDS, lambda d: d.table(good_rows(d.random, ["same"])), "", "at least two classes"),
    "one class of a whole number": (BINARY, lambda d: d.table(good_rows(d.random, [1.0])), "", "have the label '1'"),
    "an id for a label": (KINDS, lambda d: d.table(good_rows(d.random, [f"id{i}" for i in range(24)])), "", "24 different labels"),
    "dates that all differ": (("table.parquet", "sheet.xlsx"), lambda d: d.table([[t, f"2024-01-{i + 1:02d}"] for i, (t, _) in enumerate(good_rows(d.random))]), "", "24 different labels"),
    "empty texts": (KINDS, lambda d: d.table([[" ", x] for _, x in good_rows(d.random)]), "", "have an empty text"),
    "a row too long": (tuple(DELIMITED)[:-1], lambda d: d.line(d.delimiter().join("abcd"[: d.random.randint(3, 4)])), "", "fields where the header has 2"),
    "a row too short": (tuple(DELIMITED)[:-1], lambda d: d.line("alone"), "", "1 field where the header has 2"),
    "open quote": (("comma.csv", "semicolon.csv", "bar.csv", "windows.csv", "utf-16.csv"), lambda d: d.line('"open' + d.delimiter() + "yes"), "", "do not pair"),
    "NUL": (WITHOUT_MARK, lambda d: d.line("a\0b" + ",;|\t"[d.random.randrange(4)] + "yes"), "", "NUL character in line"),
    "odd half of UTF-16": (("utf-16.csv", "utf-16-tab.csv"), lambda d: d.changed(lambda x: x + b"x"), "", "is not UTF-16"),
    "broken UTF-8": (("comma.csv", "semicolon.csv", "lines.jsonl"), lambda d: d.changed(lambda x: x + "é".encode() * 9 + b"\xe9"), "", "is not UTF-8 text: byte"),
    "another alphabet": (("other 0", "other 1", "other 2"), other_alphabet, "", "is not UTF-8 text: byte"),
    "cut": ((*BINARY, "packed.csv.gz"), cut, "", "damaged"),
    "another format in its name": (BINARY, renamed, "", " is a"),
    "a text named a workbook": (TEXT, lambda d: str(Path(d.table()).rename(d.folder / "a.xlsx")), "", "not an Excel workbook"),
    "a text named parquet": (TEXT, lambda d: str(Path(d.table()).rename(d.folder / "a.parquet")), "", "not a Parquet file"),
    "a suffix that is not read": (KINDS[:-1], lambda d: str(Path(d.table()).rename(d.folder / ("a" + d.random.choice([".xls", ".ods", ".txt", ".json", ".xml", ".html", "", ".xlsx.gz"])))), "", "does not end in"),
    "a line that is no JSON": (("lines.jsonl",), lambda d: d.line(d.random.choice(["{", "[1]", "text", "'a'", '{"text": "a"', "3", "null"])), "", "each line needs one whole object"),
    "a list for a text": (TYPED_LISTS, lambda d: d.table([[[t], x] for t, x in good_rows(d.random)]), "", "a list in column 'text'"),
    "lists for labels": (TYPED_LISTS, lambda d: d.table([[t, [x]] for t, x in good_rows(d.random)]), "", "--multi-label"),
    "objects for labels": (TYPED_LISTS, lambda d: d.table([[t, {"a": x}] for t, x in good_rows(d.random)]), "", "a dict in column 'label'"),
    "words for numbers": (KINDS, lambda d: d.table(), "--regression", "where a number is needed"),
    "dates for numbers": (KINDS, lambda d: d.table(good_rows(d.random, ["2024-01-02", "2024-01-03"])), "--regression", "where a number is needed"),
    "truth values for numbers": (KINDS, lambda d: d.table(good_rows(d.random, [True, False])), "--regression", "where a number is needed"),
    "decimal commas and points": (KINDS, lambda d: d.table(good_rows(d.random, ["1,5", "2.5"])), "--regression", "'1,5'"),
    "commas that may be thousands": (KINDS, lambda d: d.table(good_rows(d.random, ["1,500", "2,500"])), "--regression", "where a number is needed"),
    "infinite numbers": (("comma.csv", "semicolon.csv", "table.parquet", "hub:saved"), lambda d: d.table(good_rows(d.random, [1.5, float("inf")])), "--regression", "labels must be between"),
    "one number": (KINDS, lambda d: d.table(good_rows(d.random, [2.5])), "--regression", "All labels"),
    "several labels and a number": (KINDS, lambda d: d.table(), "--regression --multi-label", "exclude each other"),
    "only one label in all": (KINDS, lambda d: d.table(good_rows(d.random, ["same", ""])), "--multi-label", "at least two different ones"),
    "no label in any row": (KINDS, lambda d: d.table(good_rows(d.random, [""])), "--multi-label", "0 labels in all"),
    "no list where one is named": (DELIMITED, lambda d: d.with_row(["a text", d.random.choice(["a", "[a", "{1: 2}", "a|b", "()x"])], ["['a']", "['b']"]), "--multi-label list", "where a list is needed"),
    "lists in lists": (TYPED_LISTS, lambda d: d.table([[t, [[x]]] for t, x in good_rows(d.random)]), "--multi-label list", "a list in column 'label'"),
    "objects in lists": (TYPED_LISTS, lambda d: d.table([[t, [{"a": x}]] for t, x in good_rows(d.random)]), "--multi-label list", "a dict in column 'label'"),
    "an id among the labels": (KINDS, lambda d: d.table(good_rows(d.random, [f"id{i}|new{i}" for i in range(24)])), "--multi-label", "different labels"),
    "an empty separator": (KINDS, lambda d: d.table(), "--multi-label=", "takes the separator"),
    "a split that is not there": (("hub:saved",), lambda d: f"{d.table()}:{d.random.choice(['test', 'Train', 'dev', '0', 'é'])}", "", "has no split"),
    "labels that are hidden": (("hub:saved",), lambda d: d.table(good_rows(d.random, [None])), "", "24 of the 24 rows"),
    "a damaged data set": (("hub:saved",), damaged_set, "", "is not a saved data set or is damaged"),
    "a folder that is no data set": (("hub:saved",), lambda d: f"hub:{d.folder}", "", "is not a saved data set"),
    **{f"a name of no data set {i}": ((f"hub:{i}",), odd_hub_name, "", "hub:") for i in range(6)},
}  # fmt: skip
DRAWS = 2  # of each fault in each format; more where there are few formats


def inputs() -> Iterator[tuple[str, str, int]]:
    """Every fault in every format it can have, with the number of the draw."""
    for fault, (kinds, *_) in FAULTS.items():
        some = kinds if len(kinds) < 4 else random.Random(fault).sample([*kinds], 4)
        for kind in some:
            yield from ((fault, kind, seed) for seed in range(DRAWS))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_table_ends_in_one_sentence_and_changes_nothing(fault, tmp_path, monkeypatch):
    _, make, more, said = FAULTS[fault]
    for number, (_, kind, seed) in enumerate(i for i in inputs() if i[0] == fault):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        table = make(Draw(folder, kind, seed))
        before = contents(folder)
        command = f"augment --train '{table}' --text text --label label --out new.jsonl {more}"
        status, told = tell(command)
        assert status == 2, (kind, seed)
        assert told.startswith("error: ") and told.count("\n") == 1, (kind, seed, told)
        assert said in told, (kind, seed, told)
        assert told.rstrip().endswith((".", "?")) and 20 < len(told) < 700
        assert contents(folder) == before, (kind, seed)


def test_there_are_200_bad_tables_or_more_over_all_formats():
    drawn = list(inputs())
    assert len(drawn) >= 200
    assert {kind for _, kind, _ in drawn} >= {*KINDS}
    assert all(any(kind in kinds for kinds, *_ in FAULTS.values()) for kind in TYPED)
