"""Reads the user's tables, files or hub data sets; says what is wrong with one, and where.

The parsing is that of csv, json, pandas (Excel), pyarrow (Parquet) and datasets (the hub).
"""

import ast
import csv
import difflib
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinybert_lite import UserError
from tinybert_lite.data import hub

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LARGEST_NUMBER = 1e6  # a regression label beyond it makes the squared error meaningless in float32
FOREIGN = 0.3  # share of non-ASCII letters from which a text is not taken for Windows-1252
OTHER_FORMATS = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"PK\x03\x04": "a zip archive or an Excel workbook; name a workbook .xlsx, unpack an archive",
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"\xd0\xcf\x11\xe0": "an old or a protected Excel workbook; save the sheet as CSV UTF-8",
    b"%PDF": "a PDF; save the table as CSV",
}
Cells = tuple[list[int], dict[str, Sequence[Any]]]  # line numbers, and the columns asked for


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
    """Rows of a table: texts, second sentences or None, labels, line numbers.

    A label is a name, a number, or (several labels per text) a sorted tuple of names.
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
    """A value as it is shown in a message: quoted, on one line, at most 40 characters."""
    text = str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def listing(values: Sequence[object], most: int = 8) -> str:
    """The first values, quoted, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(show(value) for value in values[:most]) + more


def short_name(table: str | Path) -> str:
    """A file without its folders, or a hub data set as it was named."""
    return hub.short_name(str(table)) if hub.is_hub(table) else Path(table).name


def read_examples(table: str | Path, columns: Columns, notes: list[str]) -> Examples:
    """The examples of a file or of `hub:NAME`, in its order, nothing dropped but empty lines.

    CSV, TSV and Excel need a header line; JSONL has one object per line; text files may end in .gz.
    Delimiter and encoding are recognized, and noted where they are not the usual ones. Texts are
    kept unchanged; class labels lose the white space around them and the ".0" of a whole number.
    Raises UserError, naming the line, for everything that cannot be read as asked.
    """
    wanted = [c for c in (columns.text, columns.text_pair, columns.label) if c is not None]
    for column in wanted:
        if wanted.count(column) > 1:
            raise UserError(f"The column {show(column)} is asked for twice; name different ones.")
    name = str(table).encode("utf-8", "replace").decode().replace("\n", " ")
    lines, cells = _read_cells(table, name, wanted, notes)
    if not lines:
        raise UserError(f"{name} has no rows; give a file with a text and a label in each row.")

    def converted(column: str, convert: Callable) -> list:
        found = zip(cells[column], lines, strict=True)
        return [convert(value, column, line, name) for value, line in found]

    if columns.multi_label is not None:
        labels = _label_sets(cells[columns.label], columns, lines, name, notes)
    elif columns.regression:
        cells[columns.label] = _with_points(cells[columns.label], name, notes)
        labels = converted(columns.label, _number)
    elif (
        row := next((r for r, v in enumerate(cells[columns.label]) if isinstance(v, list)), -1)
    ) >= 0:
        raise UserError(
            f"Line {lines[row]} of {name} has a list in column {show(columns.label)}; add "
            "--multi-label where a text may have several labels, else give one label."
        )
    else:
        labels = converted(columns.label, _class_name)
    missing = [n for n, value in zip(lines, labels, strict=True) if value is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(lines)} rows of {name} have no label in column "
            f"{show(columns.label)}, the first in line {missing[0]}; fill them in or remove the "
            "rows."
        )
    pairs = converted(columns.text_pair, _text) if columns.text_pair else None
    return Examples(converted(columns.text, _text), pairs, labels, lines)


