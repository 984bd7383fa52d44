"""The exercises of notebook 00: what is kept, what it costs, and where the two models disagree."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinybert_lite.course.exercises.checking import (
    NOT_TRIED,
    Result,
    run,
    run_numbers,
    wrong,
)


def check_retained(candidate: Callable | None) -> Result:
    """`retained(student, teacher, majority)`: the share kept of the teacher's gain over the majority baseline."""
    case = (0.84, 0.86, 0.50)
    problem, answers = run_numbers(candidate, [case])
    if problem:
        return problem
    answer = answers[0]
    right = (0.84 - 0.50) / (0.86 - 0.50)
    if abs(answer - right) < 1e-6:
        return Result(
            True, hint=f"Above chance the student keeps {right:.1%}, not {0.84 / 0.86:.1%}."
        )
    mistakes = {
        0.84 / 0.86: (
            "the majority is left out",
            "Guessing alone already scores 0.50: subtract it.",
        ),
        (0.84 - 0.50) / 0.86: (
            "subtracted on one side only",
            "Subtract the majority from the teacher too.",
        ),
        0.84 / (0.86 - 0.50): (
            "subtracted on one side only",
            "Subtract the majority from the student too.",
        ),
        1 / right: ("upside down", "The student's gain is the numerator."),
        0.86 - 0.84: ("a difference", "The question asks for a share: divide."),
    }
    return _known(answer, mistakes, f"For {case} it should be {right:.4f}, yours is {answer:.4f}.")


def check_only_one_right(candidate: Callable | None) -> Result:
    """`only_one_right(a, b, labels)`: how many texts only model a, and only model b, gets right."""
    a, b = np.array([0, 1, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 1, 0, 0])
    labels = np.array([0, 1, 0, 1, 1, 1, 0])
    problem, answers = run(candidate, [(a, b, labels)])
    if problem:
        return problem
    try:
        answer = tuple(float(x) for x in answers[0])
    except (TypeError, ValueError):
        answer = ()
    if len(answer) != 2:
        return wrong("not two numbers", "Return both counts: first of a, then of b.")
    if answer == (2, 1):
        return Result(
            True,
            hint="These three sentences decide; on the other four both are right or both wrong.",
        )
    mistakes = {
        (1, 2): ("the other way round", "First the texts that only a gets right, then only b."),
        (5, 4): ("all right answers", "Leave out the texts that both get right: & ~right_b."),
        (2, 3): ("the wrong answers", "Count where one is right and the other wrong."),
        (3, 3): ("all disagreements", "Say which of the two is right there: compare with labels."),
        (4, 2): ("predictions of class 1 only", "Class 0 can be right too: compare with labels."),
        (2 / 7, 1 / 7): ("shares", "The question asks for counts: sum, not mean."),
    }
    for value, (mistake, hint) in mistakes.items():
        if np.allclose(answer, value):
            return wrong(mistake, hint)
    return wrong("not the right counts", f"For the seven texts tried it is (2, 1), not {answer}.")


def check_disagreement(sentence: str | None, classify: Callable[[str], tuple[str, str]]) -> Result:
    """A sentence that teacher and student classify differently; `classify` gives both answers."""
    if sentence is None or sentence is ...:
        return NOT_TRIED
    if not isinstance(sentence, str):
        return wrong("not a sentence", "Give a text in quotes.")
    if len(sentence.split()) < 3:
        return wrong("too short", "Give a sentence of three words or more.")
    teacher, student = classify(sentence)
    if teacher == student:
        return wrong(
            f"both predict {teacher}",
            "Try praise of one part and criticism of another, irony, or a negation.",
        )
    return Result(
        True, hint=f"The teacher predicts {teacher}, the student {student}. Which is right?"
    )


def _known(answer: float, mistakes: Mapping[Any, tuple[str, str]], otherwise: str) -> Result:
    for value, (mistake, hint) in mistakes.items():
        if abs(answer - value) < 1e-6 * max(1, abs(value)):
            return wrong(mistake, hint)
    return wrong("not the right number", otherwise)
