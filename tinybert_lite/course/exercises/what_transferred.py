"""Checks of notebook 08: heads that moved, shared errors, a head removed, an honest caption."""

from collections.abc import Callable, Iterable

import numpy as np

from tinybert_lite.course.exercises.checking import (
    NOT_TRIED,
    Mistake,
    Result,
    run,
    run_numbers,
    wrong,
)

CAPTION = {
    "A": "Each number is the mean squared difference of two heads' scores, divided by the variance "
    "of the teacher's scores, over 100 test sentences.",
    "B": "The heads with the smallest numbers matter most for the student's predictions.",
    "C": "Layer 3 misses more because deep layers are harder to imitate.",
    "D": "On these sentences the heads of layer 3 miss a larger share, on average, than those of "
    "layer 1.",
    "E": "Layer 1 imitates its teacher layer well on any English text.",
    "F": "A head with the number 0.30 has learned 70 % of what its teacher head does.",
    "G": "The heads of layer 1 have learned what negation is.",
    "H": "The picture does not say which heads the student needs for its predictions.",
}
SUPPORTED = {"A", "D", "H"}


def check_moved(candidate: Callable | None) -> Result:
    """Check `candidate(similarity, mapping, heads)`: the student heads that moved.

    `similarity` (M · heads, N · heads) as in the explorer, `mapping` g(0…M); the answer is a list
    of (student layer, student head), counted from 1, whose most similar teacher head is not the
    head of their own number in layer g(m).
    """
    cases = _moved_cases()
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    try:
        got = [{(int(layer), int(head)) for layer, head in answer} for answer in answers]
    except (TypeError, ValueError):
        return wrong("not a list of pairs", "Return [(student layer, student head), …].")
    return _compare(got, cases, _moved, MOVED_MISTAKES, _moved_hint)


def check_errors_alike(candidate: Callable | None) -> Result:
    """Check `candidate(teacher, student, labels)`: how much more often both are wrong than by chance.

    Answers and labels are class indices (texts,); the answer is a number, the share of texts both
    get wrong over the share expected if the two made their errors independently.
    """
    return _check_number(candidate, _alike, ALIKE_MISTAKES, _answer_cases())


def check_flips(candidate: Callable | None) -> Result:
    """Check `candidate(before, after)`: the share of texts whose prediction changes.

    Logits (texts, classes) of the whole model and of the one without a head; a number in [0, 1].
    """
    return _check_number(candidate, _flips, FLIP_MISTAKES, _logit_cases())


def check_caption(chosen: Iterable[str] | None) -> Result:
    """Check which of the sentences A to H a picture supports: a set (or string) of letters."""
    if callable(chosen):
        problem, answers = run(chosen, [()])
        if problem:
            return problem
        chosen = answers[0]
    if chosen is None or chosen is ...:
        return NOT_TRIED
    try:
        letters = {str(letter).strip().upper() for letter in chosen} - {"", ","}
    except TypeError:
        return wrong(
            "not a set of letters",
            'Give the letters of the sentences you would keep, for example {"A", "B"}.',
        )
    if not letters or letters - set(CAPTION):
        return wrong(
            "not a set of letters",
            'Give the letters of the sentences you would keep, for example {"A", "B"}.',
        )
    for letter in sorted(letters - SUPPORTED):
        return wrong(f"{letter} says more than the picture", CAPTION_HINTS[letter])
    for letter in sorted(SUPPORTED - letters):
        return wrong(f"{letter} is supported too", CAPTION_HINTS[letter])
    return Result(
        True, hint="These say what was measured, on what, and what the picture does not show."
    )


# ---- the right answers, and the known wrong ones


