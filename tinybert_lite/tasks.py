"""A task: texts, labels, splits and the metric they are scored by.

Three sources: the rated review sentences that come with the course, GLUE through `datasets`,
and the user's own files. A split never moves and near-duplicates never cross it (`splits.py`).
"""

import html
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from tinybert_lite import UserError, metrics, tables
from tinybert_lite.splits import held_out, near_duplicate_groups, text_key, unit_hash

TEST_SHARE, DEV_SHARE = 0.21, 0.08  # of the rated sentences: a test split of at least 2,000
FEWEST_ROWS, MOST_CLASSES = 10, 1000  # of a training file


@dataclass(frozen=True)
class Split:
    """Texts, their second sentences (None for single texts) and labels (None when unknown).

    `labels`: (rows,) int64 class indices, or float64 numbers for regression.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Task:
    """What a teacher is fine-tuned on and a student distilled on.

    `kind` is "classification" or "regression"; `label_names` are in the order of the class
    indices (empty for regression); `metric` is the one reported first; `splits` has "train",
    "dev", "test" (and "test_mismatched" for MNLI); `notes` says what was dropped or looks odd.
    """

    name: str
    kind: str
    label_names: list[str]
    metric: str
    splits: dict[str, Split]
    source: str
    notes: list[str] = field(default_factory=list)

    def score(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All metrics of this kind of task, the task's own first (`metrics.scores`)."""
        found = metrics.scores(self.kind, predictions, labels)
        return {self.metric: found[self.metric], **found}

    def majority(self, split: str = "test") -> dict[str, float]:
        """The score on a split of the best constant answer, chosen on the training labels."""
        train, labels = self.splits["train"].labels, self.splits[split].labels
        if self.kind == "regression":
            return self.score(np.full(len(labels), train.mean()), labels)
        by_count = np.argsort(-np.bincount(train, minlength=len(self.label_names)), kind="stable")
        if self.metric == "f1":  # answering with the rarer class can have the higher F1
            by_count = sorted(
                by_count, key=lambda c: -self.score(np.full_like(train, c), train)["f1"]
            )
        return self.score(np.full_like(labels, by_count[0]), labels)


def load_task(name: str, folder: str | Path | None = None) -> Task:
    """The task of a name: "reviews", "review-ratings", or "glue/sst2" and its seven sisters.

    `folder` takes the place of the download: a folder with the rated sentences, or a GLUE task
    saved on this machine. Raises UserError for an unknown name or when nothing can be loaded.
    """
    if name == "reviews":
        return _reviews(folder)
    if name == "review-ratings":
        return _review_ratings(folder)
    raise UserError(f"There is no task {name!r}; choose reviews or review-ratings.")


# The rated sentences of Hutto & Gilbert (2014) -------------------------------------------------


def _rated_folder(folder: str | Path | None) -> Path:
    if folder is None:
        from tinybert_lite import assets

        folder = assets.path("reviews")
    return Path(folder)


@lru_cache(maxsize=8)
def _rated_sentences(file: Path) -> tuple[list[str], np.ndarray]:
    """Sentences and their mean rating in [-4, 4]; exact repeats become one with the mean rating."""
    ratings: dict[str, list[float]] = defaultdict(list)
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            _, rating, text = line.split("\t")
            ratings[" ".join(html.unescape(text).split())].append(float(rating))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The rated sentences cannot be read from {file}; fetch them again with "
            "`python -m tinybert_lite fetch`."
        ) from error
    return list(ratings), np.array([np.mean(values) for values in ratings.values()])


@lru_cache(maxsize=2)
def _review_sides(file: Path) -> list[str]:
    """The split of each review sentence, from the hash of its near-duplicate group's name."""
    side_of = {}
    groups = near_duplicate_groups(_rated_sentences(file)[0])
    for group in set(groups):
        u = unit_hash(group, "reviews")
        side = "test" if u < TEST_SHARE else "dev" if u < TEST_SHARE + DEV_SHARE else "train"
        side_of[group] = side
    return [side_of[group] for group in groups]


def _review_splits(folder: str | Path | None, labels_of, keep_of) -> dict[str, Split]:
    file = _rated_folder(folder) / "movieReviewSnippets_GroundTruth.txt"
    texts, ratings = _rated_sentences(file)
    sides, keep, labels = np.array(_review_sides(file)), keep_of(ratings), labels_of(ratings)
    splits = {}
    for name in ("train", "dev", "test"):
        rows = np.flatnonzero(keep & (sides == name))
        splits[name] = Split([texts[row] for row in rows], None, labels[rows])
    return splits


