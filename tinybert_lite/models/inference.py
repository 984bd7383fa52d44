"""Logits and latency of classifiers, in torch or in another runtime."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinybert_lite.data.tokenized import TokenizedDataset, length_sorted_batches

Classifier = nn.Module | Callable[..., np.ndarray]


@contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Torch models in evaluation mode, without gradients; then in the mode they were in before."""
    training = [model for model in models if isinstance(model, nn.Module) and model.training]
    for model in training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model in training:
            model.train()


def logits_of(model: Classifier, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """Logits (batch, classes), float32, of a torch classifier or of a function of the inputs."""
    if not isinstance(model, nn.Module):
        return model(**inputs)
    device = next(model.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    return model(**moved).logits.float().cpu().numpy()


def predict(model: Classifier, data: TokenizedDataset, batch_size: int = 64) -> np.ndarray:
    """Logits (texts, classes) of a classifier, float32, in the order of the texts."""
    logits = np.empty((0, 0), np.float32)
    with evaluating(model):
        for rows in length_sorted_batches(data.lengths, batch_size):
            batch = logits_of(model, data.batch(rows))
            if not len(logits):
                logits = np.empty((len(data), batch.shape[1]), np.float32)
            logits[rows] = batch
    return logits


def latencies(
    models: Mapping[str, Any],
    batch: int = 1,
    tokens: int = 128,
    repeats: int = 50,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Milliseconds of each of `repeats` passes through each model, the models taking turns.

    Input is random tokens, (batch, tokens) without padding, tensors in, logits out; two passes of
    each warm it up. All run on the same number of threads where `threads` was left to them.
    """
    vocabulary = min(m.config.vocab_size for m in models.values() if hasattr(m, "config"))
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (batch, tokens), generator=draw)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times = {name: np.empty(repeats) for name in models}
    with evaluating(*models.values()):
        for turn in range(-2, repeats):
            for name, model in models.items():
                start = time.perf_counter()
                logits_of(model, inputs)
                if turn >= 0:
                    times[name][turn] = (time.perf_counter() - start) * 1000
    return times


def latency(
    models: Mapping[str, Any], batch: int = 1, tokens: int = 128, repeats: int = 10
) -> dict[str, float]:
    """Median milliseconds of one forward pass of each model; see `latencies`."""
    times = latencies(models, batch, tokens, repeats)
    return {name: float(np.median(each)) for name, each in times.items()}
