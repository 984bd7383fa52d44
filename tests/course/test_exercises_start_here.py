"""The checks of notebook 00 accept what is right and name each known mistake."""

import numpy as np
import pytest

from tests.wrong_answers import assert_told, register
from tinybert_lite.course import exercises

WRONG, wrong = register()


def only_one_right(a, b, labels):
    right_a, right_b = a == labels, b == labels
    return int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())


def test_the_solution_is_accepted_as_a_tuple_a_list_or_an_array():
    assert exercises.check_only_one_right(only_one_right).passed
    assert exercises.check_only_one_right(lambda *case: list(only_one_right(*case))).passed
    assert exercises.check_only_one_right(lambda *case: np.array(only_one_right(*case))).passed


@wrong("check_only_one_right", "the other way round")
def counts_swapped(a, b, labels):
    return only_one_right(b, a, labels)


@wrong("check_only_one_right", "all right answers")
def counts_of_all_right(a, b, labels):
    return (a == labels).sum(), (b == labels).sum()


@wrong("check_only_one_right", "the wrong answers")
def counts_of_wrong(a, b, labels):
    return (a != labels).sum(), (b != labels).sum()


@wrong("check_only_one_right", "all disagreements")
def counts_of_disagreements(a, b, labels):
    return (a != b).sum(), (b != a).sum()


@wrong("check_only_one_right", "shares")
def counts_as_shares(a, b, labels):
    return tuple(n / len(labels) for n in only_one_right(a, b, labels))


@wrong("check_only_one_right", "not two numbers")
def one_count(a, b, labels):
    return (a != b).sum()


@wrong("check_only_one_right", "stopped with an error")
def counts_that_stop(a, b, labels):
    return a.right, b.right


@wrong("check_only_one_right", "not the right counts")
def counts_from_nowhere(a, b, labels):
    return 9, 9


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


def test_each_known_mistake_has_values_of_its_own():
    """No two mistakes give the same counts on the texts that are tried."""
    a, b = np.array([0, 1, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 1, 0, 0])
    labels = np.array([0, 1, 0, 1, 1, 1, 0])
    values = [f(a, b, labels) for f in (counts_swapped, counts_of_all_right, counts_of_wrong)]
    values += [only_one_right(a, b, labels), counts_of_disagreements(a, b, labels)]
    assert len({tuple(map(int, v)) for v in values}) == len(values)
    assert only_one_right(a, b, labels) == (2, 1)