def _read_cells(table: str | Path, name: str, wanted: list[str], notes: list[str]) -> Cells:
    if hub.is_hub(table):
        found = hub.load(str(table), notes)
        _check_columns(list(found), wanted, name)
        rows = len(found[wanted[0]])
        return list(range(1, rows + 1)), {column: found[column] for column in wanted}
    path = Path(table)
    kind = _checked_kind(path, name)
    if kind == ".parquet":
        return _read_parquet(path, name, wanted)
    if kind == ".xlsx":
        return _header_and_rows(_excel_rows(path, name, notes), name, wanted)
    text = _decoded(_read_bytes(path, name), name, notes)
    if kind == ".jsonl":
        return _read_jsonl(text, name, wanted)
    return _read_delimited(text, name, wanted, "\t" if kind == ".tsv" else ",", notes)


def _checked_kind(path: Path, name: str) -> str:
    """The suffix that says how to read a file that is there."""
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder; give one of the files in it.")
        if not path.exists():
            folder = path.parent
            siblings = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
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
    if kind not in SUFFIXES or (packed and kind in (".parquet", ".xlsx")):
        raise UserError(
            f"{name} does not end in .csv, .tsv or .jsonl (each also with .gz), .parquet or .xlsx; "
            "save it as one of these, with the matching suffix."
        )
    return kind


def _check_columns(there: Sequence[str], wanted: Sequence[str], name: str) -> None:
    for column in wanted:
        if there.count(column) > 1:
            raise UserError(f"{name} has {there.count(column)} columns {show(column)}; rename one.")
        if column in there:
            continue
        lower = {other.lower(): other for other in there}
        close = difflib.get_close_matches(column.lower(), lower, n=1)
        hint = f"did you mean {show(lower[close[0]])}?" if close else "name one of them."
        raise UserError(
            f"{name} has no column {show(column)}; its columns are {listing(there)}; {hint}"
        )


# Text files -------------------------------------------------------------------------------------


def _read_bytes(path: Path, name: str) -> bytes:
    packed = path.suffix.lower() == ".gz"
    try:
        data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        reason = "is damaged or is not a gzip file" if packed else "is unreadable"
        raise UserError(f"{name} {reason}; check it, or copy it again.") from error
    for magic, what in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise UserError(f"{name} is {what}.")
    return data


def _decoded(data: bytes, name: str, notes: list[str]) -> str:
    """The text of a file: UTF-8, UTF-16, or Windows-1252 where it can be nothing else."""
    encoding = _marked_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig" or not _looks_like_windows(data):
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{name} is not {'UTF-8' if encoding == 'utf-8-sig' else 'UTF-16'} text: byte "
                f"{error.start + 1}, in line {line}, is 0x{data[error.start]:02x}; save it as "
                "UTF-8."
            ) from error
        text, encoding = data.decode("cp1252"), "Windows-1252"
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{name} has a NUL character in line {line}: it is damaged, or UTF-16 without a byte-order "
            "mark; save it as UTF-8."
        )
    if not text.strip():
        raise UserError(f"{name} is empty; give a file with a text and a label in each row.")
    if encoding != "utf-8-sig":
        found = re.search(r"\w*[^\W\x00-\x7f]\w*", text)  # the first word that may be wrong
        shown = f", with {show(found[0])}; if that looks wrong" if found else "; if it is not"
        read = "Windows-1252" if encoding == "Windows-1252" else "UTF-16"
        notes.append(f"{short_name(name)} is read as {read}{shown}, save it as UTF-8.")
    return text


def _marked_encoding(data: bytes) -> str:
    """UTF-16 where a byte-order mark or many zero bytes show it; else UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if 3 * data[start::2].count(0) > len(data[start::2]):
            return encoding
    return "utf-8-sig"


def _looks_like_windows(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 are a Western text in Windows-1252.

    Not where it leaves a byte undefined, where most of the bytes over 0x7f make whole UTF-8
    characters (damaged UTF-8), or where there are too many of them (another alphabet).
    """
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    codes = np.frombuffer(data, np.uint8)
    high = int((codes > 0x7F).sum())
    letters = int(((codes | 0x20) - ord("a") < 26).sum())  # uint8 wraps below "a"
    whole = np.frombuffer(data.decode("utf-8", "ignore").encode(), np.uint8)
    return 2 * int((whole > 0x7F).sum()) < high < FOREIGN * (letters + high)


