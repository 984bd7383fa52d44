"""Tables of each format that is read, written by the libraries users write them with."""

import csv
import gzip
import io
import json
from pathlib import Path

DELIMITED = {
    "comma.csv": (",", "utf-8"),
    "semicolon.csv": (";", "utf-8"),
    "tab.csv": ("\t", "utf-8"),
    "bar.csv": ("|", "utf-8"),
    "tab.tsv": ("\t", "utf-8"),
    "semicolon.tsv": (";", "utf-8"),
    "mark.csv": (",", "utf-8-sig"),
    "windows.csv": (",", "cp1252"),
    "windows-semicolon.csv": (";", "cp1252"),
    "utf-16.csv": (",", "utf-16"),
    "utf-16-tab.csv": ("\t", "utf-16"),
    "utf-16-le.csv": (";", "utf-16-le"),
    "utf-16-be.csv": (",", "utf-16-be"),
    "packed.csv.gz": (";", "cp1252"),
}
TYPED = ("lines.jsonl", "table.parquet", "sheet.xlsx", "hub:saved")
KINDS = (*DELIMITED, *TYPED)


def write_table(folder: Path, kind: str, header: list[str], rows: list) -> str:
    """Write rows below a header as this kind of table; returns what --train takes."""
    file = folder / kind
    if kind in DELIMITED:
        delimiter, encoding = DELIMITED[kind]
        content = io.StringIO()
        csv.writer(content, delimiter=delimiter).writerows([header, *rows])
        data = content.getvalue().encode(encoding)
        file.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    elif kind == "lines.jsonl":
        records = [dict(zip(header, row, strict=False)) for row in rows]
        file.write_text("".join(json.dumps(r, default=str) + "\n" for r in records))
    elif kind == "hub:saved":
        import datasets

        columns = {c: [row[k] for row in rows] for k, c in enumerate(header)}
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns).save_to_disk(str(folder / "saved"))
        return f"hub:{folder / 'saved'}"
    else:
        import pandas as pd

        frame = pd.DataFrame(rows, columns=header)
        if kind == "sheet.xlsx":
            frame.to_excel(file, index=False)
        else:
            frame.to_parquet(file)
    return str(file)
