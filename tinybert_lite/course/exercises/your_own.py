"""The exercises of notebook 11: paired errors, leaks, macro F1, and how long a run takes."""

from collections.abc import Callable

import numpy as np

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


def check_paired_error(candidate: Callable | None) -> Result:
    """`paired_error(right_a, right_b)`: the standard error of the difference of two accuracies.

    Boolean arrays (texts,): which of the same texts each of two models gets right.
    """
    texts = np.arange(n := 1_000_000)  # so many that n − 1 makes no difference
    a, b = texts < 850_000, (texts >= 40_000) & (texts < 890_000)  # right equally often
    k = int((a != b).sum())
    apart = (a.var() / n + b.var() / n) ** 0.5
    mistakes = {
        apart: (
            "not paired",
            "That treats the texts as two separate test sets. Count disagreements.",
        ),
        a.std() / n**0.5: (
            "the error of one score",
            "Compute the error of the difference of the two accuracies.",
        ),
        b.std() / n**0.5: (
            "the error of one score",
            "Compute the error of the difference of the two accuracies.",
        ),
        k**0.5: ("a count, not a share", "Divide by the number of texts."),
        k / n: ("the share of disagreements", "k coin tosses have a standard deviation of √k."),
        k / n**2: ("the variance", "Take the square root."),
        (k / n) ** 0.5: ("divided by √n", "√k texts out of n: divide by n, not by √n."),
        0.0: (
            "only the net difference counted",
            "Count the disagreements in both directions: texts only a gets right, and texts only b does.",
        ),
        1.96 * k**0.5 / n: ("an interval, not the error", "Return one standard error."),
        100 * k**0.5 / n: ("percent", "Return a share from 0 to 1, like the accuracies."),
    }
    good = f"{k:,} disagreements: ± {100 * k**0.5 / n:.3f} points. Two separate test sets: "
    good += f"± {100 * apart:.3f}."
    return _number(candidate, (a, b), k**0.5 / n, mistakes, good)


def check_macro_f1(candidate: Callable | None) -> Result:
    """`macro_f1(predictions, labels)`: the mean over the classes of F1, class indices (texts,)."""
    labels = np.array([0] * 30 + [1] * 12 + [2] * 6 + [3] * 2)
    predictions = np.array([0] * 26 + [1] * 4 + [1] * 8 + [0] * 4 + [2] * 3 + [0] * 3 + [0] * 2)
    tp, fp, fn = (
        np.array([f(predictions == c, labels == c).sum() for c in range(4)])
        for f in (lambda p, t: p & t, lambda p, t: p & ~t, lambda p, t: ~p & t)
    )
    f1 = 2 * tp / (2 * tp + fp + fn)
    precision, recall = tp[:3] / (tp + fp)[:3], tp / (tp + fn)
    precision = np.append(precision, 0.0)
    share = np.bincount(labels) / len(labels)
    means = precision.mean(), recall.mean()
    mistakes = {
        tp.sum() / len(labels): (
            "accuracy, or micro F1",
            "Over all texts together, the large classes decide. Compute F1 of each class, then the mean.",
        ),
        float(f1 @ share): (
            "weighted by the size of the classes",
            "Every class counts the same, however rare it is: take the plain mean.",
        ),
        f1[:3].mean(): (
            "a class that is never predicted is left out",
            "Its F1 is 0 and it counts: take the classes from the labels, not the predictions.",
        ),
        (tp / (2 * tp + fp + fn)).mean(): ("half of it", "The numerator is 2·TP."),
        (tp / (tp + fp + fn)).mean(): (
            "the Jaccard index",
            "Use 2·TP in the numerator and in the denominator.",
        ),
        2 * means[0] * means[1] / sum(means): (
            "F1 of the mean precision and recall",
            "Compute F1 of each class first, then the mean.",
        ),
        means[0]: ("mean precision", "FN is missing: texts of the class that were not found."),
        means[1]: ("mean recall", "FP is missing: texts that were wrongly assigned to the class."),
        f1.sum(): ("a sum", "Divide by the number of classes."),
        f1[1]: (
            "one class only",
            "F1 of class 1 is what two-class tasks report; here you need all classes.",
        ),
        100 * f1.mean(): ("percent", "Return a share."),
    }
    good = (
        f"Accuracy is {tp.sum() / len(labels):.2f} here, and macro F1 {f1.mean():.2f}: one class "
    )
    return _number(
        candidate,
        (predictions, labels),
        float(f1.mean()),
        mistakes,
        good + "is never predicted.",
    )