def _reviews(folder: str | Path | None) -> Task:
    splits = _review_splits(
        folder, lambda ratings: (ratings > 0).astype(np.int64), lambda ratings: abs(ratings) >= 0.5
    )
    return Task(
        name="reviews",
        kind="classification",
        label_names=["negative", "positive"],
        metric="accuracy",
        splits=splits,
        source="movie review sentences rated by people, Hutto & Gilbert 2014 (vaderSentiment, MIT)",
        notes=["Sentences with a mean rating between -0.5 and 0.5 are left out."],
    )


def _review_ratings(folder: str | Path | None) -> Task:
    splits = _review_splits(
        folder, lambda ratings: ratings, lambda ratings: np.ones(len(ratings), bool)
    )
    return Task(
        name="review-ratings",
        kind="regression",
        label_names=[],
        metric="pearson",
        splits=splits,
        source="mean ratings of movie review sentences, Hutto & Gilbert 2014 (vaderSentiment, MIT)",
    )


def unlabelled_sentences(folder: str | Path | None = None) -> list[str]:
    """Tweets, product reviews and editorial sentences without labels, for general distillation.

    None of them is a near-duplicate of a sentence in the dev or test split of the reviews.
    """
    folder = _rated_folder(folder)
    movie_file = folder / "movieReviewSnippets_GroundTruth.txt"
    movies, sides = _rated_sentences(movie_file)[0], _review_sides(movie_file)
    unseen = [text for text, side in zip(movies, sides, strict=True) if side != "train"]
    files = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets")
    texts = [t for f in files for t in _rated_sentences(folder / f"{f}_GroundTruth.txt")[0]]
    texts = list(dict.fromkeys(texts))
    groups = near_duplicate_groups(unseen + texts)
    taken = set(groups[: len(unseen)])
    return [t for t, group in zip(texts, groups[len(unseen) :], strict=True) if group not in taken]


# The user's own files --------------------------------------------------------------------------


def load_files(
    train: str | Path,
    test: str | Path | None = None,
    *,
    text: str,
    label: str,
    text_pair: str | None = None,
    regression: bool = False,
    seed: int = 0,
    test_share: float = 0.2,
    dev_share: float = 0.1,
) -> Task:
    """A task from CSV, TSV, JSONL or Parquet files (by suffix; `.gz` as well).

    `text`, `text_pair` and `label` are column names. Class labels are any values; their order is
    sorted, by number when all are whole numbers. Without a `test` file `test_share` of the
    training rows is held out, and `dev_share` of what remains in either case: whole groups of
    near-duplicates, by a hash salted with `seed`, the same share of every label.

    From training, rows with an empty text, repeats, and texts with contradictory class labels are
    dropped (numbers are averaged); evaluation rows are never dropped. `notes` counts all of it.
    Raises UserError for everything a file can have wrong.
    """
    for share in (test_share, dev_share):
        if not 0 < share < 1:
            raise UserError(f"A share of {share} cannot be held out; give one between 0 and 1.")
    notes: list[str] = []
    columns = (text, text_pair, label, regression)
    name = Path(train).name
    rows = _cleaned(tables.read_examples(train, *columns), name, regression, notes)
    label_names = [] if regression else _label_names(rows, name, notes)
    if regression and len(set(rows.labels)) == 1:
        raise UserError(f"All labels of {name} are {rows.labels[0]:g}; there is nothing to learn.")
    if test is None:
        tested, rows = _part(rows, test_share, f"test {seed}", name, regression, notes)
        notes.append(f"No test file: {len(tested)} rows of {name} are held out.")
    else:
        tested = _evaluation_rows(test, train, columns, rows, label_names, notes)
    dev, rows = _part(rows, dev_share, f"dev {seed}", name, regression, notes)
    index = {label_name: number for number, label_name in enumerate(label_names)}
    splits = {}
    for side, part in {"train": rows, "dev": dev, "test": tested}.items():
        labels = part.labels if regression else [index[x] for x in part.labels]
        labels = np.array(labels, dtype=np.float64 if regression else np.int64)
        splits[side] = Split(part.texts, part.pairs, labels)
    return Task(
        name=name.split(".")[0] or name,
        kind="regression" if regression else "classification",
        label_names=label_names,
        metric="pearson" if regression else "accuracy",
        splits=splits,
        source=" and ".join([name] if test is None else [name, Path(test).name]),
        notes=list(dict.fromkeys(notes)),
    )


