"""Checks of notebook 03: equation 8, the floor, a teacher's hidden states, an ablation."""

from collections.abc import Callable
from itertools import combinations
from math import isclose
from statistics import mean

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


def check_share_reached(candidate: Callable | None) -> Result:
    """Check `candidate(loss, targets, width)`: 0 for predicting zeros, 1 at the floor.

    loss is the sum of M hidden losses with one W_h of rank `width`; targets are M times (tokens, d).
    """
    return check_loss(candidate, _reached, REACHED_MISTAKES, _reached_cases(), gradient=False)


def check_effects(candidate: Callable | None) -> Result:
    """Check `candidate(losses)`: the mean effect of each part of a full factorial experiment.

    losses maps frozensets of part names to a loss; the answer maps each part to its effect.
    """
    cases = _factorial_cases()
    problem, answers = run(candidate, [(dict(case),) for case in cases])
    if problem:
        return problem
    truth = [_effects(case) for case in cases]
    for answer, right in zip(answers, truth, strict=True):
        if not isinstance(answer, dict) or set(answer) != set(right):
            return wrong("not one effect for each part", "Return {part: effect}, all parts in it.")
    if _same_effects(answers, truth):
        return Result(True, hint="Every pair of runs that differ in one part only was used.")
    for mistake in EFFECT_MISTAKES:
        if _same_effects(answers, [mistake.answer(case) for case in cases]):
            return wrong(mistake.name, mistake.hint)
    part = min(truth[0])
    return wrong(
        "other effects",
        f"In the first case the effect of {part} is {truth[0][part]:.3f}, yours is "
        f"{answers[0][part]}. List the pairs of runs that differ in this part only.",
    )


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
    if any(torch.is_tensor(a) for a in answers):
        return wrong(
            "one tensor instead of N + 1",
            "Call the teacher with output_hidden_states=True and return .hidden_states.",
        )
    try:
        answers = [list(a) for a in answers]
    except TypeError:
        return wrong("not a list of tensors", "Return hidden_states of the model's output.")
    if len(answers[0]) == 1 or (isinstance(answers[0][0], str)):
        return wrong(
            "the whole output instead of its hidden states",
            "Call the teacher with output_hidden_states=True and return .hidden_states.",
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
            "Two calls give different hidden states: dropout is on. Call teacher.eval() first.",
        )
    if any(a.requires_grad for a in answers[0]):
        return wrong(
            "teacher not detached",
            "The hidden states carry gradients, so the student's loss would reach the teacher; "
            "call it under torch.no_grad().",
        )
    return Result(True, hint="Two calls agree, and no gradient reaches the teacher.")


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


def _reached_cases() -> list[tuple]:
    cases = []
    for seed, (layers, width) in enumerate([(3, 3), (2, 5), (4, 2)]):
        normal = draw(seed)
        targets = [normal(30, 8) * torch.arange(1, 9) + normal(8) for _ in range(layers)]
        loss = (0.3 + 0.1 * seed) * sum(t.square().mean() for t in targets)
        cases.append((loss, targets, width))
    return cases


def _factorial_cases() -> list[dict[frozenset, float]]:
    """Losses of all combinations of 3 and 2 parts, with interactions."""
    cases = []
    for seed, parts in enumerate([("table", "W_e", "W_h"), ("a", "b")]):
        sets = [frozenset(c) for k in range(len(parts) + 1) for c in combinations(parts, k)]
        cases.append(dict(zip(sets, draw(seed)(len(sets)).abs().tolist(), strict=True)))
    return cases


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