def check_leaks(candidate: Callable | None) -> Result:
    """`leaks(train, test)`: how many test texts are in training, ignoring case and spaces."""
    mistakes = {
        2: ("compared letter by letter", "“LOUD FAN” and “loud  fan” are the same text to BERT."),
        4: ("case is not ignored", "The tokenizer of an uncased model lowercases every letter."),
        6: (
            "spaces are not ignored",
            "Turn each run of spaces into one space: ' '.join(text.split()).",
        ),
        3: ("repeats counted once", "Count every test text that leaked, repeats included."),
        9: (
            "parts of texts count",
            "“It broke” is only the beginning of a training text: compare whole texts.",
        ),
        8: ("counted on the training side", "Count test texts, not training texts."),
        0.7: ("a share", "Return the number of texts, not their share."),
    }
    return _number(
        candidate,
        (TRAIN, TEST),
        LEAKED,
        mistakes,
        "7 of 10 leaked: this test measures memorization.",
    )


def check_hours(candidate: Callable | None) -> Result:
    """`hours(teacher, student, texts, epochs, rate)`: of intermediate distillation.

    `teacher` and `student` are FLOPs per forward pass of one text, `rate` the sustained FLOP/s.
    The teacher reads each text once; a training step costs three times the student's forward pass.
    """
    teacher, student, texts, epochs, rate = case = 22.4e9, 1.2e9, 1_000_000, 5, 2e13
    seconds = (texts * teacher + 3 * epochs * texts * student) / rate
    every = epochs * texts * teacher
    learn = 3 * epochs * texts * student
    mistakes = {
        seconds: ("seconds", "Divide by 3,600."),
        seconds / 60: ("minutes", "Divide by 60."),
        learn / rate / 3600: (
            "the teacher is left out",
            "It reads each text once, and that takes time too.",
        ),
        (every + learn) / rate / 3600: (
            "the teacher runs in every epoch",
            "Its outputs are kept, so one pass is enough.",
        ),
        (3 * every + learn) / rate / 3600: (
            "the teacher is trained",
            "It only runs forward, and only once.",
        ),
        (3 * texts * teacher + learn) / rate / 3600: (
            "the teacher is trained",
            "It only runs forward.",
        ),
        (texts * teacher + learn / 3) / rate / 3600: (
            "the student only runs forward",
            "The backward pass costs about twice the forward pass, so training costs three times as much.",
        ),
        (texts * teacher + learn / epochs) / rate / 3600: (
            "one epoch",
            "Multiply by the number of epochs.",
        ),
    }
    share = texts * teacher / (seconds * rate)
    good = f"{seconds / 60:.0f} minutes at that rate; the teacher takes {share:.0%} of it."
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
        return wrong(f"it stopped with {type(error).__name__}", str(error))
    if answer is None or answer is ...:
        return NOT_TRIED
    try:
        answer = float(answer)
    except (TypeError, ValueError):
        return wrong("not a number", f"Your function returns {answer!r}.")
    if _close(answer, right):
        return Result(True, hint=good)
    for known, (mistake, hint) in mistakes.items():
        if _close(answer, known):
            return wrong(mistake, hint)
    return wrong("another number", f"It should be {right:.6g}, yours is {answer:.6g}.")


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1e-12, abs(b))