def _read_delimited(
    text: str, name: str, wanted: Sequence[str], usual: str, notes: list[str]
) -> Cells:
    hint = re.match(r'"?sep=[,;\t|]"?\r?(?=\n\s*\S)', text)  # written by Excel
    text = text[hint.end() :] if hint else text
    first = text.lstrip().splitlines()[0][:100_000]  # characters

    def fields(delimiter: str) -> list[str]:
        return [column.strip() for column in next(csv.reader([first], delimiter=delimiter))]

    order = [usual, *(d for d in DELIMITERS if d != usual)]
    delimiter = max(order, key=lambda d: (set(wanted) <= {*fields(d)}, len(fields(d))))
    if delimiter != usual:
        notes.append(f"{short_name(name)} is separated by {DELIMITERS[delimiter]}.")
    quoting = _tsv_quoting(text) if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend(_records(text, delimiter, quoting))
    except csv.Error as error:
        raise UserError(
            f"The quotes in {name} do not pair, from line {rows[-1][0] + 1 if rows else 1} on; "
            'write a quote inside a quoted text as "".'
        ) from error
    cells = _header_and_rows(rows, name, wanted)
    rows = [(line, row) for line, row in rows if any(row)]
    width = len(rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise UserError(
                f"Line {line} of {name} has {len(row)} field{'s'[: len(row) - 1]} where the header "
                f"has {width}; put texts with {DELIMITERS[delimiter]} or line breaks in double quotes."
            )
    return cells


def _header_and_rows(rows: Sequence[tuple[int, list]], name: str, wanted: Sequence[str]) -> Cells:
    """The columns asked for, below a header in the first row that is not empty."""
    rows = [(line, row) for line, row in rows if any(not _is_missing(x) and x != "" for x in row)]
    if not rows:
        raise UserError(f"{name} is empty; give a file with a text and a label in each row.")
    header = ["" if _is_missing(x) else str(x).strip() for x in rows[0][1]]
    _check_columns(header, wanted, name)
    at = {column: header.index(column) for column in wanted}
    lines = [line for line, _ in rows[1:]]
    return lines, {
        c: [row[k] if k < len(row) else None for _, row in rows[1:]] for c, k in at.items()
    }


def _tsv_quoting(text: str) -> Literal[0, 3]:
    """No quoting where quotes do not pair, or would swallow lines that are whole without them."""
    fields = [len(record) for _, record in _records(text, "\t", csv.QUOTE_NONE)]
    try:
        records = sum(1 for _ in _records(text, "\t", csv.QUOTE_MINIMAL))
    except csv.Error:
        return csv.QUOTE_NONE
    whole = len(set(fields)) == 1
    return csv.QUOTE_NONE if whole and records < len(fields) else csv.QUOTE_MINIMAL


def _records(text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterable[tuple[int, list[str]]]:
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


def _read_jsonl(text: str, name: str, wanted: Sequence[str]) -> Cells:
    lines, values, there = [], [], {}
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            what = "not JSON" if record is None else "JSON but no object"
            raise UserError(
                f"Line {line} of {name} is {what}; each line needs one whole object such as "
                '{"text": "...", "label": "..."}.'
            )
        there.update(dict.fromkeys(record))
        lines.append(line)
        values.append([record.get(column) for column in wanted])
    _check_columns(list(there), wanted, name)
    return lines, dict(zip(wanted, zip(*values, strict=True), strict=True))


# Parquet and Excel ------------------------------------------------------------------------------


def _read_parquet(path: Path, name: str, wanted: Sequence[str]) -> Cells:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, wanted, name)
            table = file.read(columns=list(wanted))
            cells = {column: table.column(column).to_pylist() for column in wanted}
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise UserError(f"{name} is not a Parquet file or is damaged; write it again.") from error
    return list(range(1, table.num_rows + 1)), cells


def _excel_rows(path: Path, name: str, notes: list[str]) -> list[tuple[int, list]]:
    """Line number and cells of each row of the first sheet."""
    import pandas as pd

    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            frame = pd.read_excel(book, header=None, dtype=object, na_filter=False)
            sheets = book.sheet_names
    except ImportError as error:
        raise UserError(
            f"{name} is an Excel workbook, and openpyxl is not installed; save the sheet as CSV "
            "UTF-8, or install it with python -m pip install openpyxl."
        ) from error
    except Exception as error:  # zipfile, XML and openpyxl raise many kinds for a damaged file
        raise UserError(
            f"{name} is not an Excel workbook or is damaged; save the sheet again, or as CSV UTF-8."
        ) from error
    if len(sheets) > 1:
        notes.append(
            f"{short_name(name)} has {len(sheets)} sheets: the first, {show(sheets[0])}, is read."
        )
    return list(enumerate(frame.values.tolist(), start=1))


# Cells ------------------------------------------------------------------------------------------


def _is_missing(value: Any) -> bool:
    """None, NaN, or the NaT of a missing date."""
    return value is None or (isinstance(value, float | datetime) and value != value)


def _text(value: Any, column: str, line: int, name: str) -> str:
    if _is_missing(value):
        return ""
    if not isinstance(value, str | int | float | Decimal | date | time):
        raise UserError(
            f"Line {line} of {name} has a {type(value).__name__} in column {show(column)}; "
            "it takes text."
        )
    # A JSON escape can hold half a surrogate pair, which no tokenizer takes.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _class_name(value: Any, column: str, line: int, name: str) -> str | None:
    if isinstance(value, datetime) and value == value and value.time() == time():
        value = value.date()  # a date of Excel, or of pandas
    label = _text(value, column, line, name).strip()
    return re.sub(r"^([+-]?[0-9]{1,18})\.0+$", r"\1", label) or None


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
            f"The labels in {short_name(name)} are lists of {min(lengths)} zeros and ones: they are read as "
            "which labels apply, and the labels are named by their position, from 0."
        )
    names = [
        {_class_name(x, columns.label, n, name) for x in labels}
        for labels, n in zip(lists, lines, strict=True)
    ]
    return [tuple(sorted(label for label in labels if label)) for labels in names]


