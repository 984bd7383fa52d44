"""The phases: teacher fine-tuning, general distillation, and both steps of task distillation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.data.tokenized import MODEL_INPUTS, TokenizedDataset, to_device
from tinybert_lite.losses import (
    attention_loss,
    attention_loss_gram,
    hidden_loss,
    regression_loss,
    relation_heads,
    sigmoid_cross_entropy,
    soft_cross_entropy,
)
from tinybert_lite.models.inference import predict
from tinybert_lite.models.labels import MULTI_LABEL
from tinybert_lite.students import Projection
from tinybert_lite.teacher_cache import TeacherCache, attention_form
from tinybert_lite.training import History, MeanLoss, TrainingConfig, fit


def finetune(
    teacher: PreTrainedModel,
    train: TokenizedDataset,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    score: Callable[[], float] | None = None,
    name: str = "finetune",
    **options,
) -> History:
    """Train a classifier on hard labels in place: classes, numbers, or several labels per text."""
    multi_label = teacher.config.problem_type == MULTI_LABEL
    regression = teacher.config.num_labels == 1 and not multi_label
    labels = torch.from_numpy(train.labels)

    def tensors(rows: np.ndarray) -> dict[str, Tensor]:
        inputs = train.batch(rows, accelerator.device)
        return inputs | {"labels": to_device(labels[rows], accelerator.device)}

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        target = batch["labels"]
        logits = module(**_inputs(batch)).logits.float()
        if regression:
            return {"label": F.mse_loss(logits[:, 0], target.float())}
        if multi_label:
            return {"label": F.binary_cross_entropy_with_logits(logits, target.float())}
        return {"label": F.cross_entropy(logits, target)}

    teacher.to(accelerator.device).train()
    return fit(
        name, teacher, loss, train.lengths, settings, folder, accelerator, score,
        tensors=tensors, **options,
    )  # fmt: skip


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model takes of a batch that has the targets of a loss as well."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


class IntermediateLoss(nn.Module):
    """Student and projection with the intermediate losses: equations 7, 8 and 9.

    `mapping` is g(0…M). Attention is compared in the form in which its targets come: queries and
    keys by the Gram identity, scores as they are. `parts` are the losses that count, of
    "attention", "hidden" and "embedding".

    `relation_heads` splits queries and keys of both sides into that many heads before they are
    compared (MiniLMv2). None is equation 7, head by head, where both have the same number of heads;
    else the teacher's number where it divides the student's width, or the student's.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        projection: Projection,
        mapping: list[int],
        parts: tuple[str, ...] = ("attention", "hidden", "embedding"),
        normalize: str = "tokens",
        relation_heads: int | None = None,
    ):
        super().__init__()
        self.relation_heads = relation_heads
        self.student, self.projection, self.mapping = student, projection, mapping
        self.parts, self.normalize = parts, normalize
        # What no intermediate loss reaches is not trained (nor waited for by several processes).
        encoder = student.base_model
        for module in (getattr(encoder, "pooler", None), getattr(student, "classifier", None)):
            if module is not None:
                module.requires_grad_(False)

    def split(self, teacher_heads: int) -> int | None:
        """Relation heads for a teacher with so many heads; None where heads are compared as they are."""
        config = self.student.config
        heads, fits = config.num_attention_heads, config.hidden_size % teacher_heads == 0
        count = self.relation_heads or (teacher_heads if fits else heads)
        return None if count == heads == teacher_heads else count

    def forward(
        self, inputs: dict[str, Tensor], target_hidden: list[Tensor], target_attention: list
    ) -> dict[str, Tensor]:
        """Losses by name: attention.m for m = 1…M, hidden.m, and embedding.

        Raises ValueError for relation heads whose targets are scores, not queries and keys.
        """
        mask = inputs["attention_mask"]
        what = "qk" if isinstance(target_attention[0], tuple) else "scores"
        student = capture(self.student.base_model, inputs, what)
        losses = {}
        if "attention" in self.parts:
            pairs = zip(student.attention, target_attention)
            for m, (attention, target) in enumerate(pairs, start=1):
                losses[f"attention.{m}"] = self._attention(attention, target, mask)
        for m, (hidden, target) in enumerate(zip(student.hidden, target_hidden)):
            key = f"hidden.{m}" if m else "embedding"
            if key.split(".")[0] in self.parts:
                projection = self.projection(m)
                losses[key] = hidden_loss(hidden, target, projection, mask, self.normalize)
        return losses

    def _attention(self, student, teacher, mask: Tensor) -> Tensor:
        """Equation 7 of one layer, from scores, or from queries and keys and then on relation heads."""
        heads = (teacher[0] if isinstance(teacher, tuple) else teacher).shape[1]
        count = self.split(heads)
        if not isinstance(teacher, tuple):
            if count is not None:
                raise ValueError("Relation heads need queries and keys; take them with what='qk'.")
            return attention_loss(student, teacher, mask, self.normalize)
        if count is not None:
            student, teacher = (
                tuple(relation_heads(x, count) for x in pair) for pair in (student, teacher)
            )
            if attention_form("auto", mask) == "scores":
                student, teacher = (
                    q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 for q, k in (student, teacher)
                )
                return attention_loss(student, teacher, mask, self.normalize)
        return attention_loss_gram(student, teacher, mask, self.normalize)


