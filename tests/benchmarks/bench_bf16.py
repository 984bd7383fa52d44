"""What `--bf16` saves on this processor: the teacher's pass, and intermediate steps.

    python -m tests.benchmarks.bench_bf16 [--threads 2] [--texts 1280] [--epochs 4]

Reviews, the shipped teacher, lite from the SVD start, batches of 32; float32 and bfloat16 take turns
in one process. It is fast only where the processor has instructions for it (`training.has_bf16`);
elsewhere `run` refuses it, and this script shows why. How far the teacher's answers move is printed
as well.
"""

import argparse
import time

import numpy as np
import torch

from tinybert_lite import students
from tinybert_lite.data import tasks
from tinybert_lite.data.tokenized import length_grouped_batches, tokenize
from tinybert_lite.distillation import IntermediateLoss
from tinybert_lite.models import inference, loading
from tinybert_lite.models.loading import quiet_libraries
from tinybert_lite.teacher_cache import TeacherCache

MAPPING, SIDES = [0, 2, 4, 6], (False, True)


def autocast(on: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def teacher_pass(teacher, data, on: bool) -> tuple[float, np.ndarray]:
    """Seconds of the teacher's pass over all texts, and its logits (texts, classes)."""
    started = time.perf_counter()
    with autocast(on):
        logits = inference.predict(teacher, data)
    return time.perf_counter() - started, logits


def epoch(module, optimizer, cache, data, batches, on: bool) -> tuple[float, float]:
    """Seconds of one epoch of intermediate steps, and its mean loss."""
    started, losses = time.perf_counter(), []
    for rows in batches:
        inputs = data.batch(rows)
        targets = cache(rows, inputs)
        with autocast(on):
            loss = torch.stack(list(module(inputs, *targets).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.perf_counter() - started, float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=1280)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    teacher, tokenizer = loading.load_classifier("reviews-teacher")
    data = tokenize(tokenizer, tasks.load_task("reviews").splits["train"].texts[: options.texts])
    batches = length_grouped_batches(data.lengths, 32, 0, 0)
    passes, logits = {on: [] for on in SIDES}, {}
    for _ in range(options.epochs):
        for on in SIDES:
            seconds, logits[on] = teacher_pass(teacher, data, on)
            passes[on].append(seconds)
    cache, sides = TeacherCache(teacher, data, MAPPING, keep_bytes=2**33), {}
    for on in SIDES:
        student = students.build_student(teacher.config, "lite", 0)
        projection = students.Projection(192, 384, "paper", 0)
        students.svd_init(student, projection, teacher)
        module = IntermediateLoss(student, projection, MAPPING).train()
        trained = [p for p in module.parameters() if p.requires_grad]
        sides[on] = module, torch.optim.AdamW(trained, lr=1e-3, fused=True)
    steps = {on: [] for on in SIDES}
    for _ in range(options.epochs):
        for on in SIDES:
            steps[on].append(epoch(*sides[on], cache, data, batches, on))
    for name, seconds in (
        ("teacher's pass", passes),
        ("intermediate steps", {on: [s for s, _ in found] for on, found in steps.items()}),
    ):
        rates = [len(data) / np.median(seconds[on][1:]) for on in SIDES]  # the first warms up
        print(f"{name}: {rates[0]:.1f} texts/s in float32, {rates[1]:.1f} in bfloat16, ", end="")
        print(f"{rates[1] / rates[0]:.2f} times as fast")
    moved = np.abs(logits[True] - logits[False]).mean()
    same = (logits[True].argmax(1) == logits[False].argmax(1)).mean()
    print(f"teacher's logits: {moved:.4f} apart on average, the same class for {same:.2%}")
    last = [steps[on][-1][1] for on in SIDES]
    print(f"loss of the last epoch: {last[0]:.4f} and {last[1]:.4f} ({last[1] / last[0] - 1:+.2%})")


if __name__ == "__main__":
    main()
