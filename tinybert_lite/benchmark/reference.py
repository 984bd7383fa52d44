"""The baseline: the authors' procedure with stock parts, one step after the other."""

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinybert_lite.attention import capture
from tinybert_lite.benchmark.config import BASELINE_BATCH
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.data.tokenized import TokenizedDataset
from tinybert_lite.losses import attention_loss, hidden_loss, soft_cross_entropy
from tinybert_lite.training import TrainingConfig, learning_rate_at


class ReferenceTrainer:
    """float32, batches of 32 padded to the maximum, the teacher run at every step, stock AdamW.

    `dropout` is the student's and the teacher's. In the authors' code both have 0.1, the teacher
    because it is left in training mode; with 0 both sides have the same losses.
    """

    def __init__(
        self,
        setup: BenchmarkSetup,
        data: TokenizedDataset,
        config: TrainingConfig,
        dropout: float = 0.0,
    ):
        self.setup, self.data, self.config = setup, data, config
        self.student, self.projection = setup.student(config.seed)
        self.teacher = setup.teacher
        if dropout:
            self.teacher = copy.deepcopy(setup.teacher).train()
            for part in (*self.teacher.modules(), *self.student.modules()):
                if isinstance(part, nn.Dropout):
                    part.p = dropout
        self.step_number = 0
        self.total = round(config.epochs * math.ceil(len(data) / BASELINE_BATCH))
        self.steps: dict[str, Callable[[np.ndarray], float]] = {
            "intermediate": self.intermediate,
            "prediction": self.prediction,
            "finetune": self.finetune,
        }

    def begin(self, *modules: nn.Module) -> None:
        """Make the optimizer of these modules."""
        self.trained = [p for m in modules for p in m.parameters() if p.requires_grad]
        decay, rest = ([p for p in self.trained if (p.ndim > 1) is m] for m in (True, False))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.config.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
        )

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch, in random order."""
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.data))
        return [order[i : i + BASELINE_BATCH] for i in range(0, len(order), BASELINE_BATCH)]

    def inputs(self, rows: np.ndarray) -> dict[str, Tensor]:
        """A batch (texts, padded length) on the device."""
        batch = self.data.batch(rows)
        missing = self.setup.padded - batch["input_ids"].shape[1]
        return {
            key: F.pad(t, (0, missing), value=self.data.pad if key == "input_ids" else 0).to(
                self.setup.device
            )
            for key, t in batch.items()
        }

    def update(self, loss: Tensor) -> None:
        """One optimizer step."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step_number, self.total, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1

    def train(self, step: Callable[[np.ndarray], float]) -> None:
        """All steps of the configured epochs, each by `step`, a method below."""
        for epoch in itertools.count():
            for rows in self.batches(epoch):
                if self.step_number == self.total:
                    return
                step(rows)

    def intermediate(self, rows: np.ndarray) -> float:
        """One step on equations 7 to 9, score maps written out; its loss."""
        inputs = self.inputs(rows)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            teacher = capture(self.teacher, inputs, "scores")
        student = capture(self.student.base_model.train(), inputs, "scores")
        loss = torch.zeros((), device=self.setup.device)
        for m, g in enumerate(self.setup.mapping):
            loss = loss + hidden_loss(
                student.hidden[m], teacher.hidden[g], self.projection(m), mask
            )
            if m:
                scores = student.attention[m - 1], teacher.attention[g - 1]
                loss = loss + attention_loss(*scores, mask)
        self.update(loss)
        return loss.item()

    def prediction(self, rows: np.ndarray) -> float:
        """One step on equation 10; its loss."""
        inputs = self.inputs(rows)
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        loss = soft_cross_entropy(self.student.train()(**inputs).logits, teacher_logits)
        self.update(loss)
        return loss.item()

    def finetune(self, rows: np.ndarray) -> float:
        """One step of the teacher on hard labels; its loss."""
        assert self.data.labels is not None
        labels = torch.from_numpy(self.data.labels[rows]).to(self.setup.device)
        loss = F.cross_entropy(self.teacher.train()(**self.inputs(rows)).logits, labels)
        self.update(loss)
        return loss.item()
