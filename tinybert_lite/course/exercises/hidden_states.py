"""Checks of notebook 03: equations 8 and 9, the mapping, the floor, what a teacher may answer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from tinybert_lite.course.exercises.checking import (
    CLOSE,
    PADDING,
    Mistake,
    Result,
    check_loss,
    draw,
    mask_of,
    run,
    wrong,
)
from tinybert_lite.losses import hidden_loss


def check_hidden_loss(candidate: Callable | None) -> Result:
    """Check `candidate(student_hidden, teacher_hidden, W_h, attention_mask)`, equations 8 and 9.

    student_hidden (batch, l, d'), teacher_hidden (batch, l, d), W_h (d', d); the answer is a
    scalar, the mean over real tokens and width.
    """
    return check_loss(candidate, _hidden, HIDDEN_MISTAKES, _hidden_cases())


def check_mapping(candidate: Callable | None) -> Result:
    """Check `candidate(teacher_layers, student_layers)`: uniform mapping as a list of M + 1."""
    cases = [(6, 3), (12, 4), (6, 2), (12, 6), (6, 6)]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    answers = [a.tolist() if hasattr(a, "tolist") else a for a in answers]
    if not all(isinstance(a, Sequence) and not isinstance(a, str) for a in answers):
        return wrong("not a list", "Return a list of M + 1 whole numbers: g(0), …, g(M).")
    answers = [list(a) for a in answers]
    if answers == [_uniform(*c) for c in cases]:
        if any(isinstance(g, float) for a in answers for g in a):
            return wrong("numbers with a fraction part", "Layers are counted: // keeps integers.")
        return Result(True, hint="g(m) = m·N/M, with g(0) = 0 for the embeddings.")
    for mistake in MAPPING_MISTAKES:
        if answers == [mistake.answer(*c) for c in cases]:
            return wrong(mistake.name, mistake.hint)
    n, m = cases[0]
    return wrong(
        "not the uniform mapping",
        f"For N = {n}, M = {m} yours is {answers[0]}; the layers should be equally far apart, "
        "and the last student layer should learn from the last teacher layer.",
    )


def check_floor(candidate: Callable | None) -> Result:
    """Check `candidate(hidden, rank)`: the smallest mean squared error any rank can reach.

    hidden (tokens, d); the answer is the mean over tokens and width.
    """
    return check_loss(candidate, _floor, FLOOR_MISTAKES, _floor_cases(), gradient=False)


def check_teacher_hidden(candidate: Callable | None) -> Result:
    """Check `candidate(teacher, inputs)`: the hidden states a student may learn from.

    M + 1 tensors (batch, l, d), of a teacher in evaluation mode and without gradients, whatever
    mode it was in before.
    """
    teacher, inputs = _toy_teacher()
    truth = _quiet_hidden(teacher, inputs)
    problem, answers = run(candidate, [(teacher.train(), inputs)] * 2)
    if problem:
        return problem
    try:
        answers = [list(a) for a in answers]
    except TypeError:
        return wrong("not a list of tensors", "Return hidden_states of the model's output.")
    if len(answers[0]) == 1 or (isinstance(answers[0][0], str)):
        return wrong(
            "the whole output instead of its hidden states",
            "Ask with output_hidden_states=True and return .hidden_states.",
        )
    if len(answers[0]) == len(truth) - 1:
        return wrong(
            "embedding element forgotten",
            "A model of N layers has N + 1 hidden states; element 0 is the embedding output.",
        )
    if any(not torch.is_tensor(a) for a in answers[0]) or len(answers[0]) != len(truth):
        return wrong("not the hidden states", "Return hidden_states of the model's output.")
    same = all(
        a.shape == t.shape and torch.allclose(a, t, **CLOSE) for a, t in zip(*_pair(answers, truth))
    )
    if not same:
        return wrong(
            "teacher in training mode",
            "Asked twice, it answers differently: its dropout is on. Call teacher.eval() first.",
        )
    if any(a.requires_grad for a in answers[0]):
        return wrong(
            "teacher not detached",
            "The answers carry gradients, so the teacher would be trained too (and memory held); "
            "ask under torch.no_grad().",
        )
    return Result(True, hint="The same answer each time, and no gradient reaches the teacher.")


def check_pairs(candidate: Callable | None) -> Result:
    """Check `candidate(student_hidden, teacher_hidden, mapping)`: which states are compared.

    M + 1 and N + 1 hidden states and g(0…M); the answer is a list of M + 1 (student, teacher).
    """
    student = [torch.full((1, 2, 3), float(m)) for m in range(4)]
    teacher = [torch.full((1, 2, 5), float(n)) for n in range(7)]
    mapping = [0, 2, 4, 6]
    problem, answers = run(candidate, [(student, teacher, mapping)])
    if problem:
        return problem
    try:
        got = [(int(s.flatten()[0]), int(t.flatten()[0])) for s, t in answers[0]]
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return wrong("not a list of pairs", "Return [(student state, teacher state), …].")
    if got == list(enumerate(mapping)):
        return Result(True, hint="Four pairs: the embeddings (eq. 9) and three layers (eq. 8).")
    for mistake in PAIR_MISTAKES:
        if got == mistake.answer(mapping):
            return wrong(mistake.name, mistake.hint)
    return wrong(
        "not the mapped pairs",
        f"Yours compares (student output, teacher output) {got}; it should be "
        f"{list(enumerate(mapping))}.",
    )


def _pair(answers: list[list[Tensor]], truth: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return answers[0] + answers[1], truth + truth


def _hidden_cases() -> list[tuple]:
    cases = []
    for seed, lengths in enumerate([(7, 7), (4, 7), (2, 5, 6)]):
        normal, mask, b = draw(seed), mask_of(*lengths), len(lengths)
        # Square on purpose in one case: a transposed matrix gives no error there.
        narrow = 8 if seed == 1 else 5
        cases.append(
            (normal(b, 7, narrow).requires_grad_(), normal(b, 7, 8), normal(narrow, 8), mask)
        )
    return cases


def _floor_cases() -> list[tuple]:
    return [(draw(s)(40, 8) * torch.arange(1, 9) + s, rank) for s, rank in ((0, 3), (1, 5), (2, 2))]


def _toy_teacher() -> tuple[BertModel, dict[str, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
        )
        teacher = BertModel(config)
    ids = torch.arange(2, 12).reshape(2, 5)
    return teacher, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def _quiet_hidden(teacher: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    return list(teacher.eval()(**inputs, output_hidden_states=True).hidden_states)


def _hidden(student: Tensor, teacher: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    return hidden_loss(student, teacher, lambda x: x @ w, mask)


def _backwards(student: Tensor, teacher: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    return hidden_loss(student, teacher @ w.mT, None, mask)


def _transposed(student: Tensor, teacher: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    """W_hᵀ where it fits (the square case); elsewhere it cannot be written."""
    return _hidden(student, teacher, w.mT if w.shape[0] == w.shape[1] else w, mask)


def _hidden_square(student: Tensor, teacher: Tensor, w: Tensor) -> Tensor:
    return (student @ w - teacher).square()


HIDDEN_MISTAKES = [
    Mistake(
        "projection on the wrong side",
        "The teacher was squeezed to the student's width: it could be made easy by dropping what "
        "is hard. W_h lifts the student, H_S W_h, and the teacher stays as it is.",
        _backwards,
    ),
    Mistake(
        "W_h transposed",
        "Where the widths are equal it gives no error: H_S W_h, not H_S W_hᵀ.",
        _transposed,
    ),
    Mistake(
        "mask forgotten",
        PADDING + "Use attention_mask[:, :, None].",
        lambda s, t, w, m: _hidden_square(s, t, w).mean(),
    ),
    Mistake(
        "mean over padding",
        "Padded tokens are masked, but .mean() divides by them too: divide by mask.sum() * width.",
        lambda s, t, w, m: (_hidden_square(s, t, w) * m[:, :, None]).mean(),
    ),
    Mistake(
        "sum over the width instead of mean",
        "MSE is the mean over width too: divide by d, the teacher's width.",
        lambda s, t, w, m: _hidden(s, t, w, m) * t.shape[-1],
    ),
    Mistake(
        "divided by the student's width",
        "After the projection the vectors are as wide as the teacher's: divide by d.",
        lambda s, t, w, m: _hidden(s, t, w, m) * t.shape[-1] / s.shape[-1],
    ),
    Mistake(
        "sum instead of mean",
        "Divide by the number of real tokens times the width.",
        lambda s, t, w, m: _hidden(s, t, w, m) * t.shape[-1] * m.sum(),
    ),
    Mistake(
        "square root of the mean",
        "MSE stops before the root.",
        lambda s, t, w, m: _hidden(s, t, w, m).sqrt(),
    ),
    Mistake(
        "cosine instead of squared difference",
        "Equation 8 compares the numbers themselves, lengths included.",
        lambda s, t, w, m: ((1 - F.cosine_similarity(s @ w, t, dim=-1)) * m).sum() / m.sum(),
    ),
]


def _floor(hidden: Tensor, rank: int) -> Tensor:
    values = torch.linalg.svdvals(hidden)
    return values[rank:].square().sum() / hidden.numel()


FLOOR_MISTAKES = [
    Mistake(
        "the mean was taken off first",
        "That is PCA's floor. W_h has no bias, so no mean can be added back: take the singular "
        "values of the hidden states as they are.",
        lambda h, r: _floor(h - h.mean(0), r),
    ),
    Mistake(
        "what is kept instead of what is lost",
        "The first `rank` singular values are what the student can have; the error is the rest.",
        lambda h, r: torch.linalg.svdvals(h)[:r].square().sum() / h.numel(),
    ),
    Mistake(
        "singular values not squared",
        "The squared error of a cut SVD is the sum of the squares of the values cut off.",
        lambda h, r: torch.linalg.svdvals(h)[r:].sum() / h.numel(),
    ),
    Mistake(
        "not divided by the width",
        "Equation 8's mean is over tokens and width.",
        lambda h, r: _floor(h, r) * h.shape[1],
    ),
    Mistake(
        "sum instead of mean",
        "Divide by tokens times width.",
        lambda h, r: _floor(h, r) * h.numel(),
    ),
    Mistake(
        "a share instead of an error",
        "That is the share of the squares that is lost; the loss is an absolute number: divide by "
        "tokens times width, not by the total.",
        lambda h, r: _floor(h, r) / h.square().mean(),
    ),
    Mistake(
        "off by one: one direction too many is lost",
        "A student of width `rank` can have `rank` directions: cut at [rank:].",
        lambda h, r: _floor(h, r - 1),
    ),
    Mistake(
        "off by one: one direction too few is lost",
        "A student of width `rank` can have `rank` directions: cut at [rank:].",
        lambda h, r: _floor(h, r + 1),
    ),
]


def _uniform(n: int, m: int) -> list[int]:
    return [i * n // m for i in range(m + 1)]


MAPPING_MISTAKES = [
    Mistake(
        "embedding element forgotten",
        "A student of M layers has M + 1 outputs; output 0 is the embeddings and g(0) = 0.",
        lambda n, m: _uniform(n, m)[1:],
    ),
    Mistake(
        "off by one: layers counted from 0",
        "Output 0 is the embeddings, so layers are counted from 1: the last student layer learns "
        "from teacher layer N, not N − 1.",
        lambda n, m: [0, *(g - 1 for g in _uniform(n, m)[1:])],
    ),
    Mistake(
        "off by one: layers counted from 0, embedding element forgotten",
        "g has M + 1 elements, g(0) = 0 for the embeddings, and g(M) = N.",
        lambda n, m: [g - 1 for g in _uniform(n, m)[1:]],
    ),
    Mistake(
        "off by one: the last layer is missing",
        "range stops before its end: m runs from 0 to M, the last included.",
        lambda n, m: _uniform(n, m)[:-1],
    ),
    Mistake(
        "off by one: everything one too high",
        "g(0) = 0 and g(M) = N: there is no teacher layer N + 1.",
        lambda n, m: [g + 1 for g in _uniform(n, m)],
    ),
    Mistake(
        "off by one: everything one too high",
        "g(m) = m·N/M, without the + 1: there is no teacher layer N + 1.",
        lambda n, m: [0, *(g + 1 for g in _uniform(n, m)[1:])],
    ),
    Mistake(
        "N and M exchanged",
        "g(m) = m·N/M: N is the teacher's depth, M the student's.",
        lambda n, m: [i * m // n for i in range(n + 1)],
    ),
    Mistake(
        "N and M exchanged",
        "g(m) = m·N/M: multiply by the teacher's depth, divide by the student's.",
        lambda n, m: [i * m // n for i in range(m + 1)],
    ),
    Mistake(
        "that is the top mapping",
        "g(m) = m + N − M takes the last layers; uniform takes them equally far apart.",
        lambda n, m: [0, *(i + n - m for i in range(1, m + 1))],
    ),
    Mistake(
        "that is the bottom mapping",
        "g(m) = m takes the first layers; uniform takes them equally far apart.",
        lambda n, m: list(range(m + 1)),
    ),
]

PAIR_MISTAKES = [
    Mistake(
        "embedding element forgotten",
        "Output 0 of both sides is compared too: that is equation 9.",
        lambda g: list(enumerate(g))[1:],
    ),
    Mistake(
        "mapping forgotten",
        "Output m learns from teacher output g(m), not m.",
        lambda g: [(m, m) for m in range(len(g))],
    ),
    Mistake(
        "off by one: teacher layers counted from 0",
        "Hidden states start with the embeddings, so teacher_hidden[g(m)] is layer g(m) already.",
        lambda g: [(0, 0), *((m, n - 1) for m, n in enumerate(g) if m)],
    ),
    Mistake(
        "off by one: teacher layers counted from 0, embedding element forgotten",
        "Compare student_hidden[m] with teacher_hidden[g(m)] for m = 0 … M.",
        lambda g: [(m, n - 1) for m, n in enumerate(g) if m],
    ),
    Mistake(
        "off by one: student outputs shifted",
        "student_hidden[0] is the embedding output; layer m is student_hidden[m].",
        lambda g: [(m - 1, n) for m, n in enumerate(g) if m],
    ),
]
