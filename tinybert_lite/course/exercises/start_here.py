"""The exercises of notebook 00: what is kept, what it costs, and where the two models part."""

from collections.abc import Callable, Mapping
from typing import Any

from tinybert_lite.course.exercises.checking import NOT_TRIED, Result, wrong


def check_retained(candidate: Callable | None) -> Result:
    """`retained(student, teacher, majority)`: the share kept of what the teacher knows above chance."""
    case = (0.84, 0.86, 0.50)
    answer, early = _call(candidate, case)
    if early:
        return early
    right = (0.84 - 0.50) / (0.86 - 0.50)
    if abs(answer - right) < 1e-6:
        return Result(
            True, hint=f"Above chance the student keeps {right:.1%}, not {0.84 / 0.86:.1%}."
        )
    mistakes = {
        0.84 / 0.86: (
            "the majority is left out",
            "Guessing alone already scores 0.50: take it off.",
        ),
        (0.84 - 0.50) / 0.86: ("taken off one side only", "Take the majority off the teacher too."),
        0.84 / (0.86 - 0.50): ("taken off one side only", "Take the majority off the student too."),
        1 / right: ("upside down", "The student's part goes above the line."),
        0.86 - 0.84: ("a difference", "The question asks for a share: divide."),
    }
    return _known(answer, mistakes, f"For {case} it should be {right:.4f}, yours is {answer:.4f}.")


def check_parameters(candidate: Callable | None) -> Result:
    """`parameters(vocabulary, positions, layers, width, feed_forward)` of a BERT encoder with pooler."""
    v, p, m, d, f = case = (30522, 512, 3, 192, 768)
    answer, early = _call(candidate, case)
    if early:
        return early
    embeddings = (v + p + 2) * d + 2 * d
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    pooler = d * d + d
    right = embeddings + m * layer + pooler
    if answer == right:
        return Result(True, hint=f"{right:,}; {embeddings / right:.0%} of them are embeddings.")
    biases = m * (4 * d + f + d)
    mistakes = {
        m * layer + pooler: (
            "the embeddings are missing",
            "Words, positions, two types, LayerNorm.",
        ),
        embeddings + m * layer: (
            "the pooler is missing",
            "One more width × width layer at the end.",
        ),
        embeddings + layer + pooler: ("only one layer", "There are M of them."),
        right - biases: ("the biases are missing", "Every linear layer adds one number an output."),
        right - m * 4 * d: ("LayerNorms are missing", "Two a layer, each a weight and a bias."),
        right - 2 * d - m * 4 * d: (
            "LayerNorms are missing",
            "One after the embeddings, two a layer.",
        ),
        right - p * d: ("the positions are missing", "Each position has a vector of its own."),
        right - 2 * d: ("types or a LayerNorm are missing", "Two token types, one LayerNorm."),
        right - m * (d * d + d): ("one of Q, K, V and output is missing", "Attention has four."),
    }
    return _known(answer, mistakes, f"It should be {right:,}, yours is {answer:,}.")


def check_disagreement(sentence: str | None, classify: Callable[[str], tuple[str, str]]) -> Result:
    """A sentence teacher and student answer differently; `classify` gives both answers."""
    if sentence is None or sentence is ...:
        return NOT_TRIED
    if not isinstance(sentence, str):
        return wrong("not a sentence", "Give a text in quotes.")
    if len(sentence.split()) < 3:
        return wrong("too short", "A sentence of three words or more says something about reading.")
    teacher, student = classify(sentence)
    if teacher == student:
        return wrong(
            f"both say {teacher}",
            "Try praise of one part and blame of another, irony, or a negation.",
        )
    return Result(True, hint=f"Teacher says {teacher}, student {student}. Who is right?")


def _call(candidate: Callable | None, case: tuple) -> tuple[float, Result | None]:
    if candidate is None or candidate is ...:
        return 0, NOT_TRIED
    try:
        answer = candidate(*case)
    except NotImplementedError:
        return 0, NOT_TRIED
    except Exception as error:  # whatever the learner wrote
        return 0, wrong("it stopped with an error", f"{type(error).__name__}: {error}")
    if answer is None or answer is ...:
        return 0, NOT_TRIED
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return 0, wrong("not a number", f"It gives {type(answer).__name__}.")
    return answer, None


def _known(answer: float, mistakes: Mapping[Any, tuple[str, str]], otherwise: str) -> Result:
    for value, (mistake, hint) in mistakes.items():
        if abs(answer - value) < 1e-6 * max(1, abs(value)):
            return wrong(mistake, hint)
    return wrong("not the right number", otherwise)
