"""Speed of each part of the package, the compared sides taking turns in one process.

Medians of several rounds after a warm-up. Training is compared with the authors' procedure
(`reference`), and with the least time that its operations and bytes need (`roofline`).
"""

import functools
import importlib.util
import itertools
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinybert_lite import students
from tinybert_lite.benchmark.config import FULL, TRAINING_PARTS, BenchmarkConfig
from tinybert_lite.benchmark.roofline import add_roofline, machine_rates
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.benchmark.training_speed import full_training, measure_training
from tinybert_lite.data import tasks
from tinybert_lite.losses import attention_loss, attention_loss_gram
from tinybert_lite.models import inference
from tinybert_lite.pipeline import evaluation

logger = logging.getLogger(__name__)
REPEATS = 5  # passes of the attention loss that one reading is the mean of


def run(config: BenchmarkConfig, task: tasks.Task | None = None) -> dict:
    """Measure the parts of the configuration; the measurements, with the machine they are from."""
    config.check()
    setup = BenchmarkSetup(config, task)
    rates = machine_rates(setup)
    measured: dict[str, Any] = {
        "size": config.size,
        "task": setup.task.name if setup.task else "random texts",
        "environment": evaluation.environment(),
        "machine_rates": rates,
    }
    for part in config.parts:
        if part in TRAINING_PARTS:
            measured[part] = measure_training(setup, part, config.steps, config.batch_size)
            # the speed of a shared machine varies: the faster of before and after
            after = machine_rates(setup)
            best = {key: max(rates[key], after[key]) for key in rates}
            add_roofline(setup, part, measured[part], best)
            measured[part]["machine_rates"], rates = best, after
        elif part == "attention":
            measured[part] = measure_attention(setup)
        elif part == "inference":
            measured[part] = measure_inference(setup)
        elif part == "startup":
            measured[part] = measure_startup()
        elif part == FULL:
            measured[part] = full_training(setup, config.epochs)
        for line in summary(part, measured[part]):
            logger.info(line)
    return measured


def summary(part: str, measured: dict) -> list[str]:
    """The measurements of a part, as lines."""
    if part in TRAINING_PARTS:
        sides = {n: s for n, s in measured.items() if isinstance(s, dict) and "speedup" in s}
        rates = (
            f"{name} {side['texts_per_second']} texts/s (speedup {side['speedup']})"
            for name, side in sides.items()
        )
        steps = (
            str(side["roofline"]["measured_over_roofline"])
            for side in sides.values()
            if "roofline" in side
        )
        return [f"{part}: {', '.join(rates)}; a step takes {' and '.join(steps)} × its roofline"]
    if part == "attention":
        ratios = (f"{v['speedup']} at {l} tokens" for l, v in measured.items() if l.isdigit())
        return [f"attention loss, time of maps / time of Gram form: {', '.join(ratios)}"]
    if part == "inference":
        return [
            f"inference {shape}: "
            + ", ".join(f"{name} {side['ms']} ms ({side['speedup']} ×)" for name, side in s.items())
            for shape, s in measured.items()
        ]
    if part == "startup":
        return ["startup: " + ", ".join(f"{name} {s} s" for name, s in measured.items())]
    return [
        f"{part}: baseline {measured['baseline']['seconds']:.0f} s, optimized "
        f"{measured['optimized']['seconds']:.0f} s, speedup {measured['speedup']}, final loss "
        f"{measured['loss_difference']:+.2%}"
    ]


def measure_attention(
    setup: BenchmarkSetup, lengths=(28, 64, 128, 256, 512), batch: int = 8, heads: int = 12
) -> dict:
    """Equation 7 with its gradients: score maps written out against the Gram form, by length."""
    measured: dict[str, Any] = {}
    config, student_width = setup.teacher.config, 16
    width = config.hidden_size // config.num_attention_heads
    for l in lengths:
        draw = torch.Generator().manual_seed(0)
        q, k, q_teacher, k_teacher = (
            torch.randn(batch, heads, l, d, generator=draw).to(setup.device)
            for d in (student_width, student_width, width, width)
        )
        q.requires_grad_()
        k.requires_grad_()
        mask = torch.ones(batch, l, device=setup.device)

        def maps(q=q, k=k, q_teacher=q_teacher, k_teacher=k_teacher, mask=mask) -> None:
            scores = q @ k.transpose(-1, -2) * student_width**-0.5
            teacher_scores = q_teacher @ k_teacher.transpose(-1, -2) * width**-0.5
            attention_loss(scores, teacher_scores, mask).backward()

        def gram(q=q, k=k, q_teacher=q_teacher, k_teacher=k_teacher, mask=mask) -> None:
            attention_loss_gram((q, k), (q_teacher, k_teacher), mask).backward()

        def mean_seconds(function: Callable[[], Any]) -> float:
            return setup.timed(lambda: [function() for _ in range(REPEATS)]) / REPEATS

        forms = {"maps": maps, "gram": gram}
        sides = {name: functools.partial(mean_seconds, form) for name, form in forms.items()}
        seconds = setup.interleaved(sides, 5)
        ratio = seconds["maps"]["seconds"] / seconds["gram"]["seconds"]
        measured[str(l)] = seconds | {"speedup": round(ratio, 2)}
    d_k = {"student": student_width, "teacher": width}
    return measured | {"batch": batch, "heads": heads, "d_k": d_k}


def measure_inference(setup: BenchmarkSetup, repeats: int = 7) -> dict:
    """Milliseconds of teacher and students by batch × tokens, and the speedup over the teacher.

    On a CPU also in ONNX Runtime where it is installed, compared with the teacher's ONNX model.
    """
    presets = ("lite", "nano") if setup.task else ("tinybert4",)
    models: dict[str, Any] = {"teacher": setup.teacher} | {
        preset: students.build_student(setup.teacher.config, preset, 0).to(setup.device)
        for preset in presets
    }
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        if not setup.cuda and importlib.util.find_spec("onnxruntime"):
            from tinybert_lite.deploy import onnx_export

            inputs = ["input_ids", "attention_mask"]
            for name, model in list(models.items()):
                file = onnx_export.to_onnx(model, Path(folder, name), inputs)
                models[f"{name} in ONNX Runtime"] = onnx_export.OnnxClassifier(file)
        for batch, tokens in itertools.product((1, 8, 32), (16, 64, 128)):
            times = inference.latencies(models, batch, tokens, repeats)
            ms = {name: float(np.median(each)) for name, each in times.items()}
            measured[f"{batch} x {tokens}"] = {
                name: {
                    "ms": round(ms[name], 3),
                    "speedup": round(ms["teacher" + name[len(name.split()[0]) :]] / ms[name], 2),
                }
                for name in ms
            }
    return measured


def measure_startup(repeats: int = 5) -> dict[str, float]:
    """Seconds until `import tinybert_lite` and `--help` are done, median of fresh processes."""
    commands = {
        "import": ["-c", "import tinybert_lite, sys; assert 'torch' not in sys.modules"],
        "help": ["-m", "tinybert_lite", "--help"],
        "python alone": ["-c", ""],
    }
    measured = {}
    for name, command in commands.items():
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
        measured[name] = round(statistics.median(seconds[1:]), 3)
    return measured
