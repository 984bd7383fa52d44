"""Which rows of a user's files are trained on, and which are scored.

Training rows are cleaned, evaluation rows never: the notes count whatever is odd about either, and
what would make a score meaningless raises a UserError.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence, Sized
from pathlib import Path

import numpy as np

from tinybert_lite import UserError
from tinybert_lite.data import tables
from tinybert_lite.data.splits import held_out, near_duplicate_groups, strata, text_key

FEWEST_ROWS, MOST_CLASSES = 10, 1000  # of a training file
SEPARATORS = ("|", ";", ",", "/")  # of several labels in one cell
IMBALANCED = 0.8  # share of one class above which accuracy says little
SMALL = 5  # rows of a label; with fewer its near-duplicates always stay together
LARGE, HELD_OUT = 0.1, 0.3  # shares of a label's rows: a group too large, rows for test and dev
MOST_COMPARED = 100_000  # rows; beyond it only equal texts are grouped, not similar ones


def training_rows(
    rows: tables.Examples, name: str, regression: bool, notes: list[str]
) -> tables.Examples:
    """Training rows without empty texts, repeats and texts with contradictory class labels."""
    empty = set(rows.empty_rows())
    if 2 * len(empty) > len(rows):
        raise UserError(
            f"{len(empty)} of the {len(rows)} rows of {name} have an empty text; fill them in, or "
            "name another column."
        )
    labels_of: dict[str, list] = defaultdict(list)
    first: dict[str, int] = {}
    for row, text in enumerate(rows.joined()):
        if row not in empty:
            labels_of[text].append(rows.labels[row])
            first.setdefault(text, row)
    torn = {text for text, labels in labels_of.items() if len(set(labels)) > 1}
    kept = rows.keep([row for text, row in first.items() if regression or text not in torn])
    if regression:
        kept.labels = [float(np.mean(labels)) for labels in labels_of.values()]
    if empty:
        notes.append(f"Left out: {_count(empty, 'training row')} with an empty text.")
    if repeats := len(rows) - len(empty) - len(first):
        rest = _count(range(repeats), "training row")
        notes.append(f"Left out: {rest} with the same text as another.")
    if torn:
        what = "Averaged" if regression else "Left out"
        notes.append(f"{what}: {_count(torn, 'training text')} with different labels.")
    if len(kept) < FEWEST_ROWS:
        raise UserError(
            f"{name} has {len(kept)} usable rows ({len(rows)} in all, {len(empty)} with an empty "
            f"text, {repeats} repeats, {len(torn)} texts with contradictory labels); "
            f"at least {FEWEST_ROWS} are needed."
        )
    return kept


def _count(found: Sized, what: str) -> str:
    return f"{len(found)} {what}{'s' if len(found) != 1 else ''}"


def class_names(rows: tables.Examples, name: str, notes: list[str]) -> list[str]:
    """The classes, sorted, by number when all are whole numbers; what looks odd goes to notes."""
    several = isinstance(rows.labels[0], tuple)
    counts = (
        Counter(x for labels in rows.labels for x in labels) if several else Counter(rows.labels)
    )
    if several and len(counts) < 2:
        raise UserError(
            f"The usable rows of {name} have {len(counts)} label"
            f"{f' ({tables.show(next(iter(counts)))})' if counts else 's'} in all; with "
            "--multi-label at least two different ones are needed."
        )
    if len(counts) == 1:
        raise UserError(
            f"All {len(rows)} usable rows of {name} have the label {tables.show(rows.labels[0])}; "
            "at least two classes are needed."
        )
    if len(counts) > min(MOST_CLASSES, len(rows) / 2):
        raise UserError(
            f"{name} has {len(counts):,} different labels in {len(rows):,} rows, which look like "
            "numbers, ids or texts; name another label column, or add --regression for numbers."
        )
    if several:
        _note_label_sets(rows.labels, list(counts), notes)
    else:
        _note_classes(counts, len(rows), notes)
    if rare := sum(count == 1 for count in counts.values()):
        notes.append(f"{rare} of the {len(counts)} classes have a single training row.")
    if len({label.lower() for label in counts}) < len(counts):
        notes.append("Some labels differ only in upper and lower case; they are separate classes.")
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", label) for label in counts):
        return sorted(counts, key=lambda label: (int(label), label))
    return sorted(counts)


def _note_classes(counts: Counter, rows: int, notes: list[str]) -> None:
    """Say where accuracy misleads, and where classes look like several labels per text."""
    label, most = counts.most_common(1)[0]
    if most > IMBALANCED * rows:
        notes.append(
            f"{most / rows:.0%} of the training rows have the label {tables.show(label)}, so always "
            f"predicting it has an accuracy of {most / rows:.2f}: judge by F1, and give --metric "
            "macro_f1 to select the checkpoint by it."
        )
    if separator := separator_of(list(counts)):
        notes.append(
            f"The labels look like several labels per text, separated by {tables.show(separator)}; "
            f'each combination is a class of its own unless you give --multi-label "{separator}".'
        )


def _note_label_sets(sets: list[tuple[str, ...]], names: list[str], notes: list[str]) -> None:
    """Say how many labels the texts have, and what looks wrong about them."""
    mean = sum(map(len, sets)) / len(sets)
    notes.append(f"{len(names)} labels, {mean:.2f} per training text.")
    if bare := sum(not labels for labels in sets):
        notes.append(f"{bare} of the {len(sets)} training texts have no label: all are 0 for them.")
    if separator := separator_of(names):
        notes.append(
            f"The labels look separated by {tables.show(separator)}; if so, give "
            f'--multi-label "{separator}".'
        )
    elif max(map(len, sets)) < 2:
        notes.append("No training text has more than one label; you may leave --multi-label out.")


def separator_of(names: Sequence[str]) -> str | None:
    """The sign that seems to separate several labels in one: parts of one name come in others."""
    for separator in SEPARATORS:
        split = [[part.strip() for part in name.split(separator)] for name in names]
        joined = [parts for parts in split if len(parts) > 1 and all(parts)]
        shared = Counter(part for parts in split for part in set(parts))
        parts = {part for found in joined for part in found}
        if len(joined) > 1 and 2 * sum(shared[part] > 1 for part in parts) > len(parts):
            return separator
    return None


def group(rows: tables.Examples, tested: tables.Examples | None, notes: list[str]) -> None:
    """Give each row its group of near-duplicates; note how many evaluation texts training has.

    Beyond `MOST_COMPARED` rows only rows with the same first text make a group. Of texts made from
    a template only those with the same letters and digits do, where a label has few others.
    """
    every = [rows] if tested is None else [rows, tested]
    joined = [text for part in every for text in part.joined()]
    if len(joined) <= MOST_COMPARED:
        groups = near_duplicate_groups(joined)
    else:
        groups = [text_key(text) for part in every for text in part.texts]
        notes.append(
            f"More than {MOST_COMPARED:,} rows: near-duplicates are not searched for; only rows with "
            "the same first text are kept on one side of a split."
        )
    if templates := _templates(rows.labels, groups):
        alike = [row for row, name in enumerate(groups) if name in templates]
        for row in alike:
            groups[row] = text_key(joined[row])
        notes.append(
            f"{len(alike)} of the {len(joined)} texts are near-duplicates, as if made from "
            f"{len(templates)} template{'s'[: len(templates) - 1]}; of these only texts with the "
            "same letters and digits are kept on one side of a split, so scores may be too high."
        )
    rows.groups = groups[: len(rows)]
    if tested is not None:
        tested.groups = groups[len(rows) :]
        seen = set(rows.groups)
        if leaked := sum(name in seen for name in tested.groups):
            notes.append(
                f"{leaked} of the {len(tested)} evaluation texts, or near-duplicates of them, are "
                "also in training: scores may be too high."
            )


def _templates(labels: list, groups: list[str]) -> set[str]:
    """Groups too large to hold out, of the labels that have too few rows outside such groups."""
    rows_of: dict = defaultdict(Counter)
    for label, name in zip(labels, groups, strict=False):
        for stratum in strata(label):
            rows_of[stratum][name] += 1
    found = set()
    for counts in rows_of.values():
        total = counts.total()
        large = {name for name, count in counts.items() if count > max(1, LARGE * total)}
        inside = sum(counts[name] for name in large)
        if total >= SMALL and total - inside < HELD_OUT * total:
            found |= large
    return found


def part(
    rows: tables.Examples, share: float, salt: str, name: str
) -> tuple[tables.Examples, tables.Examples]:
    """Held-out rows (`share` of each label) and the rest; a group stays on one side."""
    out = np.array(held_out(rows.groups or [], rows.labels, share, salt))
    if not out.any():
        raise UserError(
            f"{name} has too few different texts of each label to hold any out; give more rows, "
            "or an evaluation file."
        )
    return rows.keep(np.flatnonzero(out).tolist()), rows.keep(np.flatnonzero(~out).tolist())


def evaluation_rows(
    test: str | Path,
    train: str | Path,
    columns: tables.Columns,
    label_names: list[str],
    notes: list[str],
) -> tables.Examples:
    """All rows of the evaluation file; notes say what is odd about them."""
    rows, name = tables.read_examples(test, columns, notes), tables.short_name(test)
    if str(test) == str(train) or (Path(train).is_file() and Path(test).samefile(train)):
        raise UserError(
            f"{name} is both the training and the evaluation file; leave --test out to hold out some "
            "rows."
        )
    there = {x for labels in rows.labels for x in labels} if columns.multi_label else rows.labels
    if unknown := sorted(set(there) - set(label_names)) if label_names else []:
        raise UserError(
            f"{name} has labels that are not in the training data: {tables.listing(unknown)} (training has "
            f"{tables.listing(label_names)}); correct them or add training rows."
        )
    if empty := rows.empty_rows():
        notes.append(f"Scored anyway: {_count(empty, 'evaluation row')} with an empty text.")
    labels_of: dict[str, set] = defaultdict(set)
    for text, row_label in zip(rows.joined(), rows.labels, strict=True):
        labels_of[text].add(row_label)
    if repeats := len(rows) - len(labels_of):
        rest = _count(range(repeats), "evaluation row")
        notes.append(f"{rest} with the same text as another.")
    if torn := [text for text, labels in labels_of.items() if len(labels) > 1]:
        notes.append(f"{_count(torn, 'evaluation text')} with different labels.")
    if not label_names and len(set(rows.labels)) == 1:
        notes.append("All evaluation labels are the same number: correlations are 0.")
    return rows
