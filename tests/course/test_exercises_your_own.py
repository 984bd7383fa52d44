"""Notebook 11's checks: the solutions pass, and each wrong answer gets its own hint."""

import pytest

from tests.wrong_answers import assert_told
from tinybert_lite.course.exercises import your_own


def plain(text):
    return " ".join(text.lower().split())


def leaks(train, test):
    known = {plain(t) for t in train}
    return sum(plain(t) in known for t in test)


def hours(teacher, student, texts, epochs, rate):
    return texts * (teacher + 3 * epochs * student) / rate / 3600


RIGHT = {
    "standard_error": lambda p, n: (p * (1 - p) / n) ** 0.5,
    "leaks": leaks,
    "hours": hours,
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes_and_nothing_yet_is_no_failure(name):
    check = getattr(your_own, f"check_{name}")
    assert check(RIGHT[name]).passed
    for nothing in (None, ..., lambda *case: ...):
        assert not check(nothing).tried


WRONG = [
    ("standard_error", "the variance", lambda p, n: p * (1 - p) / n),
    ("standard_error", "of one text", lambda p, n: (p * (1 - p)) ** 0.5),
    ("standard_error", "divided by n outside the root", lambda p, n: (p * (1 - p)) ** 0.5 / n),
    ("standard_error", "wrong answers are missing", lambda p, n: (p / n) ** 0.5),
    ("standard_error", "not used", lambda p, n: n**-0.5),
    ("standard_error", "interval", lambda p, n: 1.96 * (p * (1 - p) / n) ** 0.5),
    ("standard_error", "percent", lambda p, n: 100 * (p * (1 - p) / n) ** 0.5),
    ("leaks", "letter by letter", lambda a, b: sum(t in a for t in b)),
    ("leaks", "blanks count", lambda a, b: sum(t.lower() in {s.lower() for s in a} for t in b)),
    (
        "leaks",
        "letter case",
        lambda a, b: sum(" ".join(t.split()) in {" ".join(s.split()) for s in a} for t in b),
    ),
    ("leaks", "repeats", lambda a, b: len({*map(plain, a)} & {*map(plain, b)})),
    ("leaks", "parts", lambda a, b: sum(any(plain(t) in plain(s) for s in a) for t in b)),
    ("leaks", "training side", lambda a, b: sum(plain(t) in {*map(plain, b)} for t in a)),
    ("leaks", "share", lambda a, b: leaks(a, b) / len(b)),
    ("hours", "seconds", lambda *c: hours(*c) * 3600),
    ("hours", "minutes", lambda *c: hours(*c) * 60),
    ("hours", "teacher is free", lambda t, s, n, e, r: hours(0, s, n, e, r)),
    ("hours", "each epoch", lambda t, s, n, e, r: hours(e * t, s, n, e, r)),
    ("hours", "teacher learns", lambda t, s, n, e, r: hours(3 * e * t, s, n, e, r)),
    ("hours", "teacher learns", lambda t, s, n, e, r: hours(3 * t, s, n, e, r)),
    ("hours", "student only reads", lambda t, s, n, e, r: hours(t, s / 3, n, e, r)),
    ("hours", "one epoch", lambda t, s, n, e, r: hours(t, s, n, 1, r)),
    ("hours", "not a number", lambda *c: "two"),
    ("hours", "ZeroDivisionError", lambda *c: 1 / 0),
]


@pytest.mark.parametrize(("name", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(name, says, answer):
    assert_told(getattr(your_own, f"check_{name}")(answer), says)
