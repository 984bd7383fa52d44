"""Checks of notebook 04: equation 10, temperature, T², regression, labels that cannot help."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tinybert_lite.course.exercises.checking import (
    Mistake,
    Result,
    check_loss,
    draw,
    run,
    wrong,
)
from tinybert_lite.losses import regression_loss, soft_cross_entropy


def check_soft_cross_entropy(candidate: Callable | None) -> Result:
    """Check `candidate(student_logits, teacher_logits, temperature)`, equation 10.

    Logits (batch, classes); the answer is a scalar, the mean over the batch, without a factor t²,
    and nothing of its gradient may flow into the teacher.
    """
    return check_loss(candidate, soft_cross_entropy, SOFT_MISTAKES, _logit_cases(), _sound)


def check_best_logits(candidate: Callable | None) -> Result:
    """Check `candidate(teacher_logits, temperature)`: where a loss softened on one side is smallest.

    That loss divides the teacher's logits (batch, classes) by t and not the student's; the answer
    is the student's best logits. A constant added to a row changes nothing.
    """
    cases = [(teacher, t) for _, teacher, t in _logit_cases()]
    problem, answers = run(candidate, cases)
    if problem:
        return problem
    for answer, (teacher, _) in zip(answers, cases, strict=True):
        if not torch.is_tensor(answer) or answer.shape != teacher.shape:
            return wrong("not logits (batch, classes)", "Return a tensor like teacher_logits.")

    def same(wanted: Callable) -> bool:
        pairs = zip(answers, cases, strict=True)
        return all(
            torch.allclose(a.float().softmax(-1), wanted(*case).softmax(-1), atol=1e-4)
            for a, case in pairs
        )

    if same(lambda z, t: z / t):
        return Result(True, hint="At t > 1 that student is less confident than its teacher.")
    for mistake in ONE_SIDED_MISTAKES:
        if same(mistake.answer):
            return wrong(mistake.name, mistake.hint)
    return wrong(
        "other logits", "The loss is smallest where softmax(student) equals softmax(teacher / t)."
    )


def check_hard_and_soft(candidate: Callable | None) -> Result:
    """Check `candidate(student_logits, teacher_logits, labels, temperature, alpha)`, a scalar.

    alpha · cross-entropy with the hard labels (batch,) at t = 1, plus (1 − alpha) · t² · equation
    10, so that neither part drowns the other when t changes.
    """
    return check_loss(candidate, _hard_and_soft, MIXED_MISTAKES, _mixed_cases(), _sound)


def check_regression_target(candidate: Callable | None) -> Result:
    """Check `candidate(student_outputs, teacher_outputs, gold)`: the loss where labels are numbers.

    Outputs (batch, 1), gold (batch,); the answer is a scalar, the mean over the batch.
    """
    return check_loss(
        candidate,
        lambda student, teacher, gold: regression_loss(student, teacher),
        REGRESSION_MISTAKES,
        _number_cases(),
        _sound,
    )


def check_shuffled(answer: str | None, gain_left: float | None = None) -> Result:
    """Check the guess how much shuffled labels help ("a", "b" or "c") against a run.

    `gain_left` is (shuffled − hard) / (soft − hard), from accuracies.
    """
    if not isinstance(answer, str) or gain_left is None:
        return Result(False, False, hint='Set prediction to "a", "b" or "c" before you run.')
    truth = "a" if gain_left >= 0.5 else "b" if gain_left > 0 else "c"
    left = f"{gain_left:.0%} of what soft labels gained over hard ones was left"
    if gain_left < 0:
        left = f"shuffled labels are worse than hard ones, by {-gain_left:.1f} times what soft ones gained"
    if answer.strip().lower() == truth:
        return Result(True, hint=f"{left}, as you predicted.")
    return Result(
        False,
        mistake=f"The run gives {truth!r}: {left}",
        hint="Shuffling keeps the top class and its probability, and assigns the rest to "
        "unrelated topics. Which of the three did the even labels of section 5 lack?",
    )


def _logit_cases() -> list[tuple]:
    cases = []
    for seed, shape, t in ((0, (4, 5), 2.0), (1, (6, 3), 0.5), (2, (5, 5), 3.0)):
        normal = draw(seed)
        cases.append(((2 * normal(*shape)).requires_grad_(), 3 * normal(*shape), t))
    return cases


def _mixed_cases() -> list[tuple]:
    cases = []
    for (student, teacher, t), alpha in zip(_logit_cases(), (0.3, 0.6, 0.8), strict=True):
        # Not the teacher's own first answers: gold labels and soft ones have to differ.
        cases.append((student, teacher, teacher.argsort(-1)[:, -2], t, alpha))
    return cases


def _number_cases() -> list[tuple]:
    cases = []
    for seed, batch in ((0, 4), (1, 7), (2, 3)):
        normal = draw(seed)
        teacher = 2 * normal(batch, 1)
        cases.append((normal(batch, 1).requires_grad_(), teacher, teacher[:, 0] + normal(batch)))
    return cases


def _sound(candidate: Callable, case: tuple) -> Result | None:
    """What the right number can still hide: gradients of the teacher, logarithms of zero."""
    student, teacher = (x.detach().clone().requires_grad_() for x in case[:2])
    loss = candidate(student, teacher, *case[2:])
    if torch.is_tensor(loss) and loss.requires_grad:
        loss.backward()
    if teacher.grad is not None:
        return wrong(
            "teacher not detached",
            "The number is right, but its gradient reaches the teacher too, which would learn to "
            "agree with the student: .detach() the teacher's side, or use torch.no_grad().",
        )
    with torch.no_grad():
        sure = torch.as_tensor(candidate(300 * student, 300 * teacher, *case[2:]))
    if not sure.isfinite().all():
        return wrong(
            "NaN or infinity where a model is very confident",
            "A probability became 0 and log(0) is −inf: take F.log_softmax, not the logarithm of "
            "a softmax.",
        )
    return None


def _cross_entropy(student: Tensor, teacher: Tensor, t_student: float, t_teacher: float) -> Tensor:
    soft_labels = (teacher / t_teacher).softmax(-1)
    return -(soft_labels * (student / t_student).log_softmax(-1)).sum(-1).mean()


def _entropy(teacher: Tensor, t: float) -> Tensor:
    return _cross_entropy(teacher, teacher, t, t)


SOFT_MISTAKES = [
    Mistake(
        "temperature on the student only",
        "Both sides are softened, or their probabilities cannot be equal: divide the teacher's "
        "logits by t too.",
        lambda s, z, t: _cross_entropy(s, z, t, 1),
    ),
    Mistake(
        "temperature on the teacher only",
        "Both sides are softened, or their probabilities cannot be equal: divide the student's "
        "logits by t too.",
        lambda s, z, t: _cross_entropy(s, z, 1, t),
    ),
    Mistake(
        "temperature forgotten",
        "Logits are divided by t before the softmax, on both sides.",
        lambda s, z, t: _cross_entropy(s, z, 1, 1),
    ),
    Mistake(
        "multiplied by the temperature instead of divided",
        "A high temperature makes labels softer: logits / t.",
        lambda s, z, t: _cross_entropy(s, z, 1 / t, 1 / t),
    ),
    Mistake(
        "the cross-entropy taken the wrong way round",
        "The logarithm belongs to the student, the probabilities to the teacher: −Σ p_T · log p_S.",
        lambda s, z, t: _cross_entropy(z, s, t, t),
    ),
    Mistake(
        "softmax taken twice",
        "F.cross_entropy takes logits and applies softmax itself; you gave it probabilities.",
        lambda s, z, t: _cross_entropy((s / t).softmax(-1), z, 1, t),
    ),
    Mistake(
        "softmax taken twice, on both sides",
        "F.cross_entropy takes logits for the student; its target is the teacher's softmax, once.",
        lambda s, z, t: _cross_entropy((s / t).softmax(-1), (z / t).softmax(-1), 1, 1),
    ),
    Mistake(
        "hard labels used",
        "argmax discards the probabilities of the other classes, which are all that soft labels "
        "add: use the teacher's softmax as the target.",
        lambda s, z, t: F.cross_entropy(s / t, z.argmax(-1)),
    ),
    Mistake(
        "hard labels used",
        "argmax discards the wrong classes, and the temperature is forgotten.",
        lambda s, z, t: F.cross_entropy(s, z.argmax(-1)),
    ),
    Mistake(
        "sum instead of the mean over the batch",
        "A larger batch would have a larger loss: .sum(-1) over classes, then .mean().",
        lambda s, z, t: soft_cross_entropy(s, z, t) * len(s),
    ),
    Mistake(
        "mean over the classes too",
        "Sum over classes, mean over the batch. (The authors' code has .mean() over both: their "
        "loss is smaller by the number of classes.)",
        lambda s, z, t: soft_cross_entropy(s, z, t) / s.shape[1],
    ),
    Mistake(
        "softmax over the batch instead of the classes",
        "Each text's probabilities add up to 1: the last dimension, -1.",
        lambda s, z, t: _cross_entropy(s.T, z.T, t, t) * s.shape[1] / len(s),
    ),
    Mistake(
        "softmax over the batch instead of the classes",
        "Each text's probabilities add up to 1: the last dimension, -1.",
        lambda s, z, t: _cross_entropy(s.T, z.T, t, t),
    ),
    Mistake(
        "KL divergence instead of cross-entropy",
        "You subtracted the teacher's own entropy. The student learns the same from it, because "
        "that part has no gradient; but equation 10 is the cross-entropy, which does not reach 0.",
        lambda s, z, t: soft_cross_entropy(s, z, t) - _entropy(z, t),
    ),
    Mistake(
        "KL divergence, and a mean over the classes too",
        'F.kl_div(…) divides by batch times classes: reduction="batchmean", and equation 10 keeps '
        "the teacher's entropy.",
        lambda s, z, t: (soft_cross_entropy(s, z, t) - _entropy(z, t)) / s.shape[1],
    ),
    Mistake(
        "the logarithm of the student is missing",
        "F.kl_div takes log-probabilities first; you gave it probabilities.",
        lambda s, z, t: (
            -((z / t).softmax(-1) * (s / t).softmax(-1)).sum(-1).mean() - _entropy(z, t)
        ),
    ),
    Mistake(
        "the logarithm of the student is missing",
        "−Σ p_T · log p_S: log_softmax on the student's side.",
        lambda s, z, t: -((z / t).softmax(-1) * (s / t).softmax(-1)).sum(-1).mean(),
    ),
    Mistake(
        "the minus sign is missing",
        "Logarithms of probabilities are negative; the loss is positive.",
        lambda s, z, t: -soft_cross_entropy(s, z, t),
    ),
    Mistake(
        "multiplied by t²",
        "Equation 10 has no t². It is useful when hard labels are mixed in: exercise 3.",
        lambda s, z, t: soft_cross_entropy(s, z, t) * t**2,
    ),
    Mistake(
        "MSE of logits",
        "That is what equation 10 turns into when t is very high, times a constant; here t is "
        "given.",
        lambda s, z, t: F.mse_loss(s, z),
    ),
    Mistake(
        "MSE of probabilities",
        "Equation 10 is a cross-entropy: −Σ p_T · log p_S.",
        lambda s, z, t: F.mse_loss((s / t).softmax(-1), (z / t).softmax(-1)),
    ),
]


ONE_SIDED_MISTAKES = [
    Mistake(
        "the teacher's own logits",
        "They are the best if *both* sides are divided by t. Here only the teacher's are.",
        lambda z, t: z,
    ),
    Mistake(
        "multiplied instead of divided",
        "softmax(student) has to equal softmax(teacher / t): what is inside must be equal too.",
        lambda z, t: z * t,
    ),
    Mistake(
        "divided by t²",
        "t² belongs to the gradient (section 7). Here the softmaxes decide: divide by t once.",
        lambda z, t: z / t**2,
    ),
    Mistake(
        "probabilities instead of logits",
        "The student's softmax is still to come. Return what goes into it.",
        lambda z, t: (z / t).softmax(-1),
    ),
    Mistake(
        "all classes alike",
        "These logits give every class the same probability; the teacher's never do.",
        lambda z, t: torch.zeros_like(z),
    ),
]


def _mix(student, teacher, labels, t, alpha, hard_t=1.0, factor=None):
    """The mixed loss with one thing changed: the hard part's temperature, the soft part's factor."""
    hard = F.cross_entropy(student / hard_t, labels)
    factor = t**2 if factor is None else factor
    return alpha * hard + (1 - alpha) * factor * soft_cross_entropy(student, teacher, t)


def _hard_and_soft(student, teacher, labels, t, alpha):
    return _mix(student, teacher, labels, t, alpha)


MIXED_MISTAKES = [
    Mistake(
        "t² forgotten",
        "At t = 10 the soft part's gradient is about a hundred times smaller, so the hard labels "
        "dominate: multiply the soft part by t².",
        lambda s, z, y, t, a: _mix(s, z, y, t, a, factor=1),
    ),
    Mistake(
        "t instead of t²",
        "One 1/t comes from the chain rule, another from the flatter probabilities: t².",
        lambda s, z, y, t, a: _mix(s, z, y, t, a, factor=t),
    ),
    Mistake(
        "divided by t² instead of multiplied",
        "The gradient shrinks by t² already; the factor has to undo that.",
        lambda s, z, y, t, a: _mix(s, z, y, t, a, factor=t**-2),
    ),
    Mistake(
        "t² on both parts",
        "The hard part is taken at t = 1, so its gradient does not shrink: t² on the soft part "
        "only.",
        lambda s, z, y, t, a: _mix(s, z, y, t, a) + a * (t**2 - 1) * F.cross_entropy(s, y),
    ),
    Mistake(
        "t² on the hard part",
        "The gradient that shrinks is that of the soft part.",
        lambda s, z, y, t, a: (
            a * t**2 * F.cross_entropy(s, y) + (1 - a) * soft_cross_entropy(s, z, t)
        ),
    ),
    Mistake(
        "temperature on the hard part too",
        "Hard labels are matched at t = 1, as the student will be used.",
        lambda s, z, y, t, a: _mix(s, z, y, t, a, hard_t=t),
    ),
    Mistake(
        "alpha on the wrong part",
        "alpha is the weight of the hard labels, 1 − alpha that of the soft ones.",
        lambda s, z, y, t, a: _mix(s, z, y, t, 1 - a),
    ),
    Mistake(
        "temperature on the student only",
        "In the soft part both sides are divided by t.",
        lambda s, z, y, t, a: (
            a * F.cross_entropy(s, y) + (1 - a) * t**2 * _cross_entropy(s, z, t, 1)
        ),
    ),
    Mistake(
        "temperature on the teacher only",
        "In the soft part both sides are divided by t.",
        lambda s, z, y, t, a: (
            a * F.cross_entropy(s, y) + (1 - a) * t**2 * _cross_entropy(s, z, 1, t)
        ),
    ),
    Mistake(
        "KL divergence instead of cross-entropy",
        "The student learns the same from it, but equation 10 includes the teacher's entropy.",
        lambda s, z, y, t, a: _mix(s, z, y, t, a) - (1 - a) * t**2 * _entropy(z, t),
    ),
]


REGRESSION_MISTAKES = [
    Mistake(
        "the ratings in the data as the target",
        "That is ordinary training, without the teacher. In distillation its output "
        "is the target. (The authors' code does this for STS-B; they call it a bug.)",
        lambda s, z, y: F.mse_loss(s[:, 0], y),
    ),
    Mistake(
        "(batch, 1) minus (batch,) is (batch, batch)",
        "Each student output is compared with every rating of the batch, without an error. Give both "
        "sides the same shape; and the target is the teacher's output.",
        lambda s, z, y: (s - y).square().mean(),
    ),
    Mistake(
        "(batch, 1) minus (batch,) is (batch, batch)",
        "Each student output is compared with every teacher output of the batch, without an error. "
        "Give both sides the same shape.",
        lambda s, z, y: (s - z[:, 0]).square().mean(),
    ),
    Mistake(
        "half of the loss is about the ratings in the data",
        "The teacher's outputs alone are the target here.",
        lambda s, z, y: (F.mse_loss(s, z) + F.mse_loss(s[:, 0], y)) / 2,
    ),
    Mistake(
        "the ratings in the data added",
        "The teacher's outputs alone are the target here.",
        lambda s, z, y: F.mse_loss(s, z) + F.mse_loss(s[:, 0], y),
    ),
    Mistake(
        "equation 10 on a single output",
        "A softmax over one number is 1 whatever the number is: the loss is 0 and nothing is "
        "learned. Numbers are compared as they are.",
        lambda s, z, y: soft_cross_entropy(s, z),
    ),
    Mistake(
        "sum instead of the mean over the batch",
        "A larger batch would have a larger loss: .mean().",
        lambda s, z, y: F.mse_loss(s, z, reduction="sum"),
    ),
    Mistake(
        "absolute difference instead of squared",
        "MSE is the mean of squares.",
        lambda s, z, y: F.l1_loss(s, z),
    ),
    Mistake(
        "square root of the mean",
        "MSE stops before the root.",
        lambda s, z, y: F.mse_loss(s, z).sqrt(),
    ),
]
