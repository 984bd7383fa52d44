"""Training speed: each phase in the package's loop (optimized) against the reference procedure."""

import copy
import dataclasses
import functools
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinybert_lite import distillation, teacher_cache
from tinybert_lite.benchmark.config import BASELINE_BATCH, CACHE_EPOCHS
from tinybert_lite.benchmark.reference import ReferenceTrainer
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.data.tokenized import TokenizedDataset, length_sorted_batches
from tinybert_lite.models import inference
from tinybert_lite.students import Projection
from tinybert_lite.training import TrainingConfig

logger = logging.getLogger(__name__)
STEPS = 20  # of one round; a GPU does ten times as many in the time


@dataclasses.dataclass
class OptimizedPhase:
    """One phase as `run` trains it: what is done once for all epochs, and one epoch of its loop."""

    build: Callable[[], nn.Module]
    train: Callable[[Any, TrainingConfig, Path, Callable], object]
    teacher_seconds: float = 0.0
    cache_bytes: int = 0


def optimized_phase(setup: BenchmarkSetup, phase: str, data: TokenizedDataset) -> OptimizedPhase:
    """The optimized side of a phase, with the teacher's outputs computed and that time taken."""
    rest: dict[str, Any] = {"accelerator": setup.accelerator, "progress": False}
    if phase == "finetune":
        return OptimizedPhase(
            lambda: copy.deepcopy(setup.teacher),
            lambda model, config, folder, on_step: distillation.finetune(
                model, data, config, folder, on_step=on_step, **rest
            ),
        )
    if phase == "prediction":

        def predict() -> torch.Tensor:
            with setup.precision():
                return torch.from_numpy(inference.predict(setup.teacher, data))

        logits = predict()  # warm-up
        seconds = setup.timed(predict)
        return OptimizedPhase(
            lambda: setup.student()[0],
            lambda model, config, folder, on_step: distillation.distill_prediction(
                model,
                setup.teacher,
                data,
                config,
                folder,
                teacher_logits=logits,
                on_step=on_step,
                **rest,
            ),
            seconds,
            logits.nbytes,
        )
    caches: list[teacher_cache.TeacherCache] = []

    def fill() -> None:
        caches.clear()  # free the old one first: it may fill a gigabyte
        with setup.precision():
            caches.append(
                teacher_cache.TeacherCache(setup.teacher, data, setup.mapping, keep_bytes=2**36)
            )

    fill()  # warm-up
    seconds = setup.timed(fill)
    return OptimizedPhase(
        lambda: distillation.IntermediateLoss(*setup.student(), setup.mapping),
        lambda model, config, folder, on_step: distillation.distill_intermediate(
            model, caches[0], data, config, folder, on_step=on_step, **rest
        ),
        seconds,
        caches[0].store.nbytes,
    )


def baseline_epoch(
    setup: BenchmarkSetup,
    phase: str,
    data: TokenizedDataset,
    config: TrainingConfig,
    dropout: float,
) -> Callable[[], float]:
    """One epoch of the reference procedure, as a function that returns its seconds."""
    trainer = ReferenceTrainer(setup, data, config, dropout)
    if phase == "finetune":
        trainer.teacher = copy.deepcopy(setup.teacher)
        trainer.begin(trainer.teacher)
    else:
        trainer.begin(trainer.student, *([trainer.projection] if phase == "intermediate" else []))
    step = trainer.steps[phase]

    def epoch() -> float:
        trainer.step_number = 0
        return setup.timed(lambda: [step(rows) for rows in trainer.batches(0)])

    return epoch


