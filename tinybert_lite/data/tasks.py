"""A task: texts, labels, splits and the metric they are scored by.

Three sources: the rated review sentences that come with the course, GLUE through `datasets`,
and the user's own files. A split never moves and near-duplicates never cross it (`splits.py`).
"""

import difflib
import html
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from tinybert_lite import UserError
from tinybert_lite.data import cleaning, glue, hub, metrics, tables
from tinybert_lite.data.splits import near_duplicate_groups, unit_hash, words

METRICS = {"classification": "accuracy", "multilabel": "micro_f1", "regression": "pearson"}
TEST_SHARE, DEV_SHARE = 0.21, 0.08  # of the rated sentences: a test split of at least 2,000


@dataclass(frozen=True)
class Split:
    """Texts, their second sentences (None for single texts) and labels (None when unknown).

    `labels`: (texts,) int64 class indices, float64 numbers for regression, or (texts, labels)
    float64 of 0 and 1 where a text may have several labels.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Task:
    """What a teacher is fine-tuned on and a student distilled on.

    `kind` is "classification", "multilabel" or "regression"; `label_names` are in the order of the
    class indices or of the columns of 0 and 1 (empty for regression); `metric` is the one reported first; `splits` has "train",
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
        classes = 0 if self.kind == "regression" else len(self.label_names)
        found = metrics.scores(classes, predictions, labels)
        return {self.metric: found[self.metric], **found}

    def majority(self, split: str = "test") -> dict[str, float]:
        """The score on a split of the best constant answer, chosen on the training labels."""
        train, labels = self.splits["train"].labels, self.splits[split].labels
        assert train is not None and labels is not None  # only an unlabeled split of GLUE has none
        if self.kind == "regression":
            return self.score(np.full(len(labels), train.mean()), labels)
        if self.kind == "multilabel":  # the most frequent labels: as many as score best
            rank = np.argsort(np.argsort(-train.sum(0), kind="stable"))
            constants = [1.0 * (rank < n) for n in range(1, len(rank) + 1)]
            best = max(constants, key=lambda c: self._of_constant(c, train)[self.metric])
            return self._of_constant(best, labels)
        counts = np.bincount(train, minlength=len(self.label_names))
        by_count = np.argsort(-counts, kind="stable").tolist()
        if self.metric == "f1":  # always predicting the rarer class can have the higher F1
            by_count = sorted(
                by_count, key=lambda c: -self.score(np.full_like(train, c), train)["f1"]
            )
        return self.score(np.full_like(labels, by_count[0]), labels)

    def _of_constant(self, answer: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return self.score(np.broadcast_to(answer, labels.shape), labels)


def load_task(name: str, folder: str | Path | None = None) -> Task:
    """The task of a name: "reviews", "review-ratings", or a GLUE task such as "glue/sst2".

    `folder` takes the place of the download: a folder with the rated sentences, or a GLUE task
    saved on this machine. Raises UserError for an unknown name or when nothing can be loaded.
    """
    if name == "reviews":
        return _reviews(folder)
    if name == "review-ratings":
        return _review_ratings(folder)
    if name.startswith("glue/") and name[5:] in glue.TASKS:
        return _glue(name[5:], folder)
    names = ["reviews", "review-ratings", *(f"glue/{task}" for task in glue.TASKS)]
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}."
    raise UserError(f"There is no task {tables.show(name)}; {hint}")


# The rated sentences of Hutto & Gilbert (2014) -------------------------------------------------


def _rated_folder(folder: str | Path | None) -> Path:
    if folder is None:
        from tinybert_lite.data import assets

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


def unlabeled_sentences(folder: str | Path | None = None) -> list[str]:
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


# GLUE ------------------------------------------------------------------------------------------


def _glue(name: str, folder: str | Path | None) -> Task:
    task, splits = glue.TASKS[name], {}
    rows = glue.rows(name, folder)
    notes = ["The labels of the GLUE test set are hidden: test here is its validation set."]
    label_names = list(task.label_names)
    train = rows.pop("train")
    cleaning.group(train, None, notes)
    share = min(0.1, glue.MOST_DEV_ROWS / len(train))
    dev, train = cleaning.part(train, share, "glue", f"glue/{name}")
    notes.append(f"dev is a fixed {share:.1%} of the training set ({len(dev)} rows).")
    splits = {"train": train, "dev": dev, **rows}
    return Task(
        name=f"glue/{name}",
        kind="classification" if label_names else "regression",
        label_names=label_names,
        metric=task.metric,
        splits={side: _split(part, label_names) for side, part in splits.items()},
        source="GLUE (nyu-mll/glue), Wang et al. 2019",
        notes=notes,
    )


