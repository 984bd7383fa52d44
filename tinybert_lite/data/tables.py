"""Reads the user's CSV, TSV, JSONL and Parquet files; says what is wrong with one, and where."""

import ast
import csv
import difflib
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinybert_lite import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LARGEST_NUMBER = 1e6  # a regression label beyond it makes the squared error meaningless in float32
OTHER_FORMATS = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the table as CSV",
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the table as CSV",
    b"%PDF": "a PDF; save the table as CSV",
}


@dataclass(frozen=True)
class Columns:
    """What to read of a table: names of columns, and what the labels are.

    `multi_label` is the separator of several labels in one cell, or "list" for cells that hold a
    list; None where each text has one label.
    """

    text: str
    label: str
    text_pair: str | None = None
    regression: bool = False
    multi_label: str | None = None


@dataclass
class Examples:
    """Rows of a file: texts, second sentences or None, labels, line numbers.

    A label is a name, a number, or (several labels a text) a sorted tuple of names.

    `groups` names the near-duplicates each row belongs to, once `cleaning.group` has looked.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list
    lines: list[int]
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, rows: Sequence[int]) -> "Examples":
        """The rows of these positions."""
        columns: tuple[Any, ...] = (self.texts, self.pairs, self.labels, self.lines, self.groups)
        kept: list[Any] = [None if c is None else [c[row] for row in rows] for c in columns]
        return Examples(*kept)

    def joined(self) -> list[str]:
        """Each text with its second sentence under it, as one string."""
        if self.pairs is None:
            return self.texts
        return [f"{text}\n{pair}" for text, pair in zip(self.texts, self.pairs, strict=True)]

    def empty_rows(self) -> list[int]:
        """Positions of the rows whose text, or second sentence, has nothing but white space."""
        sides = [self.texts] if self.pairs is None else [self.texts, self.pairs]
        return [r for r in range(len(self)) if not all(side[r].strip() for side in sides)]


def show(value: object) -> str:
    """A value as it can stand in a message: quoted, on one line, at most 40 characters."""
    text = str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def listing(values: Sequence[object], most: int = 8) -> str:
    """The first values, quoted, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(show(value) for value in values[:most]) + more


def read_examples(path: str | Path, columns: Columns, notes: list[str]) -> Examples:
    """The examples of a file, in its order, nothing dropped.

    CSV and TSV need a header line; JSONL has one object a line; the first three may end in .gz.
    Texts are taken as they are (UTF-8, or UTF-16 with its mark); class labels lose the white space
    around them. A TSV file whose quotes do not pair, or span lines that are
    whole without them, is read as one without quoting.
    Raises UserError, naming the line, for everything that cannot be read as asked.
    """
    text, text_pair, label = columns.text, columns.text_pair, columns.label
    wanted = [name for name in (text, text_pair, label) if name is not None]
    for name in wanted:
        if wanted.count(name) > 1:
            raise UserError(f"The column {show(name)} is asked for twice; name different columns.")
    path = Path(path)
    name, kind = _file_name(path), _checked_kind(path)
    if kind == ".parquet":
        lines, cells = _read_parquet(path, name, wanted)
    elif kind == ".jsonl":
        lines, cells = _read_jsonl(_read_text(path, name), name, wanted)
    else:
        lines, cells = _read_csv(
            _read_text(path, name), name, wanted, "\t" if kind == ".tsv" else ","
        )
    if not lines:
        raise UserError(f"{name} has no rows; give a file with a text and a label in each row.")

    def texts_of(column: str) -> list[str]:
        return [_text(v, column, n, name) for v, n in zip(cells[column], lines, strict=True)]

    if columns.multi_label is not None:
        labels: list = _label_sets(cells[label], columns, lines, name, notes)
    else:
        convert = _number if columns.regression else _class_name
        labels = [convert(v, label, n, name) for v, n in zip(cells[label], lines, strict=True)]
    missing = [n for n, value in zip(lines, labels, strict=True) if value is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(lines)} rows of {name} have no label in column "
            f"{show(label)}, the first in line {missing[0]}; fill them in or remove the rows."
        )
    return Examples(texts_of(text), texts_of(text_pair) if text_pair else None, labels, lines)


