"""Every check of notebook 08 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import numpy as np
import pytest

from tests.wrong_answers import assert_told, register
from tinybert_lite.course import exercises
from tinybert_lite.course.exercises import what_transferred

WRONG, wrong = register()


def moved(similarity, mapping, heads):
    found = []
    for row, best in enumerate(similarity.argmax(1)):
        layer, head = row // heads + 1, row % heads + 1
        if best != (mapping[layer] - 1) * heads + head - 1:
            found.append((layer, head))
    return found


def errors_alike(teacher, student, labels):
    ours, theirs = teacher != labels, student != labels
    return (ours & theirs).mean() / (ours.mean() * theirs.mean())


def flips(before, after):
    return (before.argmax(1) != after.argmax(1)).mean()


@wrong("check_moved", "counted from 0")
def moved_from_zero(similarity, mapping, heads):
    return [(layer - 1, head - 1) for layer, head in moved(similarity, mapping, heads)]


@wrong("check_moved", "the heads that stayed")
def moved_turned_around(similarity, mapping, heads):
    rows = [(r // heads + 1, r % heads + 1) for r in range(len(similarity))]
    return [pair for pair in rows if pair not in moved(similarity, mapping, heads)]


@wrong("check_moved", "mapping forgotten")
def moved_without_mapping(similarity, mapping, heads):
    return [
        (r // heads + 1, r % heads + 1) for r, best in enumerate(similarity.argmax(1)) if best != r
    ]


@wrong("check_moved", "off by one in the teacher's layers")
def moved_layer_as_index(similarity, mapping, heads):
    found = []
    for row, best in enumerate(similarity.argmax(1)):
        layer, head = row // heads + 1, row % heads + 1
        if best != mapping[layer] * heads + head - 1:
            found.append((layer, head))
    return found


@wrong("check_moved", "off by one in the mapping")
def moved_mapping_of_row(similarity, mapping, heads):
    found = []
    for row, best in enumerate(similarity.argmax(1)):
        if best != (mapping[row // heads] - 1) * heads + row % heads:
            found.append((row // heads + 1, row % heads + 1))
    return found


@wrong("check_moved", "searched in its own layer only")
def moved_within_layer(similarity, mapping, heads):
    found = []
    for row, values in enumerate(similarity):
        n = mapping[row // heads + 1]
        if values[(n - 1) * heads : n * heads].argmax() != row % heads:
            found.append((row // heads + 1, row % heads + 1))
    return found


@wrong("check_moved", "only heads that left their layer")
def moved_to_another_layer(similarity, mapping, heads):
    best = similarity.argmax(1)
    rows = range(len(best))
    return [
        (r // heads + 1, r % heads + 1)
        for r in rows
        if best[r] // heads + 1 != mapping[r // heads + 1]
    ]


@wrong("check_moved", "searched down the columns")
def moved_down_the_columns(similarity, mapping, heads):
    best, found = similarity.argmax(0), []
    for row in range(len(similarity)):
        home = (mapping[row // heads + 1] - 1) * heads + row % heads
        if best[home] != row:
            found.append((row // heads + 1, row % heads + 1))
    return found


@wrong("check_moved", "the sign was dropped")
def moved_by_size(similarity, mapping, heads):
    return moved(abs(similarity), mapping, heads)


@wrong("check_moved", "teacher heads instead of student heads")
def moved_where(similarity, mapping, heads):
    best = similarity.argmax(1)
    rows = [(m - 1) * heads + h - 1 for m, h in moved(similarity, mapping, heads)]
    return [(best[r] // heads + 1, best[r] % heads + 1) for r in rows]


@wrong("check_moved", "not a list of pairs")
def moved_as_rows(similarity, mapping, heads):
    return [0, 3, 5]


@wrong("check_errors_alike", "not compared with chance")
def alike_share(t, s, y):
    return ((t != y) & (s != y)).mean()


@wrong("check_errors_alike", "a count instead of a share")
def alike_count(t, s, y):
    return ((t != y) & (s != y)).sum() / ((t != y).mean() * (s != y).mean())


@wrong("check_errors_alike", "counts instead of shares")
def alike_all_counts(teacher, student, labels):
    ours, theirs = teacher != labels, student != labels
    return (ours & theirs).sum() / (ours.sum() * theirs.sum())


@wrong("check_errors_alike", "right answers instead of errors")
def alike_right(t, s, y):
    return ((t == y) & (s == y)).mean() / ((t == y).mean() * (s == y).mean())


@wrong("check_errors_alike", "agreement instead of errors")
def alike_agreement(t, s, y):
    return (t == s).mean() / ((t != y).mean() * (s != y).mean())


@wrong("check_errors_alike", "only one model's errors in the denominator")
def alike_given_the_teacher(t, s, y):
    return (s != y)[t != y].mean()


@wrong("check_errors_alike", "only one model's errors in the denominator")
def alike_given_the_student(t, s, y):
    return (t != y)[s != y].mean()


@wrong("check_errors_alike", "upside down")
def alike_upside_down(t, s, y):
    return ((t != y).mean() * (s != y).mean()) / ((t != y) & (s != y)).mean()


@wrong("check_errors_alike", "a difference instead of a ratio")
def alike_difference(t, s, y):
    return ((t != y) & (s != y)).mean() - (t != y).mean() * (s != y).mean()


@wrong("check_errors_alike", "the same wrong answer only")
def alike_same_answer(t, s, y):
    return ((t != y) & (t == s)).mean() / ((t != y).mean() * (s != y).mean())


@wrong("check_flips", "the share that stays")
def flips_stay(b, a):
    return (b.argmax(1) == a.argmax(1)).mean()


@wrong("check_flips", "a count instead of a share")
def flips_count(b, a):
    return (b.argmax(1) != a.argmax(1)).sum()


@wrong("check_flips", "any change of a logit counts")
def flips_any(b, a):
    return (b != a).any(axis=1).mean()


@wrong("check_flips", "size of the change of the logits")
def flips_logits(b, a):
    return abs(b - a).mean()


@wrong("check_flips", "size of the change of the probabilities")
def flips_probabilities(b, a):
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (b, a))
    return abs(p - q).mean()


@wrong("check_flips", "changes that cancel")
def flips_net(b, a):
    return abs(b.argmax(1).mean() - a.argmax(1).mean())


@wrong("check_flips", "argmax over the texts")
def flips_axis(b, a):
    return (b.argmax(0) != a.argmax(0)).mean()


@wrong("check_flips", "one class only")
def flips_last_class(b, a):
    return ((b.argmax(1) == 2) != (a.argmax(1) == 2)).mean()


@wrong("check_flips", "it stopped with an error")
def flips_error(b, a):
    return b.argmax(5)


@wrong("check_flips", "another answer")
def flips_something_else(b, a):
    return 0.123


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ("ABDH", "B says more than the picture. No head was removed"),
        ({"A", "C", "D", "H"}, "C says more than the picture. That is a cause"),
        (["A", "D", "E", "H"], "E says more than the picture. These are 100 sentences"),
        ({"a", "d", "f", "h"}, "F says more than the picture. A share of variance"),
        ("ADGH", "G says more than the picture. Scores were compared"),
        ("AD", "H is supported too. The reader needs this limit"),
        ("DH", "A is supported too. It says what the numbers are"),
        ("XYZ", "Not a set of letters"),
        (3, "Not a set of letters"),
        (set(), "Not a set of letters"),
    ],
)
def test_a_caption_that_says_too_much_or_too_little_is_told_which_sentence(chosen, says):
    result = exercises.check_caption(chosen)
    assert not result.passed and says in repr(result)


SOLUTIONS = [
    ("check_moved", moved),
    ("check_errors_alike", errors_alike),
    ("check_flips", flips),
    ("check_caption", {"A", "D", "H"}),
    ("check_caption", "adh"),
]


@pytest.mark.parametrize(("check", "answer"), SOLUTIONS)
def test_the_solution_passes(check, answer):
    result = getattr(exercises, check)(answer)
    assert result.passed and repr(result).startswith("[OK]"), result


@pytest.mark.parametrize("check", sorted({check for check, _ in SOLUTIONS}))
def test_an_exercise_not_tried_says_so(check):
    for answer in (None, ..., lambda *_: None, lambda *_: ...):
        result = getattr(exercises, check)(answer)
        assert not result.passed and not result.tried
        assert repr(result).startswith("[not tried]")


def test_every_sentence_of_the_caption_has_its_reason():
    assert set(what_transferred.CAPTION) == set(what_transferred.CAPTION_HINTS)
    assert set(what_transferred.CAPTION) > what_transferred.SUPPORTED


@pytest.mark.parametrize("name", ["MOVED", "ALIKE", "FLIP"])
def test_no_two_kinds_of_mistake_look_alike(name):
    """Else a learner would be told of a mistake that is not theirs."""
    solution, cases = {
        "MOVED": (what_transferred._moved, what_transferred._moved_cases()),
        "ALIKE": (what_transferred._alike, what_transferred._answer_cases()),
        "FLIP": (what_transferred._flips, what_transferred._logit_cases()),
    }[name]
    found = {"the solution": [solution(*case) for case in cases]}
    for i, mistake in enumerate(getattr(what_transferred, f"{name}_MISTAKES")):
        answer = [mistake.answer(*case) for case in cases]
        for other, theirs in found.items():
            assert not what_transferred._same(answer, theirs), (mistake.name, other)
        found[f"{i} {mistake.name}"] = answer
