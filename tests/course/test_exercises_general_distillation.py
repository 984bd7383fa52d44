"""Every check of notebook 05 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from tests.wrong_answers import assert_told, register
from tinybert_lite.course.exercises.general_distillation import (
    CAUSES,
    SHIFTED,
    check_control,
    check_diagnosis,
    check_training_step,
    real_logs,
)

WRONG, wrong = register()


# The training step


def sum_of(student, projection, teacher, mapping, x):
    with torch.no_grad():
        targets = teacher(x)
    return [
        F.mse_loss(projection(ours), targets[g])
        for ours, g in zip(student(x), mapping, strict=True)
    ]


def finish(student, projection, loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_([*student.parameters(), *projection.parameters()], 1.0)
    optimizer.step()
    return loss.item()


def step(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    loss = sum(sum_of(student, projection, teacher, mapping, x))
    return finish(student, projection, loss, optimizer)


@wrong(check_training_step, "old gradients were not cleared")
def without_zero_grad(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    loss = sum(sum_of(student, projection, teacher, mapping, x))
    loss.backward()
    clip_grad_norm_([*student.parameters(), *projection.parameters()], 1.0)
    optimizer.step()
    return loss.item()


@wrong(check_training_step, "gradients were not clipped")
def unclipped(*arguments):
    return clipped([], *arguments)


@wrong(check_training_step, "gradients were not clipped")
def clipped_too_late(student, projection, teacher, mapping, x, optimizer):
    loss = unclipped(student, projection, teacher, mapping, x, optimizer)
    clip_grad_norm_([*student.parameters(), *projection.parameters()], 1.0)
    return loss


def clipped(modules, student, projection, teacher, mapping, x, optimizer):
    """A step that clips the gradients of each of these modules on its own."""
    teacher.eval()
    loss = sum(sum_of(student, projection, teacher, mapping, x))
    optimizer.zero_grad()
    loss.backward()
    for module in modules:
        clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@wrong(check_training_step, "projection was left out of the clipping")
def half_clipped(student, *rest):
    return clipped([student], student, *rest)


@wrong(check_training_step, "student and projection were clipped separately")
def clipped_apart(student, projection, *rest):
    return clipped([student, projection], student, projection, *rest)


@wrong(check_training_step, "teacher was in training mode")
def restless(student, projection, teacher, mapping, x, optimizer):
    loss = sum(sum_of(student, projection, teacher, mapping, x))
    return finish(student, projection, loss, optimizer)


@wrong(check_training_step, "gradients in the teacher")
def with_gradients(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    targets = teacher(x)
    pairs = zip(student(x), mapping, strict=True)
    loss = sum(F.mse_loss(projection(ours), targets[g]) for ours, g in pairs)
    return finish(student, projection, loss, optimizer)


@wrong(check_training_step, "mapping was forgotten")
def without_mapping(student, projection, teacher, mapping, x, optimizer):
    return step(student, projection, teacher, range(len(mapping)), x, optimizer)


@wrong(check_training_step, "mean instead of the sum")
def mean(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    terms = sum_of(student, projection, teacher, mapping, x)
    return finish(student, projection, sum(terms) / len(terms), optimizer)


@wrong(check_training_step, "embedding output was forgotten")
def without_embedding(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    terms = sum_of(student, projection, teacher, mapping, x)
    return finish(student, projection, sum(terms[1:]), optimizer)


@wrong(check_training_step, "only the last output")
def last_only(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    terms = sum_of(student, projection, teacher, mapping, x)
    return finish(student, projection, terms[-1], optimizer)


@wrong(check_training_step, "nothing changed")
def without_step(student, projection, teacher, mapping, x, optimizer):
    teacher.eval()
    loss = sum(sum_of(student, projection, teacher, mapping, x))
    loss.backward()
    return loss.item()


@wrong(check_training_step, "the loss is not a float")
def tensor_back(student, projection, teacher, mapping, x, optimizer):
    return torch.tensor(step(student, projection, teacher, mapping, x, optimizer))


@wrong(check_training_step, "stopped with an error")
def no_gradients_at_all(student, projection, teacher, mapping, x, optimizer):
    with torch.no_grad():
        loss = sum(sum_of(student, projection, teacher, mapping, x))
    return finish(student, projection, loss, optimizer)


# The control


def control(texts, random):
    copies = []
    for text in texts:
        words = text.split()
        copy = words
        while copy == words and len(set(words)) > 1:
            copy = [words[i] for i in random.permutation(len(words))]
        copies.append(" ".join(copy))
    return copies


@wrong(check_control, "some copies equal their originals")
def one_draw(texts, random):
    return [" ".join(random.permutation(text.split()).tolist()) for text in texts]


@wrong(check_control, "always the same new order")
def reversed_words(texts, random):
    return [" ".join(text.split()[::-1]) for text in texts]


@wrong(check_control, "letters shuffled")
def letters(texts, random):
    return ["".join(random.permutation(list(text)).tolist()) for text in texts]


@wrong(check_control, "other words")
def of_other_texts(texts, random):
    return [texts[i] for i in random.permutation(len(texts))]


@wrong(check_control, "nothing was shuffled")
def the_same(texts, random):
    return list(texts)


@wrong(check_control, "changed in place")
def overwritten(texts, random):
    texts[:] = control(texts, random)
    return texts


@wrong(check_control, "not a list of as many texts")
def words_of_each(texts, random):
    return [text.split() for text in control(texts, random)]


SOLUTIONS = [(check_training_step, step), (check_control, control), (check_diagnosis, CAUSES)]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_the_solution_passes(check, solution):
    assert check(solution).passed, check(solution)


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(check(answer), says)


# The log of a real run


def test_an_exercise_not_tried_says_so():
    for check in (check_training_step, check_control):
        for answer in (None, ..., lambda *_: None, lambda *_: ...):
            assert not check(answer).tried
    assert not check_diagnosis(dict.fromkeys(CAUSES, ...)).tried
    assert not check_diagnosis(None).tried


def test_two_causes_exchanged_are_counted_and_get_the_hint_of_the_cause_named():
    answer = CAUSES | {"log 1": CAUSES["log 4"], "log 4": CAUSES["log 1"]}
    result = check_diagnosis(answer)
    assert_told(result, "2 of 4 are right")
    assert "lag behind" in result.hint


def test_the_cause_that_does_not_occur_and_one_that_does_not_exist_are_told_apart():
    assert "higher" in check_diagnosis(CAUSES | {"log 3": SHIFTED}).hint
    assert_told(check_diagnosis(CAUSES | {"log 2": "bad luck"}), "no known cause")


def test_the_recorded_logs_show_what_the_hints_say():
    logs = real_logs()
    frozen, healthy, swapped, slow = (logs[f"log {i}"] for i in (1, 2, 3, 4))
    assert frozen["embedding"][-1] > 0.95 * frozen["embedding"][0]
    assert all(slow[term][-1] > healthy[term][-1] for term in healthy)
    assert swapped["attention.1"][0] < swapped["attention.3"][0]
    assert healthy["attention.1"][0] > healthy["attention.3"][0]
    assert frozen["attention.1"][-1] == pytest.approx(healthy["attention.1"][-1], rel=0.02)
