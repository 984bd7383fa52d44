"""What each optimization of intermediate distillation is worth: one switched off at a time.

    python tests/benchmarks/bench_switches.py [--steps 20] [--rounds 3] [--device cuda]

The reviews teacher and the lite student, batches of 32 review sentences; all variants take
turns in one process. Writes data/results/switches.json.
"""

import argparse
import contextlib
import dataclasses
import functools
import math
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tinybert_lite import distillation, losses, teacher_cache, training
from tinybert_lite.benchmark.config import BASELINE_BATCH, BenchmarkConfig
from tinybert_lite.benchmark.setup import PADDED, BenchmarkSetup
from tinybert_lite.data import atomic_files, paths, tokenized
from tinybert_lite.models.loading import quiet_libraries
from tinybert_lite.pipeline import evaluation

RESULT = paths.DATA / "results" / "switches.json"


@dataclasses.dataclass
class Padded(tokenized.TokenizedDataset):
    """Texts whose batches are all padded to one length."""

    to: int = PADDED

    def positions(self, rows: np.ndarray, multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[rows]
        column = np.arange(self.to)
        real = column < lengths[:, None]
        return np.where(real, self.offsets[rows][:, None] + column, 0), real


def mixed_lengths(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of any length, padded to their longest."""
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    return [order[i : i + size] for i in range(0, len(order), size)]


def squares(student: torch.Tensor, teacher: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """What equations 7 and 8 sum, its gradient found by autograd."""
    return (student - teacher).masked_fill(keep == 0, 0.0).square().sum()


def variants(setup: BenchmarkSetup, data: tokenized.TokenizedDataset) -> dict:
    """Name → (texts, what, keep_bytes, patches): the package's loop, and each switch off."""
    stock_adamw = functools.partial(torch.optim.AdamW)

    def unfused(*args, fused=None, **options):
        return stock_adamw(*args, **options)

    padded = Padded(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    keep = 2**36
    return {
        "optimized": (data, "auto", keep, []),
        "Gram form for short texts too": (data, "qk", keep, []),
        "score maps written out": (data, "scores", keep, []),
        "teacher run at every step": (data, "auto", 0, []),
        "teacher's outputs in a file": (data, "auto", keep, []),
        "batches of mixed lengths": (data, "auto", keep, [mock.patch.object(training, "length_grouped_batches", mixed_lengths)]),
        "padded to 64": (padded, "auto", keep, []),
        "AdamW not fused": (data, "auto", keep, [mock.patch.object(torch.optim, "AdamW", unfused)]),
        "no clipping": (data, "auto", keep, []),
        "gradient of squares by autograd": (
            data, "auto", keep, [mock.patch.object(losses._SquaredError, "apply", squares)],
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    quiet_libraries()
    setup = BenchmarkSetup(BenchmarkConfig(device=options.device))
    data = setup.slice(options.steps * BASELINE_BATCH)
    scratch = tempfile.TemporaryDirectory()

    def side(name, texts, what, keep, patches):
        file = Path(scratch.name) / "outputs" if name == "teacher's outputs in a file" else None
        cache = teacher_cache.TeacherCache(
            setup.teacher, texts, setup.mapping, what, keep, file=file
        )
        student, projection = setup.student()
        module = distillation.IntermediateLoss(student, projection, setup.mapping)
        settings = training.TrainingConfig(
            epochs=1,
            learning_rate=1e-3,
            save_seconds=math.inf,
            clip=0.0 if name == "no clipping" else 1.0,
        )

        def once() -> float:
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(patch)
                return setup.timed(
                    lambda: distillation.distill_intermediate(
                        module, cache, texts, settings, Path(folder), setup.accelerator,
                        progress=False,
                    ),
                )  # fmt: skip

        return once

    sides = {name: side(name, *variant) for name, variant in variants(setup, data).items()}
    measured = setup.interleaved(sides, options.rounds)
    base = measured["optimized"]["seconds"]
    for name, side in measured.items():
        side["texts_per_second"] = round(len(data) / side["seconds"], 1)
        side["relative_speed"] = round(base / side["seconds"], 3)
        print(f"{name:32}{side['texts_per_second']:8.1f} texts/s", flush=True)
    atomic_files.write_json(
        options.out,
        {
            "command": " ".join(["python tests/benchmarks/bench_switches.py", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "variants": measured,
            "texts": len(data),
            "mean_tokens": round(float(data.lengths.mean()), 1),
            "environment": evaluation.environment(),
        },
    )


if __name__ == "__main__":
    main()