def _moved(similarity: np.ndarray, mapping: list[int], heads: int) -> set[tuple[int, int]]:
    best = similarity.argmax(1)
    home = [(n - 1) * heads + h for n in mapping[1:] for h in range(heads)]
    return {(r // heads + 1, r % heads + 1) for r in range(len(best)) if best[r] != home[r]}


def _all_heads(similarity: np.ndarray, heads: int) -> set[tuple[int, int]]:
    return {(r // heads + 1, r % heads + 1) for r in range(len(similarity))}


def _in_own_layer(s: np.ndarray, g: list[int], h: int) -> set[tuple[int, int]]:
    own = [s[r, (g[r // h + 1] - 1) * h : g[r // h + 1] * h].argmax() for r in range(len(s))]
    return {(r // h + 1, r % h + 1) for r in range(len(s)) if own[r] != r % h}


def _to_other_layer(s: np.ndarray, g: list[int], h: int) -> set[tuple[int, int]]:
    best = s.argmax(1) // h + 1
    return {(r // h + 1, r % h + 1) for r in range(len(s)) if best[r] != g[r // h + 1]}


def _where_to(s: np.ndarray, g: list[int], h: int) -> set[tuple[int, int]]:
    best = s.argmax(1)
    return {
        (int(best[(m - 1) * h + a - 1]) // h + 1, int(best[(m - 1) * h + a - 1]) % h + 1)
        for m, a in _moved(s, g, h)
    }


def _from_teacher(s: np.ndarray, g: list[int], h: int) -> set[tuple[int, int]]:
    best = s.argmax(0)
    pairs = [(r, (g[r // h + 1] - 1) * h + r % h) for r in range(len(s))]
    return {(r // h + 1, r % h + 1) for r, home in pairs if best[home] != r}


MOVED_MISTAKES = [
    Mistake(
        "counted from 0",
        "Layers and heads are counted from 1: add 1 to both.",
        lambda s, g, h: {(m - 1, a - 1) for m, a in _moved(s, g, h)},
    ),
    Mistake(
        "the heads that stayed",
        "These heads did not move. A head moved if its most similar teacher head is *not* its own.",
        lambda s, g, h: _all_heads(s, h) - _moved(s, g, h),
    ),
    Mistake(
        "mapping forgotten",
        "Student layer m learned from teacher layer g(m), not from layer m: its own teacher head is in layer mapping[m].",
        lambda s, g, h: _moved(s, list(range(len(g))), h),
    ),
    Mistake(
        "off by one in the teacher's layers",
        "Columns start at 0 and layers at 1: head 1 of teacher layer n is column (n − 1) · heads.",
        lambda s, g, h: _moved(s, [n + 1 for n in g], h),
    ),
    Mistake(
        "off by one in the mapping",
        "mapping[0] belongs to the embeddings: student layer m learned from layer mapping[m].",
        lambda s, g, h: _moved(s, [0, *g[:-1]], h),
    ),
    Mistake(
        "searched in its own layer only",
        "A head may resemble a head of another teacher layer most: search the whole row.",
        _in_own_layer,
    ),
    Mistake(
        "only heads that left their layer",
        "A head has also moved if it most resembles another head of the *right* layer.",
        _to_other_layer,
    ),
    Mistake(
        "searched down the columns",
        "argmax(0) finds a student head for each teacher head. Search each student head's row: argmax(1).",
        _from_teacher,
    ),
    Mistake(
        "the sign was dropped",
        "A correlation of −0.9 means the opposite map: keep the sign.",
        lambda s, g, h: _moved(np.abs(s), g, h),
    ),
    Mistake(
        "teacher heads instead of student heads",
        "Those are the teacher heads they moved to; return the student layers and heads.",
        _where_to,
    ),
]


def _moved_hint(got: list, truth: list) -> str:
    missing, extra = sorted(truth[0] - got[0]), sorted(got[0] - truth[0])
    return f"For the first table, {missing} are missing and {extra} do not belong in the list."


def _alike(t: np.ndarray, s: np.ndarray, y: np.ndarray) -> float:
    return float(((t != y) & (s != y)).mean() / ((t != y).mean() * (s != y).mean()))


ALIKE_MISTAKES = [
    Mistake(
        "not compared with chance",
        "That is the share both get wrong; divide it by the share that independent errors would give.",
        lambda t, s, y: ((t != y) & (s != y)).mean(),
    ),
    Mistake(
        "a count instead of a share",
        "Use .mean() for all three shares; a sum depends on how many texts there are.",
        lambda t, s, y: ((t != y) & (s != y)).sum() / ((t != y).mean() * (s != y).mean()),
    ),
    Mistake(
        "counts instead of shares",
        "Use .mean() for all three; a ratio of counts depends on how many texts there are.",
        lambda t, s, y: ((t != y) & (s != y)).sum() / ((t != y).sum() * (s != y).sum()),
    ),
    Mistake(
        "right answers instead of errors",
        "Two good models are often both right anyway; count the texts both get *wrong*.",
        lambda t, s, y: ((t == y) & (s == y)).mean() / ((t == y).mean() * (s == y).mean()),
    ),
    Mistake(
        "agreement instead of errors",
        "Two models also agree where both are right; count the texts both get wrong.",
        lambda t, s, y: (t == s).mean() / ((t != y).mean() * (s != y).mean()),
    ),
    Mistake(
        "only one model's errors in the denominator",
        "Independent errors coincide with probability (teacher's share) × (student's share): divide by "
        "both.",
        lambda t, s, y: ((t != y) & (s != y)).mean() / (t != y).mean(),
    ),
    Mistake(
        "only one model's errors in the denominator",
        "Independent errors coincide with probability (teacher's share) × (student's share): divide by "
        "both.",
        lambda t, s, y: ((t != y) & (s != y)).mean() / (s != y).mean(),
    ),
    Mistake(
        "upside down",
        "Divide what was observed by what chance would give, not the other way around.",
        lambda t, s, y: 1 / _alike(t, s, y),
    ),
    Mistake(
        "a difference instead of a ratio",
        "The question asks how many *times* more often: divide.",
        lambda t, s, y: ((t != y) & (s != y)).mean() - (t != y).mean() * (s != y).mean(),
    ),
    Mistake(
        "the same wrong answer only",
        "With more than two classes, two models can be wrong in different ways; all of these count.",
        lambda t, s, y: ((t != y) & (t == s)).mean() / ((t != y).mean() * (s != y).mean()),
    ),
]


def _flips(before: np.ndarray, after: np.ndarray) -> float:
    return float((before.argmax(1) != after.argmax(1)).mean())


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


FLIP_MISTAKES = [
    Mistake(
        "the share that stays",
        "Those are the predictions that did not change: compare with !=.",
        lambda b, a: (b.argmax(1) == a.argmax(1)).mean(),
    ),
    Mistake(
        "a count instead of a share",
        "Divide by the number of texts: .mean() instead of .sum().",
        lambda b, a: (b.argmax(1) != a.argmax(1)).sum(),
    ),
    Mistake(
        "any change of a logit counts",
        "Logits always move a little; what counts is whether the *largest* one changes: argmax.",
        lambda b, a: (b != a).any(1).mean(),
    ),
    Mistake(
        "size of the change of the logits",
        "That says how far the logits moved, not how many predictions changed: take argmax first.",
        lambda b, a: np.abs(b - a).mean(),
    ),
    Mistake(
        "size of the change of the probabilities",
        "That says how far the probabilities moved, not how many predictions changed: take argmax.",
        lambda b, a: np.abs(_softmax(b) - _softmax(a)).mean(),
    ),
    Mistake(
        "changes that cancel",
        "One change to positive and one to negative are two changes: compare text by text before "
        "you take the mean.",
        lambda b, a: abs(b.argmax(1).mean() - a.argmax(1).mean()),
    ),
    Mistake(
        "argmax over the texts",
        "argmax(0) finds a text for each class; the prediction for each text is argmax(1).",
        lambda b, a: (b.argmax(0) != a.argmax(0)).mean(),
    ),
    Mistake(
        "one class only",
        "Compare all classes, not only how often the last one is predicted.",
        lambda b, a: ((b.argmax(1) == b.shape[1] - 1) != (a.argmax(1) == b.shape[1] - 1)).mean(),
    ),
]

CAPTION_HINTS = {
    "A": "It says what the numbers are and what they were measured on: every caption needs that.",
    "B": "No head was removed here, and a perfect copy of a head may go unused. Section 6 removes heads.",
    "C": "That is a cause. The picture compares layers; it does not change one thing at a time.",
    "D": "It compares two means that the picture shows, and says which sentences they come from.",
    "E": "These are 100 sentences from movie reviews, the kind the student was trained on.",
    "F": "A share of variance is not a share of what a head does; that was not measured.",
    "G": "Scores were compared, not meanings. Nothing here was about negation.",
    "H": "The reader needs this limit: being close to the teacher does not mean being used.",
}


# ---- inputs, and the comparison


def _moved_cases() -> list[tuple]:
    rng, cases = np.random.default_rng(8), []
    for mapping, n, heads in (([0, 2, 4, 6], 6, 4), ([0, 1, 3], 4, 3), ([0, 3, 1], 3, 5)):
        m = len(mapping) - 1
        similarity = rng.uniform(-0.6, 0.6, (m * heads, n * heads))
        for row in range(0, m * heads, 2):  # every second head is at home
            similarity[row, (mapping[row // heads + 1] - 1) * heads + row % heads] = 0.8
        # One stays in its layer under another number, one is a strong opposite of a stranger.
        similarity[1, (mapping[1] - 1) * heads] = 0.9
        similarity[2, -1] = -0.95
        cases.append((similarity, mapping, heads))
    return cases


def _answer_cases() -> list[tuple]:
    rng, cases = np.random.default_rng(8), []
    for texts in (60, 80, 100):
        labels, hard = rng.integers(0, 3, texts), rng.random(texts) < 0.3
        answers = [
            np.where(hard & (rng.random(texts) < share), rng.integers(0, 3, texts), labels)
            for share in (0.8, 0.9)
        ]
        cases.append((*answers, labels))
    return cases


def _logit_cases() -> list[tuple]:
    rng = np.random.default_rng(8)
    before = [rng.normal(size=(n, 3)) for n in (40, 50, 64)]
    return [(b, b + 0.6 * rng.normal(size=b.shape)) for b in before]


def _check_number(
    candidate: Callable | None, solution: Callable, mistakes: list[Mistake], cases: list[tuple]
) -> Result:
    problem, got = run_numbers(candidate, cases)
    if problem:
        return problem
    return _compare(
        got,
        cases,
        solution,
        mistakes,
        lambda got, truth: (
            f"On the first input yours is {got[0]:.4g}, the right one {truth[0]:.4g}."
        ),
    )


def _compare(
    got: list, cases: list[tuple], solution: Callable, mistakes: list[Mistake], otherwise: Callable
) -> Result:
    """The solution's answers, a known mistake's, or what `otherwise(got, truth)` says."""
    truth = [solution(*case) for case in cases]
    if _same(got, truth):
        return Result(True, hint="Equal to the reference on all inputs tried.")
    for mistake in mistakes:
        if _same(got, [mistake.answer(*case) for case in cases]):
            return wrong(mistake.name, mistake.hint)
    return wrong("another answer", otherwise(got, truth))


def _same(ours: list, theirs: list) -> bool:
    if isinstance(ours[0], set):
        return ours == theirs
    return bool(np.allclose(ours, np.array(theirs, float), rtol=1e-6, atol=1e-9))
