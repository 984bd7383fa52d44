"""Properties of the losses, at random shapes."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinybert_lite.losses import (
    attention_loss,
    attention_loss_gram,
    hidden_loss,
    regression_loss,
    relation_heads,
    sigmoid_cross_entropy,
    soft_cross_entropy,
)

shapes = st.tuples(
    st.integers(1, 4),  # batch
    st.integers(1, 4),  # heads
    st.integers(1, 80),  # tokens
    st.integers(1, 20),  # d_k of the student
    st.integers(1, 40),  # d_k of the teacher
    st.integers(0, 2**31),  # seed
)


def draw(batch, heads, l, ds, dt, seed):
    g = torch.Generator().manual_seed(seed)
    student = tuple(torch.randn(batch, heads, l, ds, generator=g) for _ in "qk")
    teacher = tuple(torch.randn(batch, heads, l, dt, generator=g) for _ in "qk")
    lengths = torch.randint(1, l + 1, (batch,), generator=g)
    lengths[0] = l
    mask = (torch.arange(l) < lengths[:, None]).long()
    return student, teacher, mask


def scores(qk):
    return qk[0] @ qk[1].transpose(-1, -2) / qk[0].shape[-1] ** 0.5


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(["tokens", "padded"]))
@example((1, 1, 1, 9, 14, 3), "tokens")  # one token, and scores that happen to be nearly equal
@example((1, 1, 1, 15, 39, 0), "tokens")  # the same, a hundredth of the scores apart
def test_gram_form_equals_plain_form_with_gradients(shape, normalize):
    student, teacher, mask = draw(*shape)

    def side(form, target):
        qk = tuple(t.clone().requires_grad_() for t in student)
        if form == "plain":
            loss = attention_loss(scores(qk), scores(target), mask, normalize)
        else:
            loss = attention_loss_gram(qk, target, mask, normalize)
        loss.backward()
        return loss.detach(), torch.cat([t.grad.flatten() for t in qk])

    (plain, plain_grad), (gram, gram_grad) = side("plain", teacher), side("gram", teacher)
    nothing = tuple(torch.zeros_like(t) for t in teacher)
    own, own_grad = side("plain", nothing)  # the mean squared score, and its gradient
    # digits are lost, as the docstring says: a part of the error is one of the scores' size
    assert abs(gram - plain) < 1e-5 * plain + 3e-6 * own
    error = (gram_grad - plain_grad).norm()
    assert error < 1e-5 * plain_grad.norm() + 3e-6 * own_grad.norm()


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
def test_gram_error_grows_as_the_models_become_equal_and_stays_within_what_is_documented(gap):
    student, teacher, mask = draw(4, 12, 64, 16, 16, seed=0)
    student = tuple(t + gap * torch.randn(t.shape) for t in teacher)
    plain = attention_loss(scores(student), scores(teacher), mask)
    gram = attention_loss_gram(student, teacher, mask)
    exact = attention_loss(*(scores([t.double() for t in qk]) for qk in (student, teacher)), mask)
    size = attention_loss(torch.zeros_like(scores(teacher)), scores(teacher), mask)
    assert relative(plain, exact) < 1e-5
    assert abs(gram - exact) < 1e-6 * size  # "near 1e-7 of the mean squared score"


def test_gram_error_of_equal_models_is_not_zero_but_that_of_the_plain_form_is():
    _, teacher, mask = draw(4, 12, 64, 16, 16, seed=0)
    assert attention_loss(scores(teacher), scores(teacher), mask) == 0
    size = attention_loss(torch.zeros_like(scores(teacher)), scores(teacher), mask)
    assert abs(attention_loss_gram(teacher, teacher, mask)) < 1e-6 * size


def naive_relation_loss(student, teacher, mask, count):
    """MiniLMv2's relations of Q and K, text by text and relation head by relation head."""
    total, terms = 0.0, 0
    for i in range(len(mask)):
        real = int(mask[i].sum())
        for r in range(count):
            maps = []
            for qk in (student, teacher):
                q, k = (torch.cat(list(t[i]), dim=-1)[:real] for t in qk)  # (l, d)
                width = q.shape[-1] // count
                part = slice(r * width, (r + 1) * width)
                maps.append(q[:, part] @ k[:, part].T / width**0.5)
            total = total + (maps[0] - maps[1]).square().sum()
            terms += real**2
    return total / terms


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 30)),  # batch and tokens
    st.sampled_from([(1, 4, 12), (2, 4, 6), (3, 6, 2), (4, 12, 4), (6, 2, 3), (2, 2, 2)]),
    st.integers(1, 3),  # d_k of the student, as a multiple of what R divides
    st.integers(0, 2**31),
)
def test_relation_heads_are_the_naive_relations_with_gradients_in_both_forms(sizes, heads, k, seed):
    (batch, l), (count, student_heads, teacher_heads) = sizes, heads
    student, _, mask = draw(batch, student_heads, l, k * count, 1, seed)
    teacher, _, _ = draw(batch, teacher_heads, l, 2 * count, 1, seed + 1)

    def side(form):
        qk = tuple(t.double().requires_grad_() for t in student)
        target = tuple(t.double() for t in teacher)
        if form == "naive":
            loss = naive_relation_loss(qk, target, mask, count)
        else:
            both = [tuple(relation_heads(t, count) for t in side) for side in (qk, target)]
            if form == "gram":
                loss = attention_loss_gram(*both, mask)
            else:
                loss = attention_loss(*map(scores, both), mask)
        loss.backward()
        return loss.detach().float(), torch.cat([t.grad.flatten() for t in qk])

    naive, naive_grad = side("naive")
    for form in ("gram", "scores"):
        loss, grad = side(form)
        assert torch.allclose(loss, naive, rtol=1e-4, atol=1e-5)
        assert (grad - naive_grad).norm() < 1e-4 * naive_grad.norm() + 1e-5


