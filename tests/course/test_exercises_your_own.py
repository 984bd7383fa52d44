"""Notebook 11's checks: the solutions pass, and each wrong answer gets its own hint."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from tests.wrong_answers import assert_told
from tinybert_lite.course.exercises import your_own


def plain(text):
    return " ".join(text.lower().split())


def leaks(train, test):
    known = {plain(t) for t in train}
    return sum(plain(t) in known for t in test)


def hours(teacher, student, texts, epochs, rate):
    return texts * (teacher + 3 * epochs * student) / rate / 3600


def paired_error(a, b):
    return (a != b).sum() ** 0.5 / len(a)


def macro_f1(predictions, labels):
    return f1_score(labels, predictions, average="macro")


def of_means(p, t):
    precision, recall = (
        f(t, p, average="macro", zero_division=0) for f in (precision_score, recall_score)
    )
    return 2 * precision * recall / (precision + recall)


RIGHT = {
    "paired_error": paired_error,
    "macro_f1": macro_f1,
    "leaks": leaks,
    "hours": hours,
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes_and_nothing_yet_is_no_failure(name):
    check = getattr(your_own, f"check_{name}")
    assert check(RIGHT[name]).passed
    for nothing in (None, ..., lambda *case: ...):
        assert not check(nothing).tried


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_exact_standard_error_passes_as_well(ddof):
    def exact(a, b):
        return (a.astype(int) - b).std(ddof=ddof) / len(a) ** 0.5

    assert your_own.check_paired_error(exact).passed


WRONG = [
    ("paired_error", "not paired", lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5),
    ("paired_error", "one score", lambda a, b: (a.mean() * (1 - a.mean()) / len(a)) ** 0.5),
    ("paired_error", "one score", lambda a, b: (b.mean() * (1 - b.mean()) / len(b)) ** 0.5),
    ("paired_error", "a count", lambda a, b: (a != b).sum() ** 0.5),
    ("paired_error", "share of disagreements", lambda a, b: (a != b).mean()),
    ("paired_error", "the variance", lambda a, b: (a != b).sum() / len(a) ** 2),
    ("paired_error", "divided by √n", lambda a, b: (a != b).mean() ** 0.5),
    ("paired_error", "net difference", lambda a, b: a.mean() - b.mean()),
    ("paired_error", "interval", lambda a, b: 1.96 * paired_error(a, b)),
    ("paired_error", "percent", lambda a, b: 100 * paired_error(a, b)),
    ("paired_error", "net difference", lambda a, b: abs(a.sum() - b.sum()) ** 0.5 / len(a)),
    ("macro_f1", "accuracy", lambda p, t: (p == t).mean()),
    ("macro_f1", "weighted", lambda p, t: f1_score(t, p, average="weighted")),
    ("macro_f1", "left out", lambda p, t: f1_score(t, p, labels=np.unique(p), average="macro")),
    ("macro_f1", "half of it", lambda p, t: macro_f1(p, t) / 2),
    ("macro_f1", "Jaccard", lambda p, t: jaccard_score(t, p, average="macro")),
    ("macro_f1", "mean precision and recall", of_means),
    ("macro_f1", "precision", lambda p, t: precision_score(t, p, average="macro", zero_division=0)),
    ("macro_f1", "recall", lambda p, t: recall_score(t, p, average="macro")),
    ("macro_f1", "a sum", lambda p, t: f1_score(t, p, average=None).sum()),
    ("macro_f1", "one class", lambda p, t: f1_score(t == 1, p == 1)),
    ("macro_f1", "percent", lambda p, t: 100 * macro_f1(p, t)),
    ("leaks", "letter by letter", lambda a, b: sum(t in a for t in b)),
    ("leaks", "spaces are not", lambda a, b: sum(t.lower() in {s.lower() for s in a} for t in b)),
    (
        "leaks",
        "case is not",
        lambda a, b: sum(" ".join(t.split()) in {" ".join(s.split()) for s in a} for t in b),
    ),
    ("leaks", "repeats", lambda a, b: len({*map(plain, a)} & {*map(plain, b)})),
    ("leaks", "parts", lambda a, b: sum(any(plain(t) in plain(s) for s in a) for t in b)),
    ("leaks", "training side", lambda a, b: sum(plain(t) in {*map(plain, b)} for t in a)),
    ("leaks", "share", lambda a, b: leaks(a, b) / len(b)),
    ("hours", "seconds", lambda *c: hours(*c) * 3600),
    ("hours", "minutes", lambda *c: hours(*c) * 60),
    ("hours", "teacher is left out", lambda t, s, n, e, r: hours(0, s, n, e, r)),
    ("hours", "every epoch", lambda t, s, n, e, r: hours(e * t, s, n, e, r)),
    ("hours", "teacher is trained", lambda t, s, n, e, r: hours(3 * e * t, s, n, e, r)),
    ("hours", "teacher is trained", lambda t, s, n, e, r: hours(3 * t, s, n, e, r)),
    ("hours", "only runs forward", lambda t, s, n, e, r: hours(t, s / 3, n, e, r)),
    ("hours", "one epoch", lambda t, s, n, e, r: hours(t, s, n, 1, r)),
    ("hours", "not a number", lambda *c: "two"),
    ("hours", "ZeroDivisionError", lambda *c: 1 / 0),
]


@pytest.mark.parametrize(("name", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(name, says, answer):
    assert_told(getattr(your_own, f"check_{name}")(answer), says)