def _sentence_means(student: Tensor, teacher: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    of_tokens = (student @ w - teacher).square().mean(-1) * mask
    return (of_tokens.sum(1) / mask.sum(1)).mean()


def _hidden_square(student: Tensor, teacher: Tensor, w: Tensor) -> Tensor:
    return (student @ w - teacher).square()


HIDDEN_MISTAKES = [
    Mistake(
        "projection on the wrong side",
        "The teacher was squeezed to the student's width, so the target can be made easy by "
        "discarding what is hard. W_h lifts the student, H_S W_h; the teacher is left alone.",
        _backwards,
    ),
    Mistake(
        "W_h transposed",
        "With equal widths it raises no error: it is H_S W_h, not H_S W_hᵀ.",
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
        "the mean of the sentences' means",
        "A token of a short sentence counts more than one of a long sentence: take one mean over "
        "all real tokens of the batch.",
        _sentence_means,
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
        "Equation 8 compares the vectors themselves, including their lengths.",
        lambda s, t, w, m: ((1 - F.cosine_similarity(s @ w, t, dim=-1)) * m).sum() / m.sum(),
    ),
]


def _zeros(targets: list[Tensor]) -> Tensor:
    return torch.stack([t.square().mean() for t in targets]).sum()


def _floor(stacked: Tensor, width: int) -> Tensor:
    """The smallest mean squared error of a rank-`width` imitation of (tokens, d)."""
    return torch.linalg.svdvals(stacked)[width:].square().sum() / stacked.numel()


def _share(loss: Tensor, zeros: Tensor, floor: Tensor) -> Tensor:
    return (zeros - loss) / (zeros - floor)


def _shared(targets: list[Tensor], width: int) -> Tensor:
    return len(targets) * _floor(torch.cat(targets), width)


def _reached(loss: Tensor, targets: list[Tensor], width: int) -> Tensor:
    return _share(loss, _zeros(targets), _shared(targets, width))


REACHED_MISTAKES = [
    Mistake(
        "a projection for each layer",
        "One W_h serves all layers, so all targets have to fit into the same `width` directions: "
        "take the floor of the targets stacked on top of each other.",
        lambda x, t, w: _share(x, _zeros(t), torch.stack([_floor(h, w) for h in t]).sum()),
    ),
    Mistake(
        "the mean of the layers instead of their sum",
        "`loss` is a sum over layers; the mean over the stacked targets is smaller by a factor M.",
        lambda x, t, w: _share(x, _zeros(t), _floor(torch.cat(t), w)),
    ),
    Mistake(
        "a sum over layers compared with means",
        "`loss` is a sum over layers, so predicting zeros and the floor have to be sums too.",
        lambda x, t, w: _share(x, _zeros(t) / len(t), _floor(torch.cat(t), w)),
    ),
    Mistake(
        "the mean was subtracted first",
        "That is the floor of PCA. W_h has no bias, so no mean can be added back: take the "
        "singular values of the targets as they are.",
        lambda x, t, w: _share(
            x, _zeros(t), len(t) * _floor(torch.cat(t) - torch.cat(t).mean(0), w)
        ),
    ),
    Mistake(
        "what is kept instead of what is lost",
        "The floor is made of the singular values after the first `width`.",
        lambda x, t, w: _share(x, _zeros(t), _zeros(t) - _shared(t, w)),
    ),
    Mistake(
        "singular values not squared",
        "The squared error of a truncated SVD is the sum of the squares that were cut.",
        lambda x, t, w: _share(
            x,
            _zeros(t),
            len(t) * torch.linalg.svdvals(torch.cat(t))[w:].sum() / torch.cat(t).numel(),
        ),
    ),
    Mistake(
        "the floor is missing",
        "You assume that a loss of 0 can be reached; a student of this width cannot go below its floor.",
        lambda x, t, w: 1 - x / _zeros(t),
    ),
    Mistake(
        "the share that is missing, not the share reached",
        "Count from predicting zeros: 0 there, 1 at the floor.",
        lambda x, t, w: 1 - _reached(x, t, w),
    ),
    Mistake(
        "floor divided by loss",
        "A student of zeros should get 0: measure the improvement over predicting zeros.",
        lambda x, t, w: _shared(t, w) / x,
    ),
]


def _effects(losses: dict) -> dict:
    """The mean change when a part is switched on and nothing else changes."""
    return {
        part: mean(losses[on | {part}] - losses[on] for on in losses if part not in on)
        for part in frozenset().union(*losses)
    }


def _same_effects(answers: list[dict], others: list[dict]) -> bool:
    pairs = [(a[part], o[part]) for a, o in zip(answers, others, strict=True) for part in o]
    try:
        return all(isclose(float(x), float(y), rel_tol=1e-4, abs_tol=1e-6) for x, y in pairs)
    except (TypeError, ValueError):
        return False


def _all(losses: dict) -> frozenset:
    return frozenset().union(*losses)


EFFECT_MISTAKES = [
    Mistake(
        "the sign is reversed",
        "A part that lowers the loss has a negative effect: with the part minus without it.",
        lambda x: {part: -effect for part, effect in _effects(x).items()},
    ),
    Mistake(
        "only the part on its own",
        "That is one pair of runs: the part alone against the random start. A part may work only "
        "together with another one, so average over all combinations of the others.",
        lambda x: {p: x[frozenset({p})] - x[frozenset()] for p in _all(x)},
    ),
    Mistake(
        "only the last step",
        "That is one pair of runs: everything against everything without the part. Average over "
        "all combinations of the others.",
        lambda x: {p: x[_all(x)] - x[_all(x) - {p}] for p in _all(x)},
    ),
    Mistake(
        "compared with the random start",
        "Runs with the part also have other parts on; compare each with its twin without the part.",
        lambda x: {p: mean(x[on] for on in x if p in on) - x[frozenset()] for p in _all(x)},
    ),
    Mistake(
        "sum instead of mean",
        "Divide by the number of pairs of runs.",
        lambda x: {p: e * len(x) / 2 for p, e in _effects(x).items()},
    ),
    Mistake(
        "the mean loss with the part, not its effect",
        "Subtract the loss of the run that differs in this part only.",
        lambda x: {p: mean(x[on] for on in x if p in on) for p in _all(x)},
    ),
]