def test_as_many_relation_heads_as_heads_are_the_heads_to_the_last_bit():
    (q, _), _, _ = draw(2, 6, 5, 4, 4, seed=0)
    assert relation_heads(q, 6) is q
    back = relation_heads(relation_heads(q, 4), 6)
    assert relation_heads(q, 4).shape == (2, 4, 5, 6) and torch.equal(back, q)


def all_losses(student, teacher, mask):
    hs, ht = (qk[0].transpose(1, 2).flatten(2) for qk in (student, teacher))
    g = torch.Generator().manual_seed(7)
    weight = torch.randn(hs.shape[-1], ht.shape[-1], generator=g)
    return torch.stack(
        [
            attention_loss(scores(student), scores(teacher), mask),
            attention_loss_gram(student, teacher, mask),
            hidden_loss(hs, ht, lambda h: h @ weight, mask),
        ]
    )


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 40), st.floats(-100, 100))
def test_losses_do_not_change_when_the_batch_is_padded_further(shape, extra, rubbish):
    student, teacher, mask = draw(*shape)
    before = all_losses(student, teacher, mask)

    def pad(t):
        return torch.nn.functional.pad(t, (0, 0, 0, extra), value=rubbish)

    wider = torch.nn.functional.pad(mask, (0, extra))
    after = all_losses(tuple(map(pad, student)), tuple(map(pad, teacher)), wider)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_losses_do_not_change_when_the_batch_is_permuted(shape):
    student, teacher, mask = draw(*shape)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(1))
    before = all_losses(student, teacher, mask)
    after = all_losses(*(tuple(t[order] for t in qk) for qk in (student, teacher)), mask[order])
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def test_padding_that_holds_infinities_does_not_reach_the_loss_or_its_gradient():
    student, teacher, mask = draw(3, 2, 9, 4, 4, seed=3)
    pad = (mask == 0)[:, None, :, None]
    assert pad.any()
    s = scores(student).masked_fill(pad.transpose(-1, -2), -torch.inf).requires_grad_()
    t = scores(teacher).masked_fill(pad.transpose(-1, -2), -torch.inf)
    loss = attention_loss(s, t, mask)
    loss.backward()
    assert loss.isfinite() and s.grad.isfinite().all()
    assert (s.grad.masked_select(pad.expand_as(s)) == 0).all()


@pytest.mark.parametrize("side", [0, 1])
def test_gradients_are_those_of_the_squared_differences_written_out(side):
    student, teacher, mask = draw(3, 2, 7, 4, 4, seed=6)
    real = mask[:, None, :, None] * mask[:, None, None, :]
    maps = [scores(student), scores(teacher)]
    hidden = [torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    kept, rows = real.sum() * 2, mask[:, :, None]
    for pair, loss, written in (
        (maps, lambda a, b: attention_loss(a, b, mask), lambda d: (real * d**2).sum() / kept),
        (hidden, lambda a, b: hidden_loss(a, b, None, mask), lambda d: (rows * d**2).sum() / rows.sum() / 5),
    ):  # fmt: skip
        pair[side].requires_grad_()
        (got,) = torch.autograd.grad(3 * loss(*pair), pair[side])
        (expected,) = torch.autograd.grad(3 * written(pair[0] - pair[1]), pair[side])
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-7) and got.abs().max() > 0


