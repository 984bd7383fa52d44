"""Checks of notebook 02: equation 7, its mask, its Gram form, and the design of a control."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tinybert_lite.course.exercises.checking import (
    NOT_TRIED,
    PADDING,
    Mistake,
    Result,
    check_loss,
    draw,
    mask_of,
    wrong,
)
from tinybert_lite.losses import attention_loss


def check_attention_loss(candidate: Callable | None) -> Result:
    """Check `candidate(student_qk, teacher_qk)`, equation 7 without padding.

    Each side is (queries, keys), (batch, heads, l, d_k), unscaled; d_k differs between the sides.
    """
    cases = [case[:2] for case in _qk_cases()]
    return check_loss(candidate, _by_maps, EQUATION_MISTAKES, cases)


def check_mask_repair(candidate: Callable | None) -> Result:
    """Check `candidate(student_scores, teacher_scores, attention_mask)`, equation 7 with its mask.

    Scores (batch, heads, l, l) before softmax, attention_mask (batch, l); the answer is a scalar,
    the mean over heads and pairs of real tokens.
    """
    return check_loss(candidate, attention_loss, ATTENTION_MISTAKES, _score_cases())


def check_gram_loss(candidate: Callable | None) -> Result:
    """Check `candidate(student_qk, teacher_qk, attention_mask)`, the Gram form of equation 7.

    The sides are those of `check_attention_loss`. The l × l maps must not be built.
    """
    return check_loss(candidate, _by_maps, GRAM_MISTAKES, _qk_cases(), _no_maps)


def check_design(answer: Mapping[str, str] | None) -> Result:
    """Check the design of a comparison of relation heads: an option "a", "b" or "c" for each line."""
    if answer is None or answer is ...:
        return NOT_TRIED
    if not isinstance(answer, Mapping):
        return wrong("not a dict", f"Give a dict with {', '.join(DESIGN)}.")
    if unknown := [line for line in answer if line not in DESIGN]:
        return wrong(f"no line {unknown[0]!r}", f"The lines are {', '.join(DESIGN)}.")
    undecided = [line for line in DESIGN if answer.get(line, ...) is ...]
    if len(undecided) == len(DESIGN):
        return NOT_TRIED
    if undecided:
        return wrong(f"{undecided[0]}: nothing chosen", "Choose one option on each line.")
    for line, problems in DESIGN.items():
        option = str(answer[line]).strip().lower()
        if option not in "abc" or len(option) != 1:
            return wrong(f"{line}: {option!r} is not an option", "Choose a, b or c.")
        if option in problems:
            return wrong(f"{line}: {problems[option][0]}", problems[option][1])
    return Result(True, hint="This comparison is fair, and it can come out either way.")


def _score_cases() -> list[tuple]:
    cases = []
    for seed, lengths in enumerate([(7, 7), (4, 7), (2, 5, 6)]):
        normal, mask = draw(seed), mask_of(*lengths)
        shape = (len(lengths), 3, 7, 7)
        cases.append(((2 * normal(*shape)).requires_grad_(), 2 * normal(*shape), mask))
    return cases


def _qk_cases() -> list[tuple]:
    cases = []
    for seed, lengths in enumerate([(7, 7), (4, 7), (2, 5, 6)]):
        normal, mask, b = draw(seed), mask_of(*lengths), len(lengths)
        student = (normal(b, 3, 7, 4).requires_grad_(), normal(b, 3, 7, 4).requires_grad_())
        cases.append((student, (normal(b, 3, 7, 9), normal(b, 3, 7, 9)), mask))
    return cases


def _real_pairs(mask: Tensor) -> Tensor:
    return (mask[:, None, :, None] * mask[:, None, None, :]).float()


def _mean(square: Tensor, keep: Tensor) -> Tensor:
    return (square * keep).sum() / keep.expand_as(square).sum()


def _squares(student: Tensor, teacher: Tensor, _=None) -> Tensor:
    return (student - teacher).square()


def _with_keys_masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask[:, None, None, :] == 0, -1e9).softmax(-1)


def _after_softmax(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    square = _squares(_with_keys_masked(student, mask), _with_keys_masked(teacher, mask))
    return _mean(square, _real_pairs(mask))


def _each_text(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    keep, square = _real_pairs(mask), _squares(student, teacher)
    each = (square * keep).sum((1, 2, 3)) / (keep.sum((1, 2, 3)) * square.shape[1])
    return each.mean()


ATTENTION_MISTAKES = [
    Mistake(
        "softmax before the difference",
        "Equation 7 compares the scores QKᵀ/√d_k themselves; leave softmax out.",
        _after_softmax,
    ),
    Mistake(
        "softmax before the difference, and the mask forgotten",
        "Equation 7 compares the scores themselves, at real tokens only: leave softmax out, and "
        "use attention_mask for rows and columns.",
        lambda s, t, m: _squares(s.softmax(-1), t.softmax(-1)).mean(),
    ),
    Mistake(
        "softmax before the difference",
        "Equation 7 compares the scores themselves; leave softmax out (padded keys got a "
        "probability too).",
        lambda s, t, m: _mean(_squares(s.softmax(-1), t.softmax(-1)), _real_pairs(m)),
    ),
    Mistake(
        "mask forgotten",
        PADDING + "Use attention_mask, for rows and columns.",
        lambda s, t, m: _squares(s, t).mean(),
    ),
    Mistake(
        "mask on one side only, the keys (columns)",
        "Rows of padded queries still count: multiply by the mask at [:, None, :, None] too.",
        lambda s, t, m: _mean(_squares(s, t), m[:, None, None, :].float()),
    ),
    Mistake(
        "mask on one side only, the queries (rows)",
        "Columns of padded keys still count: multiply by the mask at [:, None, None, :] too.",
        lambda s, t, m: _mean(_squares(s, t), m[:, None, :, None].float()),
    ),
    Mistake(
        "mask on one side only, and a mean over the padding",
        "Only the columns are masked, and the mean divides by padded positions too. Mask the rows "
        "as well, and divide by the sum of the mask over real pairs.",
        lambda s, t, m: (_squares(s, t) * m[:, None, None, :]).mean(),
    ),
    Mistake(
        "mask on one side only, and a mean over the padding",
        "Only the rows are masked, and the mean divides by padded positions too. Mask the columns "
        "as well, and divide by the sum of the mask over real pairs.",
        lambda s, t, m: (_squares(s, t) * m[:, None, :, None]).mean(),
    ),
    Mistake(
        "mean over padding",
        "The difference is masked rightly, but .mean() divides by all l × l positions: divide the "
        "sum by the number of real pairs (times the heads).",
        lambda s, t, m: (_squares(s, t) * _real_pairs(m)).mean(),
    ),
    Mistake(
        "sum instead of mean",
        "Long texts and large batches would weigh more: divide by the number of real pairs times "
        "the heads.",
        lambda s, t, m: (_squares(s, t) * _real_pairs(m)).sum(),
    ),
    Mistake(
        "sum over heads instead of mean",
        "Equation 7 starts with 1/h: divide by the number of heads too.",
        lambda s, t, m: _mean(_squares(s, t), _real_pairs(m)) * s.shape[1],
    ),
    Mistake(
        "a mean of the texts' means",
        "Each text has its own mean, so a word of a short text weighs more than one of a long "
        "text: sum over all, then divide once.",
        _each_text,
    ),
    Mistake(
        "absolute difference instead of squared",
        "MSE is the mean of squares.",
        lambda s, t, m: _mean((s - t).abs(), _real_pairs(m)),
    ),
    Mistake(
        "square root of the mean",
        "MSE stops before the root.",
        lambda s, t, m: _mean(_squares(s, t), _real_pairs(m)).sqrt(),
    ),
    Mistake(
        "scaled by √d_k once more",
        "Scores come already divided by √d_k.",
        lambda s, t, m: attention_loss(s, t, m) / s.shape[-1],
    ),
]
EQUATION_MISTAKES = [
    Mistake(
        "softmax before the difference",
        "Equation 7 compares the scores QKᵀ/√d_k themselves; leave softmax out.",
        lambda s, t: (_scores(s).softmax(-1) - _scores(t).softmax(-1)).square().mean(),
    ),
    Mistake(
        "scaling by √d_k forgotten",
        "Products of longer vectors are larger: divide QKᵀ by √d_k on each side.",
        lambda s, t: (_scores(s, power=0.0) - _scores(t, power=0.0)).square().mean(),
    ),
    Mistake(
        "divided by d_k instead of √d_k",
        "The root is missing: QKᵀ / d_k ** 0.5.",
        lambda s, t: (_scores(s, power=-1.0) - _scores(t, power=-1.0)).square().mean(),
    ),
    Mistake(
        "one d_k for both sides",
        "Student and teacher heads differ in width: divide each side by the root of its own d_k.",
        lambda s, t: (
            (_scores(s, power=0.0) - _scores(t, power=0.0)).square().mean() / t[0].shape[-1]
        ),
    ),
    Mistake(
        "one d_k for both sides",
        "Student and teacher heads differ in width: divide each side by the root of its own d_k.",
        lambda s, t: (
            (_scores(s, power=0.0) - _scores(t, power=0.0)).square().mean() / s[0].shape[-1]
        ),
    ),
    Mistake(
        "heads averaged before they are compared",
        "Head i is compared with head i: take the difference first, then the mean over heads.",
        lambda s, t: (_scores(s).mean(1) - _scores(t).mean(1)).square().mean(),
    ),
    Mistake(
        "sum over heads instead of mean",
        "Equation 7 starts with 1/h: divide by the number of heads too.",
        lambda s, t: _by_maps(s, t) * s[0].shape[1],
    ),
    Mistake(
        "sum instead of mean",
        "Long texts and large batches would weigh more: take the mean over all pairs and heads.",
        lambda s, t: (_scores(s) - _scores(t)).square().sum(),
    ),
    Mistake(
        "queries and keys swapped on one side",
        "QKᵀ has a row for each query; KQᵀ is its transpose.",
        lambda s, t: (_scores(s) - _scores(t).mT).square().mean(),
    ),
    Mistake(
        "absolute difference instead of squared",
        "MSE is the mean of squares.",
        lambda s, t: (_scores(s) - _scores(t)).abs().mean(),
    ),
    Mistake(
        "square root of the mean",
        "MSE stops before the root.",
        lambda s, t: _by_maps(s, t).sqrt(),
    ),
]
# What is wrong with an option of `check_design`, and what the learner is told; the rest are right.
DESIGN: dict[str, dict[str, tuple[str, str]]] = {
    "metric": {
        "a": (
            "two losses with different targets",
            "With another R the teacher's maps are others, with another size: compare both "
            "students on one quantity.",
        ),
        "b": (
            "one student is judged by its own training objective",
            "It was trained on exactly this loss, the other was not: take a quantity that neither "
            "was trained on.",
        ),
    },
    "seeds": {
        "a": (
            "a single start",
            "One pair of runs cannot tell the effect of R from luck: repeat it.",
        ),
        "c": (
            "different starts in the two arms",
            "The difference then contains the luck of six starts; with the same starts in both "
            "arms it largely cancels.",
        ),
    },
    "rate": {
        "a": (
            "a learning rate that was tuned for one arm",
            "The other arm may do badly only because of its rate: give each the same number of "
            "tries.",
        ),
        "c": (
            "tuned on the sentences of the result",
            "The best of several tries on the test sentences is too good there: tune on separate "
            "ones.",
        ),
    },
    "sentences": {
        "b": (
            "sentences that were trained on",
            "A student can memorize them: measure on unseen ones.",
        ),
        "c": (
            "the first rows of a sorted file",
            "They nearly all have the same label: draw at random.",
        ),
    },
}


def _zero_rows(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask[:, None, :, None]


def _scores(side: tuple[Tensor, Tensor], power: float = -0.5) -> Tensor:
    queries, keys = side
    return queries @ keys.mT * queries.shape[-1] ** power


def _by_maps(student: tuple, teacher: tuple, mask: Tensor | None = None) -> Tensor:
    return attention_loss(_scores(student), _scores(teacher), mask)


def _gram(power: float = -0.25, zero: str = "qk", cross: float = 2.0, mean: bool = True):
    """The Gram form with one thing wrong: the scaling, which rows are zeroed, the middle term."""

    def loss(student: tuple, teacher: tuple, mask: Tensor) -> Tensor:
        sides = []
        for q, k in (student, teacher):
            q, k = q * q.shape[-1] ** power, k * k.shape[-1] ** power
            q = _zero_rows(q, mask) if "q" in zero else q
            sides.append((q, _zero_rows(k, mask) if "k" in zero else k))
        (qs, ks), (qt, kt) = sides
        total = _inner(qs, qs, ks, ks) - cross * _inner(qs, qt, ks, kt) + _inner(qt, qt, kt, kt)
        return total / (_real_pairs(mask).sum() * qs.shape[1]) if mean else total

    return loss


def _inner(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor) -> Tensor:
    return ((q1.mT @ q2) * (k1.mT @ k2)).sum()


def _no_maps(candidate: Callable, case: tuple) -> Result | None:
    """Refuse an answer that is right because it builds the l × l maps after all."""
    l, normal = 64, draw(9)  # longer than anything the Gram form needs is wide
    sides = [tuple(normal(1, 1, l, x.shape[-1]) for x in side) for side in case[:2]]
    shapes = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            answer = function(*args, **(kwargs or {}))
            if torch.is_tensor(answer):
                shapes.append(tuple(answer.shape[-2:]))
            return answer

    with Watch():
        candidate(*sides, torch.ones(1, l, dtype=torch.long))
    if (l, l) in shapes:
        return wrong(
            "the l × l maps are built",
            "The number is right, but the point is to get it without QKᵀ: multiply QᵀQ (d_k × d_k) "
            "instead.",
        )
    return None


GRAM_MISTAKES = [
    Mistake(
        "scaling by √d_k forgotten",
        "Scores are QKᵀ/√d_k: give each of Q and K half of it, d_k^(-1/4).",
        _gram(power=0.0),
    ),
    Mistake(
        "scaled twice",
        "Q and K each got 1/√d_k, together 1/d_k: each needs d_k^(-1/4).",
        _gram(power=-0.5),
    ),
    Mistake(
        "one d_k for both sides",
        "Student and teacher heads differ in width: each side is scaled by its own d_k.",
        lambda s, t, m: _gram(0.0)(
            (s[0] * t[0].shape[-1] ** -0.25, s[1] * t[0].shape[-1] ** -0.25),
            (t[0] * t[0].shape[-1] ** -0.25, t[1] * t[0].shape[-1] ** -0.25),
            m,
        ),
    ),
    Mistake(
        "padded rows not zeroed",
        PADDING + "Set the rows of padded tokens in Q and K to 0 first.",
        _gram(zero=""),
    ),
    Mistake(
        "padded rows zeroed in the queries only",
        "Padded keys still count: zero the same rows of K.",
        _gram(zero="q"),
    ),
    Mistake(
        "padded rows zeroed in the keys only",
        "Padded queries still count: zero the same rows of Q.",
        _gram(zero="k"),
    ),
    Mistake(
        "padded rows not zeroed, and a mean over padding",
        "Zero the rows of padded tokens in Q and K, and divide by the number of real pairs.",
        lambda s, t, m: (
            _gram(zero="", mean=False)(s, t, m) / (m.numel() * m.shape[1] * s[0].shape[1])
        ),
    ),
    Mistake(
        "mean over padding",
        "Padded rows are zeroed, but the sum is divided by all l × l positions.",
        lambda s, t, m: _gram(mean=False)(s, t, m) / (m.numel() * m.shape[1] * s[0].shape[1]),
    ),
    Mistake(
        "sum instead of mean",
        "Divide by heads times the number of real pairs.",
        _gram(mean=False),
    ),
    Mistake(
        "mean over heads forgotten",
        "Equation 7 starts with 1/h: divide by the number of heads too.",
        lambda s, t, m: _gram()(s, t, m) * s[0].shape[1],
    ),
    Mistake(
        "the middle term counted once",
        "(a − b)² = a² − 2ab + b²: the mixed term comes twice.",
        _gram(cross=1.0),
    ),
    Mistake(
        "the middle term added",
        "(a − b)² = a² − 2ab + b²: the mixed term is subtracted.",
        _gram(cross=-2.0),
    ),
]