def terms(name: str) -> Callable[[np.ndarray], float]:
    """Number of terms that a loss of `IntermediateLoss` is the mean of, from the texts' lengths.

    Attention is a mean over pairs of tokens, hidden states and embeddings are means over tokens.
    """
    power = 2 if name.startswith("attention") else 1
    return lambda lengths: (lengths.astype(float) ** power).sum()


def distill_intermediate(
    module: IntermediateLoss,
    cache: TeacherCache,
    train: TokenizedDataset,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    name: str = "intermediate",
    **options,
) -> History:
    """Intermediate distillation, of stage 1 on general text or of stage 2 on task text.

    Raises UserError when the relation heads do not divide the widths of student and teacher.
    """
    teacher = cache.teacher.config
    count = module.split(teacher.num_attention_heads)
    for width in (module.student.config.hidden_size, teacher.hidden_size):
        if count is not None and width % count:
            raise UserError(
                f"{count} relation heads do not divide the width {width}; choose a number that divides "
                "the widths of student and teacher."
            )
    what = None if count is None else "qk"

    def tensors(rows: np.ndarray) -> dict[str, Tensor]:
        inputs, kept = train.batch(rows, accelerator.device), cache.kept(rows)
        return inputs if kept is None else inputs | {"kept": kept}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, MeanLoss]:
        inputs = _inputs(batch)
        losses = model(inputs, *cache.targets(inputs, batch.get("kept"), what))
        return {key: MeanLoss(value, terms(key)) for key, value in losses.items()}

    module.to(accelerator.device).train()
    history = fit(
        name, module, loss, train.lengths, settings, folder, accelerator, tensors=tensors, **options
    )
    module.student.requires_grad_(True)
    return history


def prediction_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    multi_label: bool = False,
) -> Tensor:
    """Loss of the prediction step, both sides (texts, classes), averaged over texts.

    Soft cross-entropy at a temperature (equation 10), or with `multi_label` its form for several
    labels per text; mean squared error where there is one class, that is, for a regression.
    """
    if multi_label:
        return sigmoid_cross_entropy(student_logits, teacher_logits, temperature)
    if student_logits.shape[-1] == 1:
        return regression_loss(student_logits, teacher_logits)
    return soft_cross_entropy(student_logits, teacher_logits, temperature)


def distill_prediction(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    train: TokenizedDataset,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    temperature: float = 1.0,
    score: Callable[[], float] | None = None,
    name: str = "prediction",
    teacher_logits: Tensor | None = None,
    **options,
) -> History:
    """Prediction-layer distillation (equation 10); for other tasks see `prediction_loss`.

    `teacher_logits` are the teacher's logits (texts, classes); without them they are computed here
    once. Hard labels are not used.
    """
    if teacher_logits is None:
        teacher.to(accelerator.device).eval()
        teacher_logits = torch.from_numpy(predict(teacher, train))
    logits_of_teacher = teacher_logits.cpu()
    multi_label = student.config.problem_type == MULTI_LABEL

    def tensors(rows: np.ndarray) -> dict[str, Tensor]:
        inputs = train.batch(rows, accelerator.device)
        targets = to_device(logits_of_teacher[rows], accelerator.device)
        return inputs | {"teacher_logits": targets}

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = module(**_inputs(batch)).logits
        targets = batch["teacher_logits"]
        return {"prediction": prediction_loss(logits, targets, temperature, multi_label)}

    student.requires_grad_(True).to(accelerator.device).train()
    return fit(
        name, student, loss, train.lengths, settings, folder, accelerator, score,
        tensors=tensors, **options,
    )  # fmt: skip
