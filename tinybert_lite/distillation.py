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
from tinybert_lite.data.tokenized import TokenizedDataset
from tinybert_lite.losses import (
    attention_loss,
    attention_loss_gram,
    hidden_loss,
    regression_loss,
    soft_cross_entropy,
)
from tinybert_lite.models.inference import predict
from tinybert_lite.students import Projection
from tinybert_lite.teacher_cache import TeacherCache
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
    """Train a classifier on hard labels (or numbers), in place."""
    regression = teacher.config.num_labels == 1
    labels = torch.from_numpy(train.labels).to(accelerator.device)

    def loss(module: nn.Module, rows: np.ndarray) -> dict[str, Tensor]:
        logits = module(**train.batch(rows, accelerator.device)).logits.float()
        gold = labels[rows]
        if regression:
            return {"label": F.mse_loss(logits[:, 0], gold.float())}
        return {"label": F.cross_entropy(logits, gold)}

    teacher.to(accelerator.device).train()
    return fit(name, teacher, loss, train.lengths, settings, folder, accelerator, score, **options)


class IntermediateLoss(nn.Module):
    """Student and projection with the intermediate losses: equations 7, 8 and 9.

    `mapping` is g(0…M). Attention is compared in the form in which its targets come: queries and
    keys by the Gram identity, scores as they are. `parts` are the losses that count, of
    "attention", "hidden" and "embedding".
    """

    def __init__(
        self,
        student: PreTrainedModel,
        projection: Projection,
        mapping: list[int],
        parts: tuple[str, ...] = ("attention", "hidden", "embedding"),
        normalize: str = "tokens",
    ):
        super().__init__()
        self.student, self.projection, self.mapping = student, projection, mapping
        self.parts, self.normalize = parts, normalize
        # What no intermediate loss reaches is not trained (nor waited for by several processes).
        encoder = student.base_model
        for module in (getattr(encoder, "pooler", None), getattr(student, "classifier", None)):
            if module is not None:
                module.requires_grad_(False)

    def forward(
        self, inputs: dict[str, Tensor], target_hidden: list[Tensor], target_attention: list
    ) -> dict[str, Tensor]:
        """Losses by name: attention.m for m = 1…M, hidden.m, and embedding."""
        mask = inputs["attention_mask"]
        what = "qk" if isinstance(target_attention[0], tuple) else "scores"
        got = capture(self.student.base_model, inputs, what)
        losses = {}
        if "attention" in self.parts:
            loss = attention_loss if what == "scores" else attention_loss_gram
            for m, (ours, theirs) in enumerate(zip(got.attention, target_attention), start=1):
                losses[f"attention.{m}"] = loss(ours, theirs, mask, self.normalize)
        for m, (ours, theirs) in enumerate(zip(got.hidden, target_hidden)):
            key = f"hidden.{m}" if m else "embedding"
            if key.split(".")[0] in self.parts:
                projection = self.projection(m)
                losses[key] = hidden_loss(ours, theirs, projection, mask, self.normalize)
        return losses


def terms(name: str) -> Callable[[np.ndarray], float]:
    """Number of terms that a loss of `IntermediateLoss` is the mean of, from the texts' lengths.

    Attention is a mean over pairs of tokens, hidden states and embeddings are means over tokens.
    """
    power = 2 if name.startswith("attention") else 1
    return lambda lengths: (lengths.astype(float) ** power).sum()


def distill_intermediate(
    module: IntermediateLoss,
    answers: TeacherCache,
    train: TokenizedDataset,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    name: str = "intermediate",
    **options,
) -> History:
    """Intermediate distillation, of stage 1 on general text or of stage 2 on task text.

    Raises UserError when student and teacher do not have the same number of heads.
    """
    ours = module.student.config.num_attention_heads
    theirs = answers.teacher.config.num_attention_heads
    if ours != theirs:
        raise UserError(
            f"The student has {ours} heads and the teacher {theirs}: equation 7 compares them one "
            f"by one; build the student with {theirs} heads."
        )

    def loss(model: nn.Module, rows: np.ndarray) -> dict[str, MeanLoss]:
        inputs = train.batch(rows, accelerator.device)
        losses = model(inputs, *answers(rows, inputs))
        return {key: MeanLoss(value, terms(key)) for key, value in losses.items()}

    module.to(accelerator.device).train()
    history = fit(name, module, loss, train.lengths, settings, folder, accelerator, **options)
    module.student.requires_grad_(True)
    return history


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
    """Prediction-layer distillation (equation 10); a regression's target is the teacher's number.

    `teacher_logits` are the teacher's logits (texts, classes); without them the teacher is asked
    once. Gold labels are never looked at.
    """
    if teacher_logits is None:
        teacher.to(accelerator.device).eval()
        teacher_logits = torch.from_numpy(predict(teacher, train))
    teacher_logits = teacher_logits.to(accelerator.device)
    regression = student.config.num_labels == 1

    def loss(module: nn.Module, rows: np.ndarray) -> dict[str, Tensor]:
        logits = module(**train.batch(rows, accelerator.device)).logits
        if regression:
            return {"prediction": regression_loss(logits, teacher_logits[rows])}
        return {"prediction": soft_cross_entropy(logits, teacher_logits[rows], temperature)}

    student.requires_grad_(True).to(accelerator.device).train()
    return fit(name, student, loss, train.lengths, settings, folder, accelerator, score, **options)
