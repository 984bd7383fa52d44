"""The exercises of notebook 11: noise, leaks between files, and how long a run will take."""

from collections.abc import Callable

from tinybert_lite.course.exercises.checking import NOT_TRIED, Result, wrong

# Texts of the check's own making.
TRAIN = [
    *("A fine camera.", "a fine  camera.", "Loud  fan", "loud fan", "LOUD fan"),
    *("works as it should", "works as it SHOULD", "works  as  it should", "it broke after a day"),
]
TEST = [
    *("a fine camera.", "A Fine camera.", "A fine camera.", "loud fan", "LOUD FAN"),
    *("works  as it should ", "Works as it should", "It broke", "a day", "too heavy"),
]
LEAKED = 7


def check_standard_error(candidate: Callable | None) -> Result:
    """`standard_error(accuracy, n)`: how far an accuracy on n texts is off by chance alone."""
    n = 2_074
    right = (0.85 * 0.15 / n) ** 0.5
    mistakes = {
        0.85 * 0.15 / n: ("the variance", "Take the square root."),
        (0.85 * 0.15) ** 0.5: ("of one text", "A mean of n texts is √n times steadier."),
        (0.85 * 0.15) ** 0.5 / n: ("divided by n outside the root", "It falls with √n, not n."),
        (0.85 / n) ** 0.5: ("the wrong answers are missing", "p (1 − p), not p alone."),
        1 / n**0.5: ("accuracy is not used", "Near 1 an accuracy is steadier: p (1 − p)."),
        1.96 * right: ("an interval, not the error", "The check wants one standard error."),
        100 * right: ("percent", "Accuracy is given as a share; answer as a share."),
    }
    good = f"{100 * right:.2f} points: of two students closer than that, neither is better."
    return _number(candidate, (0.85, n), right, mistakes, good)


def check_leaks(candidate: Callable | None) -> Result:
    """`leaks(train, test)`: how many test texts stand in training, letter case and blanks aside."""
    mistakes = {
        2: ("letter by letter only", "“LOUD FAN” and “loud  fan” are the same text to BERT."),
        4: ("letter case counts", "The tokenizer of an uncased model lowers every letter."),
        6: ("blanks count", "Two blanks are one, and none at the ends: `' '.join(text.split())`."),
        3: ("repeats counted once", "Each test text that has leaked counts."),
        9: ("parts of texts count", "“It broke” is only the beginning of another text."),
        8: ("counted on the training side", "Count test texts that training has."),
        0.7: ("a share", "The question asks how many."),
    }
    return _number(
        candidate, (TRAIN, TEST), LEAKED, mistakes, "7 of 10: this test asks for memory."
    )


def check_hours(candidate: Callable | None) -> Result:
    """`hours(teacher, student, texts, epochs, rate)`: of intermediate distillation.

    `teacher` and `student` are FLOPs of one text forward, `rate` FLOPs a second that are reached.
    The teacher is asked once for each text; a student's step costs three times its forward pass.
    """
    teacher, student, texts, epochs, rate = case = 22.4e9, 1.2e9, 1_000_000, 5, 2e13
    seconds = (texts * teacher + 3 * epochs * texts * student) / rate
    every = epochs * texts * teacher
    learn = 3 * epochs * texts * student
    mistakes = {
        seconds: ("seconds", "An hour has 3,600 of them."),
        seconds / 60: ("minutes", "An hour has 60 of them."),
        learn / rate / 3600: ("the teacher is free", "It reads every text too, once."),
        (every + learn) / rate / 3600: (
            "the teacher is asked in each epoch",
            "Its answers are kept: one pass.",
        ),
        (3 * every + learn) / rate / 3600: ("the teacher learns", "It is only asked: forward."),
        (3 * texts * teacher + learn) / rate / 3600: ("the teacher learns", "Forward, only."),
        (texts * teacher + learn / 3) / rate / 3600: (
            "the student only reads",
            "Backward costs about twice the forward pass: 3 in all.",
        ),
        (texts * teacher + learn / epochs) / rate / 3600: ("one epoch", "There are five."),
    }
    share = texts * teacher / (seconds * rate)
    good = f"{seconds / 60:.0f} minutes if the rate is reached; {share:.0%} of it is the teacher."
    return _number(candidate, case, seconds / 3600, mistakes, good)


def _number(candidate, case: tuple, right: float, mistakes: dict, good: str) -> Result:
    """Compare one number with the right one and with what known mistakes give."""
    if candidate is None or candidate is ...:
        return NOT_TRIED
    if not callable(candidate):
        return wrong("not a function", "Give the function itself, without calling it.")
    try:
        answer = candidate(*case)
    except NotImplementedError:
        return NOT_TRIED
    except Exception as error:  # whatever the learner wrote
        return wrong(f"it stops with {type(error).__name__}", str(error))
    if answer is None or answer is ...:
        return NOT_TRIED
    try:
        answer = float(answer)
    except (TypeError, ValueError):
        return wrong("not a number", f"It gave {answer!r}.")
    if _close(answer, right):
        return Result(True, hint=good)
    for known, (mistake, hint) in mistakes.items():
        if _close(answer, known):
            return wrong(mistake, hint)
    return wrong("another number", f"It should be {right:.6g}, yours is {answer:.6g}.")


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1e-12, abs(b))