def measure_training(
    setup: BenchmarkSetup, phase: str, steps: int = 0, batch_size: int = BASELINE_BATCH
) -> dict:
    """Texts and real tokens per second of one phase, baseline and optimized, and the speedup.

    A round is as many texts as `steps` batches of 32 have (0: 20 of them, on a GPU 200). With a
    `batch_size` other than 32 the optimized side is measured twice: with 32 texts per step, as the
    baseline, and with that. The teacher's one pass is spread over `CACHE_EPOCHS` epochs. On a GPU
    the optimized side is timed in its second epoch, after it has recorded its CUDA graphs.
    """
    steps = steps or (10 * STEPS if setup.cuda else STEPS)
    data = setup.slice(min(len(setup.data["train"]), steps * BASELINE_BATCH))
    config = TrainingConfig(
        epochs=1, learning_rate=1e-3 if phase == "intermediate" else 3e-4, save_seconds=math.inf
    )
    sides = {"baseline": baseline_epoch(setup, phase, data, config, 0.0)}
    if phase != "finetune":  # where the teacher's own dropout is on, both ways
        sides["baseline with dropout"] = baseline_epoch(setup, phase, data, config, 0.1)
    optimized = optimized_phase(setup, phase, data)
    sizes = {"optimized": BASELINE_BATCH}
    if batch_size != BASELINE_BATCH:
        sizes[f"optimized, batch {batch_size}"] = batch_size

    def epoch(size: int, model: nn.Module) -> float:
        how = dataclasses.replace(config, batch_size=size, epochs=2 if setup.cuda else 1)
        marks: list[tuple[int, float]] = []  # the losses have been read: the device is done

        def mark(step: int, losses: dict) -> None:
            marks.append((step, time.perf_counter()))

        with tempfile.TemporaryDirectory() as folder:
            seconds = setup.timed(lambda: optimized.train(model, how, Path(folder), mark))
        per_epoch = math.ceil(len(data) / size)
        second = [mark for mark in marks if mark[0] >= per_epoch]
        if not setup.cuda or len(second) < 2:
            return seconds / how.epochs
        (first, began), (last, ended) = second[0], second[-1]
        return (ended - began) / (last - first) * per_epoch

    for name, size in sizes.items():
        sides[name] = functools.partial(epoch, size, optimized.build())
    measured = setup.interleaved(sides)
    for name, size in sizes.items():
        seconds_per_step = measured[name]["seconds"] / math.ceil(len(data) / size)
        measured[name] |= {"batch": size, "seconds_per_step": seconds_per_step}
        measured[name]["seconds"] += optimized.teacher_seconds / CACHE_EPOCHS
    return _rates(measured, data) | {
        "teacher_pass_seconds": round(optimized.teacher_seconds, 3),
        "teacher_cache_bytes": optimized.cache_bytes,
        "padded_to": setup.padded,
    }


def _rates(measured: dict[str, dict], data: TokenizedDataset) -> dict[str, Any]:
    """Add rates and ratios to the seconds of each side."""
    tokens = int(data.offsets[-1])
    baseline, optimized = (measured[name]["seconds"] for name in ("baseline", "optimized"))
    for side in measured.values():
        side["texts_per_second"] = round(len(data) / side["seconds"], 1)
        side["tokens_per_second"] = round(tokens / side["seconds"], 1)
        side["speedup"] = round(baseline / side["seconds"], 2)
        side["optimized_speedup"] = round(side["seconds"] / optimized, 2)
    about = {"texts": len(data), "mean_tokens": round(tokens / len(data), 1)}
    return measured | {"speedup": measured["optimized"]["speedup"]} | about


def full_training(setup: BenchmarkSetup, epochs: float = CACHE_EPOCHS) -> dict:
    """All of intermediate distillation on the task, once each way: seconds and final dev losses."""
    train = setup.data["train"]
    config = TrainingConfig(epochs=epochs, learning_rate=1e-3, save_seconds=math.inf)
    started = time.perf_counter()
    student, projection = setup.student()
    module = distillation.IntermediateLoss(student, projection, setup.mapping)
    with setup.precision():
        cache = teacher_cache.TeacherCache(setup.teacher, train, setup.mapping, keep_bytes=2**36)
    setup.wait()
    teacher_seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_intermediate(
            module, cache, train, config, Path(folder), setup.accelerator, progress=False
        )
    setup.wait()
    measured: dict[str, Any] = {
        "optimized": {
            "seconds": time.perf_counter() - started,
            "teacher_pass_seconds": teacher_seconds,
            "losses": dev_losses(setup, student, projection),
        }
    }
    logger.info("optimized: %.0f s", measured["optimized"]["seconds"])
    trainer = ReferenceTrainer(setup, train, config)
    trainer.begin(trainer.student, trainer.projection)
    seconds = setup.timed(lambda: trainer.train(trainer.intermediate))
    losses = dev_losses(setup, trainer.student, trainer.projection)
    measured["baseline"] = {"seconds": seconds, "losses": losses}
    sums = {name: sum(side["losses"].values()) for name, side in measured.items()}
    return measured | {
        "speedup": round(seconds / measured["optimized"]["seconds"], 2),
        "loss_difference": round(sums["optimized"] / sums["baseline"] - 1, 4),
        "epochs": epochs,
    }


@torch.no_grad()
def dev_losses(setup: BenchmarkSetup, student: Any, projection: Projection) -> dict:
    """Mean intermediate losses of a student on the dev texts, by name."""
    dev = setup.data["dev"]
    module = distillation.IntermediateLoss(student, projection, setup.mapping)
    module.to(setup.device).eval()
    cache = teacher_cache.TeacherCache(setup.teacher, dev, setup.mapping)
    sums: dict[str, float] = {}
    for rows in length_sorted_batches(dev.lengths, BASELINE_BATCH):
        inputs = dev.batch(rows, setup.device)
        for key, loss in module(inputs, *cache(rows, inputs)).items():
            sums[key] = sums.get(key, 0.0) + loss.item() * len(rows) / len(dev)
    return sums
