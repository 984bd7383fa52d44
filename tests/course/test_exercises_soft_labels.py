"""Every check of notebook 04 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import pytest
import torch
from torch.nn import functional as F

from tests.wrong_answers import assert_told, register
from tinybert_lite import losses
from tinybert_lite.course import exercises

WRONG, wrong = register()


@wrong("check_soft_cross_entropy", "temperature on the student only")
def student_only(s, z, t):
    return F.cross_entropy(s / t, z.softmax(-1))


@wrong("check_soft_cross_entropy", "temperature on the teacher only")
def teacher_only(s, z, t):
    return F.cross_entropy(s, (z / t).softmax(-1))


@wrong("check_soft_cross_entropy", "temperature forgotten")
def no_temperature(s, z, t):
    return F.cross_entropy(s, z.softmax(-1))


@wrong("check_soft_cross_entropy", "multiplied by the temperature")
def times_temperature(s, z, t):
    return F.cross_entropy(s * t, (z * t).softmax(-1))


@wrong("check_soft_cross_entropy", "the wrong way round")
def softmax_on_both_then_the_wrong_logarithm(s, z, t):
    p_s, p_t = F.softmax(s / t, dim=-1), F.softmax(z / t, dim=-1)
    return -(p_s * p_t.log()).sum(-1).mean()


@wrong("check_soft_cross_entropy", "softmax taken twice")
def probabilities_into_cross_entropy(s, z, t):
    return F.cross_entropy(F.softmax(s / t, dim=-1), F.softmax(z / t, dim=-1))


@wrong("check_soft_cross_entropy", "softmax taken twice, on both sides")
def probabilities_of_probabilities(s, z, t):
    p_s, p_t = F.softmax(s / t, dim=-1), F.softmax(z / t, dim=-1)
    return F.cross_entropy(p_s, F.softmax(p_t, dim=-1))


@wrong("check_soft_cross_entropy", "hard labels used")
def first_answer_only(s, z, t):
    return F.cross_entropy(s / t, z.argmax(-1))


@wrong("check_soft_cross_entropy", "hard labels used")
def one_hot(s, z, t):
    target = F.one_hot(z.argmax(-1), z.shape[1]).float()
    return -(target * F.log_softmax(s, dim=-1)).sum(-1).mean()


@wrong("check_soft_cross_entropy", "sum instead of the mean over the batch")
def summed(s, z, t):
    return -((z / t).softmax(-1) * (s / t).log_softmax(-1)).sum()


@wrong("check_soft_cross_entropy", "mean over the classes too")
def authors_mean(s, z, t):
    return (-F.softmax(z / t, dim=-1) * F.log_softmax(s / t, dim=-1)).mean()


@wrong("check_soft_cross_entropy", "softmax over the batch")
def first_dimension(s, z, t):
    return -(F.softmax(z / t, dim=0) * F.log_softmax(s / t, dim=0)).sum(-1).mean()


@wrong("check_soft_cross_entropy", "softmax over the batch")
def first_dimension_throughout(s, z, t):
    return -(F.softmax(z / t, dim=0) * F.log_softmax(s / t, dim=0)).sum(0).mean()


@wrong("check_soft_cross_entropy", "KL divergence instead")
def kl(s, z, t):
    return F.kl_div(F.log_softmax(s / t, -1), F.softmax(z / t, -1), reduction="batchmean")


@wrong("check_soft_cross_entropy", "KL divergence, and a mean over the classes too")
def kl_mean(s, z, t):
    return F.kl_div(F.log_softmax(s / t, -1), F.softmax(z / t, -1), reduction="mean")


@wrong("check_soft_cross_entropy", "logarithm of the student is missing")
def kl_of_probabilities(s, z, t):
    return F.kl_div(F.softmax(s / t, -1), F.softmax(z / t, -1), reduction="batchmean")


@wrong("check_soft_cross_entropy", "logarithm of the student is missing")
def no_logarithm(s, z, t):
    return -(F.softmax(z / t, -1) * F.softmax(s / t, -1)).sum(-1).mean()


@wrong("check_soft_cross_entropy", "minus sign")
def no_minus(s, z, t):
    return (F.softmax(z / t, -1) * F.log_softmax(s / t, -1)).sum(-1).mean()


@wrong("check_soft_cross_entropy", "multiplied by t²")
def with_t_squared(s, z, t):
    return F.cross_entropy(s / t, (z / t).softmax(-1)) * t * t


@wrong("check_soft_cross_entropy", "MSE of logits")
def logits_compared(s, z, t):
    return F.mse_loss(s, z)


@wrong("check_soft_cross_entropy", "MSE of probabilities")
def probabilities_compared(s, z, t):
    return F.mse_loss((s / t).softmax(-1), (z / t).softmax(-1))


@wrong("check_soft_cross_entropy", "teacher not detached")
def gradients_into_the_teacher(s, z, t):
    return F.cross_entropy(s / t, (z / t).softmax(-1))


@wrong("check_soft_cross_entropy", "no gradient")
def number_without_gradient(s, z, t):
    return F.cross_entropy(s / t, (z.detach() / t).softmax(-1)).item()


@wrong("check_soft_cross_entropy", "very confident")
def logarithm_of_a_softmax(s, z, t):
    return -((z.detach() / t).softmax(-1) * (s / t).softmax(-1).log()).sum(-1).mean()


@wrong("check_soft_cross_entropy", "not one number")
def one_loss_a_text(s, z, t):
    return F.cross_entropy(s / t, (z / t).softmax(-1), reduction="none")


@wrong("check_best_logits", "the teacher's own logits")
def as_the_teacher(z, t):
    return z.clone()


@wrong("check_best_logits", "multiplied instead of divided")
def hotter(z, t):
    return t * z


@wrong("check_best_logits", "divided by t²")
def colder(z, t):
    return z / (t * t)


@wrong("check_best_logits", "probabilities instead of logits")
def probabilities(z, t):
    return torch.softmax(z / t, dim=-1)


@wrong("check_best_logits", "all classes alike")
def even_logits(z, t):
    return torch.zeros(z.shape)


@wrong("check_best_logits", "not logits")
def top_class(z, t):
    return z.argmax(-1)


@wrong("check_best_logits", "other logits")
def shifted_temperature(z, t):
    return z / (t + 1)


def mixed(s, z, y, t, a, factor=None, hard_t=1.0):
    soft = F.cross_entropy(s / t, (z.detach() / t).softmax(-1))
    return a * F.cross_entropy(s / hard_t, y) + (1 - a) * soft * (
        t**2 if factor is None else factor
    )


@wrong("check_hard_and_soft", "t² forgotten")
def mixed_without_factor(s, z, y, t, a):
    return mixed(s, z, y, t, a, 1)


@wrong("check_hard_and_soft", "t instead of t²")
def mixed_with_t(s, z, y, t, a):
    return mixed(s, z, y, t, a, t)


@wrong("check_hard_and_soft", "divided by t²")
def mixed_divided(s, z, y, t, a):
    return mixed(s, z, y, t, a, 1 / t**2)


@wrong("check_hard_and_soft", "t² on both parts")
def mixed_factor_outside(s, z, y, t, a):
    return t * t * mixed(s, z, y, t, a, 1)


@wrong("check_hard_and_soft", "t² on the hard part")
def mixed_factor_on_hard(s, z, y, t, a):
    return mixed(s, z, y, t, a, 1) + a * (t * t - 1) * F.cross_entropy(s, y)


@wrong("check_hard_and_soft", "temperature on the hard part too")
def mixed_all_softened(s, z, y, t, a):
    return mixed(s, z, y, t, a, hard_t=t)


@wrong("check_hard_and_soft", "alpha on the wrong part")
def mixed_exchanged(s, z, y, t, a):
    return mixed(s, z, y, t, 1 - a)


@wrong("check_hard_and_soft", "temperature on the student only")
def mixed_student_only(s, z, y, t, a):
    soft = F.cross_entropy(s / t, z.softmax(-1))
    return a * F.cross_entropy(s, y) + (1 - a) * t**2 * soft


@wrong("check_hard_and_soft", "temperature on the teacher only")
def mixed_teacher_only(s, z, y, t, a):
    soft = F.cross_entropy(s, (z / t).softmax(-1))
    return a * F.cross_entropy(s, y) + (1 - a) * t**2 * soft


@wrong("check_hard_and_soft", "KL divergence")
def mixed_kl(s, z, y, t, a):
    soft = F.kl_div((s / t).log_softmax(-1), (z / t).softmax(-1), reduction="batchmean")
    return a * F.cross_entropy(s, y) + (1 - a) * t**2 * soft


@wrong("check_hard_and_soft", "teacher not detached")
def mixed_not_detached(s, z, y, t, a):
    soft = F.cross_entropy(s / t, (z / t).softmax(-1))
    return a * F.cross_entropy(s, y) + (1 - a) * t**2 * soft


@wrong("check_regression_target", "the ratings in the data as the target")
def gold(s, z, y):
    return F.mse_loss(s.flatten(), y)


@wrong("check_regression_target", "is (batch, batch)")
def gold_broadcast(s, z, y):
    return ((s - y) ** 2).mean()


@wrong("check_regression_target", "is (batch, batch)")
def teacher_broadcast(s, z, y):
    return ((s.squeeze(1) - z) ** 2).mean()


@wrong("check_regression_target", "half of the loss is about the ratings")
def half_gold(s, z, y):
    return 0.5 * F.mse_loss(s, z) + 0.5 * F.mse_loss(s[:, 0], y)


@wrong("check_regression_target", "the ratings in the data added")
def gold_added(s, z, y):
    return F.mse_loss(s, z) + F.mse_loss(s[:, 0], y)


@wrong("check_regression_target", "equation 10 on a single output")
def softmax_of_one_number(s, z, y):
    return -(z.softmax(-1) * s.log_softmax(-1)).sum(-1).mean()


@wrong("check_regression_target", "sum instead of the mean")
def squares_summed(s, z, y):
    return ((s - z) ** 2).sum()


@wrong("check_regression_target", "absolute difference")
def absolute(s, z, y):
    return (s - z).abs().mean()


@wrong("check_regression_target", "square root")
def root(s, z, y):
    return ((s - z) ** 2).mean().sqrt()


@wrong("check_regression_target", "teacher not detached")
def numbers_not_detached(s, z, y):
    return F.mse_loss(s, z)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(getattr(exercises, check)(answer), says)


SOLUTIONS = [
    (
        "check_soft_cross_entropy",
        lambda s, z, t: F.cross_entropy(s / t, (z.detach() / t).softmax(-1)),
    ),
    ("check_best_logits", lambda z, t: z / t),
    ("check_best_logits", lambda z, t: (z / t).log_softmax(-1)),
    ("check_hard_and_soft", mixed),
    ("check_regression_target", lambda s, z, y: F.mse_loss(s[:, 0], z[:, 0].detach())),
]


@pytest.mark.parametrize(("check", "answer"), SOLUTIONS, ids=[check for check, _ in SOLUTIONS])
def test_the_solution_passes(check, answer):
    result = getattr(exercises, check)(answer)
    assert result.passed, result


@pytest.mark.parametrize("check", [check for check, _ in SOLUTIONS])
def test_an_exercise_not_tried_says_so(check):
    for answer in (None, ..., lambda *_: None, lambda *_: ...):
        result = getattr(exercises, check)(answer)
        assert not result.passed and not result.tried
        assert repr(result).startswith("[not tried]")


@pytest.mark.parametrize(
    ("answer", "gain_left", "passed"),
    [("a", 0.8, True), ("B ", 0.3, True), ("c", -0.4, True), ("a", 0.2, False), ("b", -1.0, False)],
)
def test_the_guess_about_shuffled_answers_is_held_against_the_run(answer, gain_left, passed):
    assert exercises.check_shuffled(answer, gain_left).passed is passed


def test_a_guess_not_made_or_not_run_says_so():
    for guess in [(None, 0.5), (..., 0.5), ("a", None), ("a",)]:
        assert repr(exercises.check_shuffled(*guess)).startswith("[not tried]")


def test_the_gradient_that_the_solution_gives_is_the_difference_of_probabilities_over_t():
    student, teacher = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    losses.soft_cross_entropy(student, teacher, 3.0).backward()
    apart = (student / 3).softmax(-1) - (teacher / 3).softmax(-1)
    assert torch.allclose(student.grad, apart / 3 / 6, atol=1e-6)
