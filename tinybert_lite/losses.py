"""Equations 7 to 10 of the paper, as pure functions of tensors.

`normalize="tokens"` (the default) averages over real tokens only, so a loss never depends on how
much padding its batch has. `normalize="padded"` reproduces the authors' code, which averages over
every position of the padded batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QueriesKeys = tuple[Tensor, Tensor]


def attention_loss(
    student_scores: Tensor,
    teacher_scores: Tensor,
    attention_mask: Tensor | None,
    normalize: str = "tokens",
) -> Tensor:
    """Mean squared difference of attention scores before softmax (equation 7), a scalar.

    Scores (batch, heads, l, l) are QKᵀ/√d_k; attention_mask (batch, l) is 1 on real tokens, or
    None where nothing is padded. `"tokens"`: mean over heads and pairs of real tokens.
    `"padded"`: padded keys count as zero difference, the mean is over the whole (l, l) square.

    Raises ValueError when shapes or `normalize` do not fit.
    """
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            f"Scores differ in shape: student {tuple(student_scores.shape)}, teacher "
            f"{tuple(teacher_scores.shape)}; eq. 7 needs the same number of heads and tokens."
        )
    batch, heads, l, _ = student_scores.shape
    mask = _mask(attention_mask, batch, l, student_scores.device)
    keep = mask[:, None, None, :]
    if normalize == "tokens":
        keep = keep * mask[:, None, :, None]
    error = _SquaredError.apply(student_scores.float(), teacher_scores.float(), keep)
    return error / _pairs(mask, heads, normalize)


def attention_loss_gram(
    student_qk: QueriesKeys,
    teacher_qk: QueriesKeys,
    attention_mask: Tensor | None,
    normalize: str = "tokens",
) -> Tensor:
    """Equation 7 from queries and keys, without any l × l map beyond d_k × d_k, a scalar.

    Each side is (queries, keys), each (batch, heads, l, d_k), unscaled; d_k may differ between
    the sides. Uses ‖Q_S K_Sᵀ − Q_T K_Tᵀ‖² = ⟨Q_SᵀQ_S, K_SᵀK_S⟩ − 2⟨Q_SᵀQ_T, K_SᵀK_T⟩ +
    ⟨Q_TᵀQ_T, K_TᵀK_T⟩, so time and memory grow with l instead of l². Zeroing padded rows makes
    it exact under padding.

    Up to l = d_k (the larger one) the maps are no larger than those products, and are compared.

    Beyond, it is a difference of large numbers. In float32 its absolute error stays near 1e-7 of the
    mean squared score whatever the loss is, so its relative error grows as 1/loss when student
    and teacher become equal: with a loss of 1e-4 of the mean squared score about three digits
    are left, under 1e-7 none, and it can come out slightly negative. Use `attention_loss` there.

    Raises ValueError when shapes or `normalize` do not fit.
    """
    (qs, ks), (qt, kt) = (_scaled(*student_qk), _scaled(*teacher_qk))
    if qs.shape[:3] != qt.shape[:3]:
        raise ValueError(
            f"Queries differ in shape: student {tuple(qs.shape)}, teacher {tuple(qt.shape)}; "
            "eq. 7 needs the same number of heads and tokens."
        )
    batch, heads, l, _ = qs.shape
    if l <= max(qs.shape[-1], qt.shape[-1]):
        with torch.autocast(qs.device.type, enabled=False):
            maps = qs @ ks.transpose(-1, -2), qt @ kt.transpose(-1, -2)
            return attention_loss(*maps, attention_mask, normalize)
    mask = _mask(attention_mask, batch, l, qs.device)
    if attention_mask is not None:
        pad = mask[:, None, :, None] == 0
        ks, kt = ks.masked_fill(pad, 0.0), kt.masked_fill(pad, 0.0)
        if normalize == "tokens":
            qs, qt = qs.masked_fill(pad, 0.0), qt.masked_fill(pad, 0.0)
    # Outside autocast: bf16 products would lose the digits that the difference needs.
    with torch.autocast(qs.device.type, enabled=False):
        own = _inner(qs, qs, ks, ks)
        cross = _inner(qs, qt, ks, kt)
        target = _inner(qt, qt, kt, kt)
    return (own - 2 * cross + target) / _pairs(mask, heads, normalize)


def relation_heads(x: Tensor, count: int) -> Tensor:
    """Queries or keys split into another number of heads (MiniLMv2), (batch, count, l, d/count).

    x is (batch, heads, l, d_k): its heads are concatenated to the width d = heads · d_k and split
    again. With count = heads it is x. Equation 7 then compares models of any head counts.

    Raises ValueError when `count` does not divide the width.
    """
    _, heads, _, d_k = x.shape
    if count < 1 or heads * d_k % count:
        raise ValueError(f"{count} relation heads do not divide the width {heads * d_k}.")
    if count == heads:
        return x
    return x.transpose(1, 2).flatten(2).unflatten(-1, (count, -1)).transpose(1, 2)


def hidden_loss(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    projection: Callable[[Tensor], Tensor] | None,
    attention_mask: Tensor | None,
    normalize: str = "tokens",
) -> Tensor:
    """Mean squared difference of hidden states, or embeddings (equations 8 and 9), a scalar.

    student_hidden (batch, l, d'), teacher_hidden (batch, l, d); `projection` maps d' to d (W_h or
    W_e), None where the widths agree; attention_mask (batch, l) or None. `"tokens"`: mean over
    real tokens and width; `"padded"`: over all positions and width.

    Raises ValueError when shapes or `normalize` do not fit.
    """
    projected = student_hidden if projection is None else projection(student_hidden)
    if projected.shape != teacher_hidden.shape:
        raise ValueError(
            f"Hidden states differ in shape: student {tuple(projected.shape)}"
            f"{' (no projection given)' if projection is None else ' after projection'}, "
            f"teacher {tuple(teacher_hidden.shape)}."
        )
    batch, l, width = teacher_hidden.shape
    mask = _mask(attention_mask, batch, l, teacher_hidden.device)
    if normalize == "padded":
        return F.mse_loss(projected.float(), teacher_hidden.float())
    if normalize != "tokens":
        raise ValueError(f"normalize is 'tokens' or 'padded', not {normalize!r}.")
    keep = mask[:, :, None]
    error = _SquaredError.apply(projected.float(), teacher_hidden.float(), keep)
    return error / (mask.sum() * width)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of the student against the teacher's soft labels (equation 10), a scalar.

    −Σ_c softmax(z_T/t)_c · log softmax(z_S/t)_c over logits (batch, classes), averaged over the
    batch. No factor t² is applied (nor does the paper): at t ≠ 1 gradients shrink by about t².

    Raises ValueError when shapes differ or the temperature is not positive.
    """
    _check_logits(student_logits, teacher_logits, temperature)
    soft_labels = F.softmax(teacher_logits.float() / temperature, dim=-1)
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    return -(soft_labels * log_student).sum(-1).mean()


def sigmoid_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Binary cross-entropy against the teacher's sigmoid outputs, label by label, a scalar.

    For tasks with several labels per text: logits (batch, labels), averaged over batch and labels.
    It is equation 10 with two classes for each label, present and absent: softmax of (z, 0) is
    (σ(z), 1 − σ(z)), so one label's loss is `soft_cross_entropy` of the logits (z, 0). Both sides
    are divided by the temperature, without a factor t².

    Raises ValueError when shapes differ or the temperature is not positive.
    """
    _check_logits(student_logits, teacher_logits, temperature)
    soft_labels = torch.sigmoid(teacher_logits.float() / temperature)
    return F.binary_cross_entropy_with_logits(student_logits.float() / temperature, soft_labels)


def regression_loss(student_outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Mean squared difference to the teacher's predictions, the soft labels of a regression task.

    Both (batch, 1) or (batch,). The authors' code uses the hard labels here, which its comments call
    a bug; the target of distillation is the teacher.
    """
    return F.mse_loss(student_outputs.float().flatten(), teacher_outputs.float().flatten())


def _check_logits(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Logits differ in shape: student {tuple(student_logits.shape)}, "
            f"teacher {tuple(teacher_logits.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"Temperature must be greater than 0, not {temperature}.")


class _SquaredError(torch.autograd.Function):
    """Sum of squared differences where `keep` (broadcast to the shape of `student`) is not 0.

    Elsewhere any value is allowed, infinities too. The gradient, 2 (student − teacher), is written
    out: on a CPU autograd takes twice as many passes over the tensors for it.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
        difference = (student - teacher).masked_fill_(keep == 0, 0.0)
        ctx.save_for_backward(difference)
        return difference.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (difference,) = ctx.saved_tensors
        student = difference * (2 * gradient)
        return student, -student if ctx.needs_input_grad[1] else None, None


def _mask(attention_mask: Tensor | None, batch: int, l: int, device: torch.device) -> Tensor:
    if attention_mask is None:
        return torch.ones(batch, l, device=device)
    if attention_mask.shape != (batch, l):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; ({batch}, {l}) is needed."
        )
    return attention_mask.to(device=device, dtype=torch.float32)


def _pairs(mask: Tensor, heads: int, normalize: str) -> Tensor | int:
    """Number of score entries the mean is over."""
    if normalize == "tokens":
        return heads * mask.sum(-1).square().sum()
    if normalize == "padded":
        return heads * mask.shape[0] * mask.shape[1] ** 2
    raise ValueError(f"normalize is 'tokens' or 'padded', not {normalize!r}.")


def _scaled(queries: Tensor, keys: Tensor) -> QueriesKeys:
    """Each side carries half of the 1/√d_k, so that products of Gram matrices stay small."""
    if queries.shape != keys.shape:
        raise ValueError(
            f"Queries {tuple(queries.shape)} and keys {tuple(keys.shape)} differ in shape."
        )
    scale = queries.shape[-1] ** -0.25
    return queries.float() * scale, keys.float() * scale


def _inner(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor) -> Tensor:
    """⟨Q₁ᵀQ₂, K₁ᵀK₂⟩ summed over batch and heads, from (batch, heads, l, d_k) tensors."""
    return torch.sum((q1.transpose(-1, -2) @ q2) * (k1.transpose(-1, -2) @ k2))
