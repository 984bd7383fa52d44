"""Scores, sizes and speed of models."""

import statistics
import time

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from tinybert_lite.data.tokenized import TokenizedDataset, length_sorted_batches


@torch.inference_mode()
def predict(model: nn.Module, data: TokenizedDataset, batch_size: int = 64) -> np.ndarray:
    """Logits (texts, classes) of a classifier, float32, in the order of the texts."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = None
    for rows in length_sorted_batches(data.lengths, batch_size):
        got = model(**data.batch(rows, device)).logits.float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(data), got.shape[1]), dtype=np.float32)
        logits[rows] = got
    model.train(was_training)
    return logits if logits is not None else np.empty((0, 0), np.float32)


@torch.inference_mode()
def latency(
    models: dict[str, PreTrainedModel], batch: int = 1, tokens: int = 128, repeats: int = 10
) -> dict[str, float]:
    """Milliseconds of one forward pass of each model, median, the models taking turns.

    Input is random words, (batch, tokens) without padding.
    """
    words = min(model.config.vocab_size for model in models.values())
    ids = torch.randint(words, (batch, tokens))
    mask = torch.ones_like(ids)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 2):
        for name, model in models.items():
            device = next(model.parameters()).device
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            _wait(device)
            start = time.perf_counter()
            model.eval()(**inputs)
            _wait(device)
            if turn >= 2:  # the first two warm up
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(t) for name, t in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