def _file_name(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode().replace("\n", " ")


def _checked_kind(path: Path) -> str:
    """The suffix that says how to read a file that is there."""
    name = _file_name(path)
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder; give one of the files in it.")
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, siblings, n=1)
            hint = f"did you mean {show(close[0])}?" if close else "check its name and folder."
            raise UserError(f"There is no file {name}; {hint}")
        if not path.is_file():
            raise UserError(f"{name} is not a regular file; give a file with rows of text.")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{show(name)} cannot be used as a file name; check it.") from error
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[:-1][-1:] if packed else suffixes[-1:])
    if kind not in SUFFIXES or (packed and kind == ".parquet"):
        raise UserError(
            f"{name} does not end in .csv, .tsv or .jsonl (each also with .gz) or .parquet; "
            "save it as one of these, and name it so."
        )
    return kind


def _read_text(path: Path, name: str) -> str:
    """The text of a file, whole; the line and byte of the first character that is not UTF-8."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = (
            "is damaged or is no gzip file" if path.suffix.lower() == ".gz" else "is unreadable"
        )
        raise UserError(f"{name} {reason}; check it, or copy it again.") from error
    for magic, what in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise UserError(f"{name} is {what}.")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name} is not {'UTF-16' if encoding == 'utf-16' else 'UTF-8'} text: byte "
            f"{error.start + 1}, in line {line}, is 0x{data[error.start]:02x}; save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{name} has a NUL character in line {line}: it is damaged, or UTF-16 without its "
            "mark; save it as UTF-8."
        )
    if not text.strip():
        raise UserError(f"{name} is empty; give a file with a text and a label in each row.")
    return text


def _check_columns(there: Sequence[str], wanted: Sequence[str], name: str) -> None:
    for column in wanted:
        if there.count(column) > 1:
            raise UserError(f"{name} has {there.count(column)} columns {show(column)}; rename one.")
        if column in there:
            continue
        lower = {other.lower(): other for other in there}
        close = difflib.get_close_matches(column.lower(), lower, n=1)
        hint = f"did you mean {show(lower[close[0]])}?" if close else "name one of them."
        if len(there) == 1 and (found := re.search("[;\t|,]", there[0])):
            what = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}[found[0]]
            hint = f"it looks parted by {what}; save it with commas as .csv or with tabs as .tsv."
        raise UserError(
            f"{name} has no column {show(column)}; its columns are {listing(there)}; {hint}"
        )


def _read_csv(text: str, name: str, wanted: Sequence[str], delimiter: str) -> tuple[list, dict]:
    quoting = _tsv_quoting(text) if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines, values = [], []
    header = None
    try:
        for line, record in _records(text, delimiter, quoting):
            if header is None:
                header = [column.strip() for column in record]
                _check_columns(header, wanted, name)
                at = [header.index(column) for column in wanted]
                continue
            if len(record) != len(header):
                raise UserError(
                    f"Line {line} of {name} has {len(record)} fields where the header has "
                    f"{len(header)}; put texts with a {'tab' if delimiter == chr(9) else 'comma'} "
                    "or a line break in double quotes."
                )
            lines.append(line)
            values.append([record[position] for position in at])
    except csv.Error as error:
        line = lines[-1] + 1 if lines else 1
        raise UserError(
            f"The quotes in {name} do not pair, from line {line} on; write a quote inside a "
            'quoted text as "".'
        ) from error
    return lines, dict(zip(wanted, zip(*values, strict=True), strict=True)) if values else {}


def _tsv_quoting(text: str) -> Literal[0, 3]:
    """No quoting where quotes do not pair, or would swallow lines that are whole without them."""
    fields = [len(record) for _, record in _records(text, "\t", csv.QUOTE_NONE)]
    try:
        records = sum(1 for _ in _records(text, "\t", csv.QUOTE_MINIMAL))
    except csv.Error:
        return csv.QUOTE_NONE
    whole = len(set(fields)) == 1
    return csv.QUOTE_NONE if whole and records < len(fields) else csv.QUOTE_MINIMAL


def _records(text: str, delimiter: str, quoting: Literal[0, 3]):
    """Line number and fields of each record that is not an empty line."""
    limit = csv.field_size_limit(max(len(text), 131072))
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
        )
        start = 1
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _read_jsonl(text: str, name: str, wanted: Sequence[str]) -> tuple[list, dict]:
    lines, values, there = [], [], {}
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"Line {line} of {name} is not JSON; each line needs one whole object such as "
                '{"text": "...", "label": "..."}.'
            ) from error
        if not isinstance(record, dict):
            raise UserError(
                f"Line {line} of {name} is JSON but no object; each line needs one such as "
                '{"text": "...", "label": "..."}.'
            )
        there.update(dict.fromkeys(record))
        lines.append(line)
        values.append([record.get(column) for column in wanted])
    _check_columns(list(there), wanted, name)
    return lines, dict(zip(wanted, zip(*values, strict=True), strict=True))


def _read_parquet(path: Path, name: str, wanted: Sequence[str]) -> tuple[list, dict]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, wanted, name)
            table = file.read(columns=list(wanted))
            columns = {column: table.column(column).to_pylist() for column in wanted}
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise UserError(f"{name} is no Parquet file or is damaged; write it again.") from error
    return list(range(1, table.num_rows + 1)), columns


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object, column: str, line: int, name: str) -> str:
    if _is_missing(value):
        return ""
    if not isinstance(value, str | int | float):
        raise UserError(
            f"Line {line} of {name} has a {type(value).__name__} in column {show(column)}; "
            "it takes text (or --multi-label, where it holds the labels of each text)."
        )
    # A JSON escape can hold half a surrogate pair, which no tokenizer takes.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _class_name(value: object, column: str, line: int, name: str) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _text(value, column, line, name).strip() or None


def _label_sets(
    values: Sequence[Any], columns: Columns, lines: list[int], name: str, notes: list[str]
) -> list[tuple[str, ...]]:
    """The labels of each text as a sorted tuple of names; no label at all is an empty one.

    Lists of equal length that hold nothing but 0 and 1 say which labels apply, by position.
    """
    assert columns.multi_label is not None
    at = list(zip(values, lines, strict=True))
    lists = [_label_list(v, columns.multi_label, columns.label, n, name) for v, n in at]
    lengths = {len(labels) for labels in lists}
    flags = all(x in (0, 1) for labels in lists for x in labels)  # True is 1, "1" is not
    if len(lengths) == 1 and min(lengths) > 1 and flags:
        lists = [[position for position, x in enumerate(labels) if x] for labels in lists]
        notes.append(
            f"The labels in {Path(name).name} are lists of {min(lengths)} zeros and ones: they are read as "
            "which labels apply, and the labels are named by their position, from 0."
        )
    names = [
        {_class_name(x, columns.label, n, name) for x in labels}
        for labels, n in zip(lists, lines, strict=True)
    ]
    return [tuple(sorted(label for label in labels if label)) for labels in names]


def _label_list(value: Any, separator: str, column: str, line: int, name: str) -> list:
    """One cell of several labels, split."""
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if _is_missing(value) or not str(value).strip():
        return []
    if separator != "list":
        return _text(value, column, line, name).split(separator)
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list | tuple | set):
        raise UserError(
            f"Line {line} of {name} has {show(value)} in column {show(column)} where a list is "
            'needed; give --multi-label the separator of the labels instead, as "|".'
        )
    return list(found)


def _number(value: Any, column: str, line: int, name: str) -> float | None:
    if _is_missing(value) or not str(value).strip():
        return None
    try:
        number = float(value) if "_" not in str(value) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool):
        raise UserError(
            f"Line {line} of {name} has {show(value)} in column {show(column)} where a number is "
            "needed; correct it, or leave --regression out to take the labels as classes."
        )
    if not math.isfinite(number) or abs(number) > LARGEST_NUMBER:
        raise UserError(
            f"Line {line} of {name} has the number {show(value)} in column {show(column)}; labels "
            f"must be between -{LARGEST_NUMBER:,.0f} and {LARGEST_NUMBER:,.0f}: remove the row or "
            "scale the column."
        )
    return number
