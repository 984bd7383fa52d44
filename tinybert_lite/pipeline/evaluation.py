"""Scores, sizes and speed of models."""

import platform

import numpy as np
import torch
from torch import nn

from tinybert_lite import UserError
from tinybert_lite.data.tasks import Task
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.models.inference import predict
from tinybert_lite.models.loading import (
    load_classifier,
    match_task,
    max_tokens,
)
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.validation import load_task, validate


def predicted_labels(task: Task, logits: np.ndarray) -> np.ndarray:
    """Predictions from logits: class indices (texts,), or numbers for a regression task.

    Where a text may have several labels: (texts, labels) of 0 and 1, 1 where the probability is
    over a half.
    """
    if task.kind == "multilabel":
        return (logits > 0).astype(float)
    return logits[:, 0] if task.kind == "regression" else logits.argmax(1)


def score(task: Task, model: nn.Module, data: TokenizedDataset) -> dict[str, float]:
    """The metrics of a model on labeled texts."""
    assert data.labels is not None
    return task.score(predicted_labels(task, predict(model, data)), data.labels)


def environment() -> dict[str, str | int]:
    """Versions and hardware that a measurement should name."""
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def evaluate_model(
    options: DistillationConfig, model: str, split: str = "test", cpu: bool = False
) -> dict[str, float]:
    """All metrics of a classifier on one split of a task, on a GPU if there is one."""
    validate(options)
    task = load_task(options)
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no split {split!r}; choose one of {', '.join(task.splits)}."
        )
    classifier, tokenizer = load_classifier(model)
    match_task(classifier, model, task.kind, task.label_names)
    s = task.splits[split]
    length = max_tokens(options.max_length, classifier.config, tokenizer)
    data = tokenize(tokenizer, s.texts, s.pairs, s.labels, length)
    if torch.cuda.is_available() and not cpu:
        classifier.to("cuda")
    return score(task, classifier, data)