def _label_list(value: Any, separator: str, column: str, line: int, name: str) -> list:
    """One cell of several labels, split."""
    if isinstance(value, list | tuple):
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
            'needed; give --multi-label the separator of the labels instead, such as "|".'
        )
    return list(found)


def _with_points(values: Sequence[Any], name: str, notes: list[str]) -> Sequence[Any]:
    """Numbers with a decimal comma, all of them in a column without points, as numbers with one.

    Left as they are where three digits follow each comma: these may be thousands.
    """
    commas = [v for v in values if isinstance(v, str) and "," in v]
    decimal = all(re.fullmatch(r"\s*[+-]?[0-9]+,[0-9]+\s*", v) for v in commas)
    points = any(isinstance(v, str) and "." in v for v in values)
    if (
        not commas
        or not decimal
        or points
        or all(len(v.split(",")[1].strip()) == 3 for v in commas)
    ):
        return values
    notes.append(f"The numbers of {short_name(name)} have decimal commas: {show(commas[0])} …")
    return [v.replace(",", ".") if isinstance(v, str) else v for v in values]


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
            "needed; correct it, or leave --regression out to treat the labels as classes."
        )
    if not math.isfinite(number) or abs(number) > LARGEST_NUMBER:
        raise UserError(
            f"Line {line} of {name} has the number {show(value)} in column {show(column)}; labels "
            f"must be between -{LARGEST_NUMBER:,.0f} and {LARGEST_NUMBER:,.0f}: remove the row or "
            "scale the column."
        )
    return number