def _cleaned(
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
        notes.append(f"{len(empty)} training rows with an empty text are left out.")
    if repeats := len(rows) - len(empty) - len(first):
        notes.append(f"{repeats} training rows repeat the text of another and are left out.")
    if torn:
        what = "their mean is used" if regression else "they are left out of training"
        notes.append(f"{len(torn)} training texts come with different labels; {what}.")
    if len(kept) < FEWEST_ROWS:
        raise UserError(
            f"{name} has {len(kept)} usable rows ({len(rows)} in all, {len(empty)} with an empty "
            f"text, {repeats} repeats, {len(torn)} texts with contradictory labels); "
            f"at least {FEWEST_ROWS} are needed."
        )
    return kept


def _label_names(rows: tables.Examples, name: str, notes: list[str]) -> list[str]:
    """The classes, sorted, by number when all are whole numbers."""
    counts = Counter(rows.labels)
    if len(counts) == 1:
        raise UserError(
            f"All {len(rows)} usable rows of {name} have the label {tables.show(rows.labels[0])}; "
            "at least two classes are needed."
        )
    if len(counts) > min(MOST_CLASSES, len(rows) / 2):
        raise UserError(
            f"{name} has {len(counts):,} different labels in {len(rows):,} rows, which looks like "
            "a number, an id or a text; name another label column, or add --regression for numbers."
        )
    if rare := sum(count == 1 for count in counts.values()):
        notes.append(f"{rare} of the {len(counts)} classes have a single training row.")
    if len({label.lower() for label in counts}) < len(counts):
        notes.append("Some labels differ in upper and lower case only; they are separate classes.")
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", label) for label in counts):
        return sorted(counts, key=lambda label: (int(label), label))
    return sorted(counts)


def _part(
    rows: tables.Examples, share: float, salt: str, name: str, regression: bool, notes: list[str]
) -> tuple[tables.Examples, tables.Examples]:
    """Held-out rows and the others; groups of near-duplicates stay on one side."""
    groups = near_duplicate_groups(rows.joined())
    if 2 * max(Counter(groups).values()) > len(rows):  # texts made from one template
        notes.append(
            "More than half of the texts are near-duplicates of each other; only texts with the "
            "same letters and digits were kept together in the splits."
        )
        groups = [text_key(text) for text in rows.joined()]
    out = held_out(groups, [""] * len(rows) if regression else rows.labels, share, salt)
    if not any(out):
        raise UserError(
            f"{name} has too few different texts of each label to hold any out; give more rows, "
            "or an evaluation file."
        )
    return (
        rows.keep([row for row, is_out in enumerate(out) if is_out]),
        rows.keep([row for row, is_out in enumerate(out) if not is_out]),
    )


def _evaluation_rows(
    test: str | Path,
    train: str | Path,
    columns: tuple,
    training: tables.Examples,
    label_names: list[str],
    notes: list[str],
) -> tables.Examples:
    """All rows of the evaluation file; notes say what is odd about them."""
    rows, name = tables.read_examples(test, *columns), Path(test).name
    if Path(test).samefile(train):
        raise UserError(
            f"{name} is both the training and the evaluation file; leave --test out to hold some "
            "rows back."
        )
    if unknown := sorted(set(rows.labels) - set(label_names)) if label_names else []:
        raise UserError(
            f"{name} has labels that training lacks: {tables.listing(unknown)} (training has "
            f"{tables.listing(label_names)}); mend them or add training rows."
        )
    if empty := len(rows.empty_rows()):
        notes.append(f"{empty} evaluation rows have an empty text; they are scored all the same.")
    labels_of: dict[str, set] = defaultdict(set)
    for text, row_label in zip(rows.joined(), rows.labels, strict=True):
        labels_of[text].add(row_label)
    if repeats := len(rows) - len(labels_of):
        notes.append(f"{repeats} evaluation rows repeat the text of another.")
    if torn := sum(len(labels) > 1 for labels in labels_of.values()):
        notes.append(f"{torn} evaluation texts come with different labels.")
    groups = near_duplicate_groups(training.joined() + rows.joined())
    seen = set(groups[: len(training)])
    if leaked := sum(group in seen for group in groups[len(training) :]):
        notes.append(
            f"{leaked} of the {len(rows)} evaluation texts, or near-duplicates of them, are also "
            "in training: scores may be too high."
        )
    if not label_names and len(set(rows.labels)) == 1:
        notes.append("All evaluation labels are the same number: correlations are 0.")
    return rows
