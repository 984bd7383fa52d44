"""Files a user can get wrong: each ends in one plain sentence, or in a task whose notes say so."""

import gzip
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert_lite import UserError
from tinybert_lite.data import tasks

GOOD = [(f"sentence number {i} says {i * i}", "yes" if i % 2 else "no") for i in range(40)]


def csv_of(rows, header="text,label") -> str:
    return "".join(f"{line}\n" for line in [header, *(f"{text},{label}" for text, label in rows)])


def load(path: Path, **changed) -> tasks.Task:
    return tasks.load_files(path, **({"text": "text", "label": "label"} | changed))


def told(path: Path, content: str | bytes | None = None, **changed) -> str:
    """The one sentence a file ends with."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load(path, **changed)
    return plain(caught.value)


def plain(error: UserError) -> str:
    message = str(error)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert 20 < len(message) < 700
    message.encode()  # can be printed
    return message


NUMBERS = [(text, i / 4) for i, (text, _) in enumerate(GOOD)]
# what is wrong: file name, content, what the message must say, arguments
FILES = {
    "empty file": ("a.csv", "", "is empty", {}),
    "only white space": ("a.jsonl", " \n\n\t\n", "is empty", {}),
    "header only": ("a.csv", "text,label\n", "no rows", {}),
    "suffix": ("a.txt", csv_of(GOOD), "does not end in .csv", {}),
    "no suffix": ("data", csv_of(GOOD), "does not end in .csv", {}),
    "damaged excel": ("a.xlsx", b"PK\x03\x04", "not an Excel workbook or is damaged", {}),
    "old excel": ("a.xls", b"\xd0\xcf\x11\xe0", "does not end in .csv", {}),
    "old excel named csv": ("a.csv", b"\xd0\xcf\x11\xe0" + bytes(99), "an old or a protected Excel", {}),
    "csv named excel": ("a.xlsx", csv_of(GOOD), "not an Excel workbook", {}),
    "packed excel": ("a.xlsx.gz", b"PK\x03\x04", "does not end in", {}),
    "excel named csv": ("a.csv", b"PK\x03\x04" + bytes(99), "Excel", {}),
    "parquet named csv": ("a.csv", b"PAR1" + bytes(99), "name it .parquet", {}),
    "csv named parquet": ("a.parquet", csv_of(GOOD), "not a Parquet file", {}),
    "packed parquet": ("a.parquet.gz", b"PAR1", "does not end in", {}),
    "gzip named csv": ("a.csv", gzip.compress(b"x"), "add .gz", {}),
    "csv named gzip": ("a.csv.gz", csv_of(GOOD), "not a gzip file", {}),
    "cut gzip": ("a.csv.gz", gzip.compress(csv_of(GOOD).encode())[:50], "damaged", {}),
    "damaged UTF-8": ("a.csv", b"text,label\nfine,a\ncaf\xe9,b\n" + "ü,a\n".encode() * 9, "byte 22, in line 3, is 0xe9", {}),
    "cyrillic letters of windows": ("a.csv", csv_of([("хороший фильм", "да")] * 40).encode("cp1251"), "is not UTF-8 text: byte 12, in line 2", {}),
    "chinese without UTF-8": ("a.csv", csv_of([("这部电影非常精彩", "好")] * 40).encode("gbk"), "is not UTF-8 text: byte 12, in line 2", {}),
    "chinese utf-16 without mark": ("a.csv", csv_of([("这部电影非常精彩" * 20, "好")] * 40).encode("utf-16-le"), "NUL character in line 1|not UTF-8", {}),
    "odd utf-16": ("a.csv", csv_of(GOOD).encode("utf-16") + b"x", "not UTF-16", {}),
    "NUL": ("a.csv", csv_of([*GOOD[:3], ("a\0b", "yes")]), "NUL character in line 5", {}),
    "no text column": ("a.csv", csv_of(GOOD, "Text,label"), "no column 'text'.*did you mean 'Text'", {}),
    "no label column": ("a.csv", csv_of(GOOD, "text,gold"), "no column 'label'.*'text', 'gold'", {}),
    "no pair column": ("a.csv", csv_of(GOOD), "no column 'second'", {"text_pair": "second"}),
    "no header": ("a.csv", csv_of(GOOD[1:], "sentence 0,no"), "no column 'text'", {}),
    "semicolons without the column": ("a.csv", csv_of(GOOD, "Text,label").replace(",", ";"), "its columns are 'Text', 'label'", {}),
    "semicolons, too many fields": ("a.csv", csv_of([*GOOD, ("a;b", "yes")]).replace(",", ";"), "put texts with semicolons", {}),
    "two text columns": ("a.csv", "text,text,label\na,b,c\n", "2 columns 'text'", {}),
    "pair is the text": ("a.csv", csv_of(GOOD), "'text' is asked for twice", {"text_pair": "text"}),
    "label is the text": ("a.csv", csv_of(GOOD), "'text' is asked for twice", {"label": "text"}),
    "too many fields": ("a.csv", csv_of([*GOOD, ("a, b", "yes")]), "Line 42 .* 3 fields", {}),
    "too few fields": ("a.csv", csv_of(GOOD) + "alone\n", "Line 42 .* 1 field where", {}),
    "open quote": ("a.csv", csv_of([*GOOD, ('"never closed', "yes")]), "quotes .* from line 42", {}),
    "inner quote": ("a.csv", csv_of([*GOOD, ('"say "hi" now"', "yes")]), "quotes .* do not pair", {}),
    "not JSON": ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', "Line 2 .* is not JSON", {}),
    "a JSON list": ("a.jsonl", '["a", "b"]\n', "Line 1 .* no object", {}),
    "deep JSON": ("a.jsonl", "[" * 100_000, "Line 1 ", {}),
    "a text that is a list": ("a.jsonl", '{"text": ["a"], "label": "b"}\n', "a list in column", {}),
    "a label that is an object": ("a.jsonl", '{"text": "a", "label": {}}\n', "a dict in column", {}),
    "missing labels": ("a.csv", csv_of([*GOOD, ("a", ""), ("b", " ")]), "2 of the 42 rows .* line 42", {}),
    "null labels": ("a.jsonl", '{"text": "a", "label": null}\n' * 20, "20 of the 20 rows", {}),
    "NaN labels": ("a.jsonl", '{"text": "a", "label": NaN}\n' * 20, "no label", {"regression": True}),
    "words for numbers": ("a.csv", csv_of([*NUMBERS, ("a", "high")]), "Line 42 .*'high'", {"regression": True}),
    "decimal comma": ("a.csv", csv_of([*NUMBERS, ("a", '"1,5"')]), "Line 42 .*'1,5'", {"regression": True}),
    "underscored number": ("a.csv", csv_of([*NUMBERS, ("a", "1_0")]), "'1_0'", {"regression": True}),
    "boolean number": ("a.jsonl", '{"text": "a", "label": true}\n', "'True'", {"regression": True}),
    "nan": ("a.csv", csv_of([*NUMBERS, ("a", "nan")]), "Line 42 .* number 'nan'", {"regression": True}),
    "infinity": ("a.csv", csv_of([*NUMBERS, ("a", "-inf")]), "number '-inf'", {"regression": True}),
    "huge number": ("a.csv", csv_of([*NUMBERS, ("a", "1e300")]), "scale", {"regression": True}),
    "huge whole number": ("a.jsonl", '{"text": "a", "label": 1%s}' % ("0" * 400), "a number", {"regression": True}),
    "one number": ("a.csv", csv_of([(t, 3) for t, _ in GOOD]), "All labels .* are 3", {"regression": True}),
    "one class": ("a.csv", csv_of([(t, "yes") for t, _ in GOOD]), "have the label 'yes'", {}),
    "an id as label": ("a.csv", csv_of([(t, i) for i, (t, _) in enumerate(GOOD)]), "--regression", {}),
    "too few rows": ("a.csv", csv_of(GOOD[:5]), "5 usable rows .* at least 10", {}),
    "the same row again": ("a.csv", csv_of(GOOD[:2] * 50), "98 repeats", {}),
    "contradictory labels": (
        "a.csv", csv_of([(t, x) for t, _ in GOOD for x in "ab"]), "40 texts with contradictory", {}),
    "empty texts": ("a.csv", csv_of(GOOD[:15] + [("  ", "yes")] * 16), "16 of the 31 rows", {}),
    "a share of nothing": ("a.csv", csv_of(GOOD), "between 0 and 1", {"test_share": 0}),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_wrong_gets_one_sentence_that_says_what_and_where(what, tmp_path):
    name, content, said, changed = FILES[what]
    message = told(tmp_path / name, content, **changed)
    assert re.search(said, message), message


def test_what_is_no_file_gets_one_sentence(tmp_path):
    (tmp_path / "train.csv").write_text(csv_of(GOOD))
    assert "did you mean 'train.csv'?" in told(tmp_path / "trian.csv")
    assert "check its name" in told(tmp_path / "elsewhere" / "a.csv")
    assert "is a folder" in told(tmp_path)
    assert "file name" in told(Path("a" * 5000))
    told(Path("a\0b.csv"))
    told(tmp_path / "bad\udcff\n.csv")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")  # reading one would wait for ever
        assert "not a regular file" in told(tmp_path / "pipe.csv")


def test_labels_in_evaluation_that_training_lacks_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(csv_of(GOOD))
    (tmp_path / "b.csv").write_text(csv_of([("new", "perhaps"), ("newer", "yes")]))
    message = told(tmp_path / "a.csv", test=tmp_path / "b.csv")
    assert (
        "labels that are not in the training data: 'perhaps' (training has 'no', 'yes')" in message
    )
    assert "both" in told(tmp_path / "a.csv", test=tmp_path / "a.csv")
    (tmp_path / "c.csv").write_text("text,label\n")
    assert "c.csv has no rows" in told(tmp_path / "a.csv", test=tmp_path / "c.csv")


def test_a_million_classes_end_in_one_sentence(tmp_path):
    rows = [(f"t{i}", i % 1_000_000) for i in range(1_000_000)]
    message = told(tmp_path / "a.csv", csv_of(rows))
    assert "1,000,000 different labels" in message


def test_evaluation_text_that_training_has_is_counted_in_the_notes(tmp_path):
    (tmp_path / "a.csv").write_text(csv_of(GOOD))
    leaks = [(GOOD[3][0].upper() + "!", "no"), (GOOD[4][0], "no"), ("entirely new", "yes")]
    (tmp_path / "b.csv").write_text(csv_of([*leaks, ("", "no"), leaks[1], (leaks[1][0], "yes")]))
    task = load(tmp_path / "a.csv", test=tmp_path / "b.csv")
    notes = " ".join(task.notes)
    assert "4 of the 6 evaluation texts" in notes
    assert "Scored anyway: 1 evaluation row with an empty text." in notes
    assert "2 evaluation rows with the same text as another." in notes
    assert "1 evaluation text with different labels." in notes
    assert len(task.splits["test"]) == 6  # evaluation rows are never dropped


def test_what_is_dropped_from_training_is_counted_in_the_notes(tmp_path):
    rows = [*GOOD, GOOD[0], GOOD[0], ("", "no"), ("torn", "yes"), ("torn", "no"), ("x", "Yes")]
    (tmp_path / "a.csv").write_text(csv_of(rows))
    task = load(tmp_path / "a.csv")
    notes = " ".join(task.notes)
    assert "Left out: 1 training row with an empty text." in notes
    assert "Left out: 3 training rows with the same text as another." in notes
    assert "Left out: 1 training text with different labels." in notes
    assert "1 of the 3 classes have a single training row" in notes
    assert "differ only in upper and lower case" in notes
    assert sum(map(len, task.splits.values())) == 41


def test_numbers_of_the_same_text_are_averaged(tmp_path):
    (tmp_path / "a.csv").write_text(csv_of([*NUMBERS, (NUMBERS[0][0], 5)]))
    task = load(tmp_path / "a.csv", regression=True)
    numbers = {t: x for s in task.splits.values() for t, x in zip(s.texts, s.labels, strict=True)}
    assert numbers[NUMBERS[0][0]] == 2.5
    assert "Averaged: 1 training text with different labels." in task.notes


def test_texts_made_from_one_template_can_still_be_split(tmp_path):
    (tmp_path / "a.csv").write_text(
        csv_of([(f"please tell me what you think of item {i}", i % 2) for i in range(60)])
    )
    task = load(tmp_path / "a.csv")
    assert len(task.splits["test"]) == 12
    assert any("as if made from 1 template;" in note for note in task.notes)


def test_in_a_large_file_rows_with_the_same_first_text_stay_together(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.cleaning, "MOST_COMPARED", 50)
    rows = "".join(f"premise {i // 4},claim {i},{i % 2}\n" for i in range(80))
    (tmp_path / "a.csv").write_text("text,pair,label\n" + rows)
    task = load(tmp_path / "a.csv", text_pair="pair")
    premises = [set(split.texts) for split in task.splits.values()]
    assert sum(map(len, premises)) == 20 == len(set.union(*premises))
    assert any("More than 50 rows" in note for note in task.notes)


def test_an_evaluation_file_of_numbers_is_read_as_numbers(tmp_path):
    (tmp_path / "a.csv").write_text(csv_of(NUMBERS))
    (tmp_path / "b.csv").write_text(csv_of([("new", "-7.5"), ("newer", "-7.5")]))
    task = load(tmp_path / "a.csv", test=tmp_path / "b.csv", regression=True)
    assert task.splits["test"].labels.tolist() == [-7.5, -7.5]
    assert any("correlations are 0" in note for note in task.notes)
    (tmp_path / "b.csv").write_text(csv_of([("new", "-7.5"), ("newer", "low")]))
    message = told(tmp_path / "a.csv", test=tmp_path / "b.csv", regression=True)
    assert "Line 3" in message
    assert "b.csv" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_other_systems_change_nothing(encoding, newline, tmp_path):
    content = csv_of([(f"{text} é مرحبا 😀", label) for text, label in GOOD])
    (tmp_path / "a.csv").write_bytes(content.replace("\n", newline).encode(encoding))
    task = load(tmp_path / "a.csv")
    assert sum(map(len, task.splits.values())) == 40
    assert all(text.endswith("é مرحبا 😀") for text in task.splits["train"].texts)


# Property-based: whatever a file holds, one sentence or a sound task, soon, and the file unharmed

ODD_TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=20),  # lone surrogates and control characters as well
    st.sampled_from(["", " ", "a", "\0", "\x07\x1b[31m", "😀🏳️‍🌈", "مرحبا بالعالم", "\u202eabc", "\ud800",
                     "NA", "nan", "null", '"', "'", "a,b", "a\tb", "a\nb", "\ufeff", "\u2028"]),
    st.sampled_from(["x" * 100_000, "word " * 20_000, "é" * 100_000]),
)  # fmt: skip
ODD_LABELS = st.one_of(
    st.sampled_from(
        ["", " ", "0", "1", "1.0", "nan", "inf", "-1e999", "1_0", "٣", "LABEL_0", "None"]
    ),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.lists(st.integers(), max_size=2),
)
ODD_ROWS = st.lists(st.tuples(ODD_TEXTS, ODD_LABELS), max_size=6)
FORMATS = st.sampled_from([".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz", ".parquet"])
FAULTS = st.sampled_from(["none", "flip", "cut", "insert", "repeat", "swap"])


def encoded(rows: list, kind: str) -> bytes:
    """A file of a kind with these rows, as careless a program would write it."""
    if kind == ".parquet":
        import pandas as pd

        frame = pd.DataFrame([(str(t).encode("utf-8", "replace").decode(), str(x).encode("utf-8", "replace").decode()) for t, x in rows], columns=["text", "label"])  # fmt: skip
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        return buffer.getvalue()
    if "jsonl" in kind:
        text = "".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in rows)
    else:
        text = csv_of(rows).replace(",", "\t") if "tsv" in kind else csv_of(rows)
    data = text.encode("utf-8", "replace")
    return gzip.compress(data) if kind.endswith(".gz") else data


def harmed(data: bytes, fault: str, where: float, junk: bytes) -> bytes:
    at = int(where * len(data))
    return {
        "none": data,
        "flip": data[:at] + bytes(255 - b for b in data[at : at + 1]) + data[at + 1 :],
        "cut": data[:at],
        "insert": data[:at] + junk + data[at:],
        "repeat": data + data[at:],
        "swap": data[at:] + data[:at],
    }[fault]


def check_outcome(path: Path, counts: Counter, **changed) -> None:
    before = path.read_bytes()
    try:
        task = load(path, **changed)
    except UserError as error:
        plain(error)
        counts["one sentence"] += 1
    else:
        counts["a task"] += 1
        check_sound(task)
    assert path.read_bytes() == before


def check_sound(task: tasks.Task) -> None:
    for side in ("train", "dev", "test"):
        split = task.splits[side]
        assert len(split) == len(split.labels) > 0
        assert np.isfinite(split.labels).all()
        for text in [*split.texts, *(split.pairs or [])]:
            text.encode()  # a tokenizer takes it
        if task.kind == "classification":
            assert set(split.labels) <= set(range(len(task.label_names)))
    if task.kind == "classification":
        assert set(task.splits["train"].labels) == set(range(len(task.label_names)))
    assert np.isfinite(list(task.majority().values())).all()


def test_150_odd_files_or_more_never_crash_never_hang_and_are_never_changed(
    tmp_path, record_property, capsys
):
    counts: Counter = Counter()

    @settings(
        max_examples=260,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ODD_ROWS, FORMATS, FAULTS, st.floats(0, 1), st.binary(min_size=1, max_size=9),
           st.booleans(), st.booleans(), st.sampled_from([None, "text", "label", "pair"]))  # fmt: skip
    def run(odd, kind, fault, where, junk, regression, mixed, pair):
        rows = [*(NUMBERS if regression else GOOD)] if mixed else []
        for number, row in enumerate(odd):
            rows.insert(7 * number, row)
        path = tmp_path / f"odd{kind}"
        path.write_bytes(harmed(encoded(rows, kind), fault, where, junk))
        pair = pair if where > 0.8 else None
        check_outcome(path, counts, regression=regression, text_pair=pair)

    run()
    record_property("generated files", dict(counts))
    with capsys.disabled():
        print(f" generated files: {dict(counts)} ", end="")
    assert counts.total() >= 150
    assert counts["one sentence"] >= 100
    assert counts["a task"] >= 10  # the generator has not become too wild to test anything


def test_100_files_of_random_bytes_never_crash(tmp_path, record_property, capsys):
    counts: Counter = Counter()

    @settings(max_examples=100, derandomize=True, deadline=None, database=None)
    @given(st.binary(max_size=300), FORMATS, st.booleans())
    def run(data, kind, regression):
        path = tmp_path / f"bytes{kind}"
        path.write_bytes(data)
        check_outcome(path, counts, regression=regression)

    run()
    record_property("generated files", dict(counts))
    with capsys.disabled():
        print(f" generated files: {dict(counts)} ", end="")
    assert counts.total() >= 100


def test_a_quote_in_a_tsv_never_swallows_the_lines_up_to_the_next_one(tmp_path):
    rows = [*GOOD, ('"opened here', "yes"), ('closed there"', "no")]
    content = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
    (tmp_path / "a.tsv").write_text(content)
    task = load(tmp_path / "a.tsv")
    texts = {text for split in task.splits.values() for text in split.texts}
    assert texts == {text for text, _ in rows}


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
    rows = [{"text": f"half \ud83d {text}", "label": label} for text, label in GOOD]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load(tmp_path / "a.jsonl")
    assert all(text.startswith("half \ufffd sen") for text in task.splits["train"].texts)