def align_labels(task_label_names: Sequence[str], model_label_names: Sequence[str]) -> list[int]:
    """Where each label of the task is among the outputs of a model: `logits[:, align_labels(...)]` is in order.

    Names match by their letters and digits, whatever the case. A model whose names say nothing
    (LABEL_0, LABEL_1, or 0, 1: see `generic_labels`) is taken in its own order; the caller
    notes that. Raises UserError when the number of labels differs or a name has no match.
    """
    wanted = ["".join(words(name)) or name for name in task_label_names]
    there = ["".join(words(name)) or name for name in model_label_names]
    if len(wanted) == len(there):
        if sorted(wanted) == sorted(there) and len(set(there)) == len(there):
            return [there.index(name) for name in wanted]
        if generic_labels(model_label_names):
            return list(range(len(wanted)))
    raise UserError(
        f"The labels of the model ({tables.listing(model_label_names)}) are not those of the task "
        f"({tables.listing(task_label_names)}); choose a model fine-tuned for this task."
    )


def generic_labels(names: Sequence[str]) -> bool:
    """Whether label names only count: LABEL_0, LABEL_1 … or 0, 1 …"""
    numbers = [str(number) for number in range(len(names))]
    return [name.lower().removeprefix("label_") for name in names] == numbers


# The user's own files --------------------------------------------------------------------------


def load_files(
    train: str | Path,
    test: str | Path | None = None,
    *,
    text: str,
    label: str,
    text_pair: str | None = None,
    regression: bool = False,
    multi_label: str | None = None,
    seed: int = 0,
    test_share: float = 0.2,
    dev_share: float = 0.1,
) -> Task:
    """A task from CSV, TSV, JSONL, Parquet or Excel files (by suffix; `.gz` as well), or hub:NAME.

    `text`, `text_pair` and `label` are column names. Class labels are any values; their order is
    sorted, by number when all are whole numbers. With `multi_label` a text may have several labels
    or none, separated by this, or "list" where the cells hold lists. Without a `test` file `test_share` of the
    training rows is held out, and `dev_share` of what remains in either case: whole groups of
    near-duplicates, by a hash salted with `seed`, the same share of every label.

    From training, rows with an empty text, repeats, and texts with contradictory class labels are
    dropped (numbers are averaged); evaluation rows are never dropped. `notes` counts all of it.
    Raises UserError for any problem in a file.
    """
    for share in (test_share, dev_share):
        if not 0 < share < 1:
            raise UserError(f"A share of {share} cannot be held out; give one between 0 and 1.")
    notes: list[str] = []
    columns = tables.Columns(text, label, text_pair, regression, multi_label)
    name = tables.short_name(train)
    read = tables.read_examples(train, columns, notes)
    rows = cleaning.training_rows(read, name, regression, notes)
    label_names = [] if regression else cleaning.class_names(rows, name, notes)
    if regression and len(set(rows.labels)) == 1:
        raise UserError(f"All labels of {name} are {rows.labels[0]:g}; there is nothing to learn.")
    tested = None
    if test is not None:
        tested = cleaning.evaluation_rows(test, train, columns, label_names, notes)
    cleaning.group(rows, tested, notes)
    if tested is None:
        tested, rows = cleaning.part(rows, test_share, f"test {seed}", name)
        notes.append(f"No test file: {len(tested)} rows of {name} are held out.")
    dev, rows = cleaning.part(rows, dev_share, f"dev {seed}", name)
    parts = {"train": rows, "dev": dev, "test": tested}
    kind = "regression" if regression else "multilabel" if multi_label else "classification"
    return Task(
        name=re.split("[.:]", Path(name.removeprefix(hub.PREFIX)).name)[0] or name,
        kind=kind,
        label_names=label_names,
        metric=METRICS[kind],
        splits={side: _split(part, label_names) for side, part in parts.items()},
        source=" and ".join([name] if test is None else [name, tables.short_name(test)]),
        notes=notes,
    )


def _split(rows: tables.Examples, label_names: list[str]) -> Split:
    """Rows with class names turned into their indices (numbers stay, where there are no names)."""
    if not label_names:
        return Split(rows.texts, rows.pairs, np.array(rows.labels, dtype=np.float64))
    index = {name: number for number, name in enumerate(label_names)}
    if isinstance(rows.labels[0], tuple):
        matrix = np.zeros((len(rows), len(label_names)))
        for row, names in enumerate(rows.labels):
            matrix[row, [index[name] for name in names]] = 1
        return Split(rows.texts, rows.pairs, matrix)
    labels = np.array([index[label] for label in rows.labels], dtype=np.int64)
    return Split(rows.texts, rows.pairs, labels)
