"""Checks of notebook 02: equation 7, its mask, its Gram form, and the one after softmax."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tinybert_lite.course.exercises.checking import (
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
    """Check `candidate(student_scores, teacher_scores, attention_mask)`, equation 7.

    Scores (batch, heads, l, l) before softmax, attention_mask (batch, l); the answer is a scalar,
    the mean over heads and pairs of real tokens.
    """
    return check_loss(candidate, attention_loss, ATTENTION_MISTAKES, _score_cases())


def check_mask_repair(candidate: Callable | None) -> Result:
    """Check the repaired version of equation 7 whose mask stood on one side only."""
    return check_attention_loss(candidate)


def check_gram_loss(candidate: Callable | None) -> Result:
    """Check `candidate(student_qk, teacher_qk, attention_mask)`, the Gram form of equation 7.

    Each side is (queries, keys), (batch, heads, l, d_k), unscaled; student and teacher have
    another d_k. The l × l maps must not be built.
    """
    return check_loss(candidate, _by_maps, GRAM_MISTAKES, _qk_cases(), _no_maps)


def check_after_softmax(candidate: Callable | None) -> Result:
    """Check `candidate(student_scores, teacher_scores, attention_mask)`, eq. 7 after softmax.

    Padded keys get no probability; the mean is over heads and pairs of real tokens.
    """
    return check_loss(candidate, _after_softmax, AFTER_SOFTMAX_MISTAKES, _score_cases())


def check_prediction(answer: str | None, measured: float) -> Result:
    """Check the guess how much of the score loss is left ("a", "b" or "c") against what was run.

    `measured` is score loss after / before the training on probabilities.
    """
    if answer in (None, ..., ""):
        return Result(False, False, hint='Set prediction to "a", "b" or "c" before you run.')
    truth = "a" if measured < 0.1 else "b" if measured < 0.5 else "c"
    left = f"{measured:.0%} of the score loss was left"
    if str(answer).strip().lower() == truth:
        return Result(True, hint=f"{left}: as you said.")
    return Result(
        False,
        mistake=f"The run says {truth!r}: {left}",
        hint="Look at the gradients of section 2 again: what does softmax do to their size, and "
        "which differences can it not see at all?",
    )


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
AFTER_SOFTMAX_MISTAKES = [
    Mistake(
        "no softmax at all",
        "That is equation 7 as it should be; here we want to see what is wrong with the other "
        "one: softmax over the keys on both sides first.",
        attention_loss,
    ),
    Mistake(
        "padded keys get probability",
        "The mask comes before softmax: set the scores of padded keys to a large negative number, "
        "as the model does.",
        lambda s, t, m: _mean(_squares(s.softmax(-1), t.softmax(-1)), _real_pairs(m)),
    ),
    Mistake(
        "mask forgotten",
        PADDING + "Mask the keys before softmax and the pairs in the mean.",
        lambda s, t, m: _squares(s.softmax(-1), t.softmax(-1)).mean(),
    ),
    Mistake(
        "padded queries in the mean",
        "Padded keys are masked, padded rows still count in the mean.",
        lambda s, t, m: _squares(_with_keys_masked(s, m), _with_keys_masked(t, m)).mean(),
    ),
    Mistake(
        "padded queries in the mean",
        "Padded keys are masked, padded rows still count in the mean.",
        lambda s, t, m: _mean(
            _squares(_with_keys_masked(s, m), _with_keys_masked(t, m)), m[:, None, None, :].float()
        ),
    ),
    Mistake(
        "mean over padding",
        "Both masks are there, but .mean() divides by all l × l positions.",
        lambda s, t, m: (
            _squares(_with_keys_masked(s, m), _with_keys_masked(t, m)) * _real_pairs(m)
        ).mean(),
    ),
    Mistake(
        "softmax over the queries",
        "Each query's row adds up to 1: softmax over the last dimension, -1.",
        lambda s, t, m: _after_softmax(s.transpose(-1, -2), t.transpose(-1, -2), m),
    ),
    Mistake(
        "softmax on one side only",
        "Both sides, student and teacher, go through softmax.",
        lambda s, t, m: _mean(_squares(s, _with_keys_masked(t, m)), _real_pairs(m)),
    ),
    Mistake(
        "sum instead of mean",
        "Divide by the number of real pairs times the heads.",
        lambda s, t, m: _after_softmax(s, t, m) * s.shape[1] * _real_pairs(m).sum(),
    ),
]


def _zero_rows(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask[:, None, :, None]


def _by_maps(student: tuple, teacher: tuple, mask: Tensor) -> Tensor:
    ours, theirs = (q @ k.mT * q.shape[-1] ** -0.5 for q, k in (student, teacher))
    return attention_loss(ours, theirs, mask)


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