def test_no_mask_means_that_every_token_is_real():
    student, teacher, _ = draw(2, 3, 8, 4, 6, seed=1)
    ones = torch.ones(2, 8)
    assert torch.equal(all_losses(student, teacher, None), all_losses(student, teacher, ones))


def test_loss_over_tokens_is_the_mean_of_squared_differences_of_real_pairs():
    student, teacher, mask = draw(3, 2, 7, 4, 4, seed=5)
    pairs = (mask[:, None, :, None] * mask[:, None, None, :]).bool().expand(3, 2, 7, 7)
    expected = (scores(student) - scores(teacher))[pairs].square().mean()
    assert torch.allclose(attention_loss(scores(student), scores(teacher), mask), expected)


def test_soft_cross_entropy_is_least_when_the_student_equals_the_teacher():
    teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for t in (0.5, 1.0, 3.0):
        student = teacher.clone().requires_grad_()
        loss = soft_cross_entropy(student, teacher, t)
        loss.backward()
        p = torch.softmax(teacher / t, -1)
        assert torch.allclose(loss, -(p * p.log()).sum(-1).mean())  # the teacher's entropy
        assert student.grad.abs().max() < 1e-6
        assert soft_cross_entropy(teacher + torch.eye(5, 4), teacher, t) > loss


def test_bf16_inputs_are_accumulated_in_float32():
    student, teacher, mask = draw(2, 4, 32, 16, 16, seed=2)
    low = [tuple(t.bfloat16() for t in qk) for qk in (student, teacher)]
    exact = attention_loss(*(scores([t.double() for t in qk]) for qk in low), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gram = attention_loss_gram(*low, mask)
    assert gram.dtype == torch.float32
    assert relative(gram, exact) < 1e-5


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), None),
        lambda: attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), torch.ones(1, 4)),
        lambda: attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), None, "mean"),
        lambda: attention_loss_gram(
            (torch.zeros(1, 2, 3, 3),) * 2, (torch.zeros(1, 4, 3, 3),) * 2, None
        ),
        lambda: attention_loss_gram(
            (torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4)), (torch.zeros(1, 2, 3, 3),) * 2, None
        ),
        lambda: relation_heads(torch.zeros(1, 2, 3, 4), 3),
        lambda: relation_heads(torch.zeros(1, 2, 3, 4), 0),
        lambda: hidden_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 8), None, None),
        lambda: hidden_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), None, None, "mean"),
        lambda: soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 3)),
        lambda: soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), 0.0),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_words(call):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        call()


def test_the_regression_target_is_the_teachers_prediction():
    assert regression_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])) == 2.0


# Several labels a text ----------------------------------------------------------------------------

logit_pairs = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))


def two_classes(logits):
    """Each label as a task of two classes, present and absent, with logits (z, 0)."""
    return torch.stack([logits.flatten(), torch.zeros(logits.numel())], dim=-1)


@settings(max_examples=60, deadline=None)
@given(logit_pairs, st.floats(0.25, 8))
def test_sigmoid_cross_entropy_is_equation_10_of_each_label_with_logits_z_and_0(shape, t):
    texts, labels, seed = shape
    g = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(texts, labels, generator=g) for _ in range(2))
    losses, gradients = [], []
    for form in ("sigmoid", "softmax"):
        z = student.clone().requires_grad_()
        if form == "sigmoid":
            loss = sigmoid_cross_entropy(z, teacher, t)
        else:
            loss = soft_cross_entropy(two_classes(z), two_classes(teacher), t)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(z.grad)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    expected = (torch.sigmoid(student / t) - torch.sigmoid(teacher / t)) / (t * student.numel())
    torch.testing.assert_close(gradients[0], expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(logit_pairs)
def test_sigmoid_cross_entropy_is_smallest_at_the_teachers_logits(shape):
    texts, labels, seed = shape
    g = torch.Generator().manual_seed(seed)
    teacher, other = (3 * torch.randn(texts, labels, generator=g) for _ in range(2))
    assert sigmoid_cross_entropy(teacher, teacher) <= sigmoid_cross_entropy(other, teacher) + 1e-6


def test_sigmoid_cross_entropy_is_finite_for_huge_logits_and_refuses_what_does_not_fit():
    huge = torch.tensor([[1e4, -1e4]])
    assert sigmoid_cross_entropy(huge, huge) == 0
    assert sigmoid_cross_entropy(-huge, huge) == 1e4
    with pytest.raises(ValueError, match="differ in shape"):
        sigmoid_cross_entropy(huge, huge[:, :1])
    with pytest.raises(ValueError, match="greater than 0"):
        sigmoid_cross_entropy(huge, huge, 0.0)
