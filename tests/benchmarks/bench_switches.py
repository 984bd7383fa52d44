"""What each thing that makes intermediate distillation fast is worth: one switched off at a time.

    python tests/benchmarks/bench_switches.py [--steps 20] [--rounds 3] [--device cuda]

The reviews teacher and the lite student, batches of 32 review sentences; all ways take turns in
one process. Writes data/results/switches.json.
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
from tinybert_lite.benchmark import speed
from tinybert_lite.cli import quiet_libraries
from tinybert_lite.data import storage, tokenized
from tinybert_lite.pipeline import evaluation

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "switches.json"


@dataclasses.dataclass
class Padded(tokenized.TokenizedDataset):
    """Texts whose batches are all padded to one length."""

    to: int = speed.PADDED

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[rows]
        column = np.arange(self.to)
        real = column < lengths[:, None]
        return np.where(real, self.offsets[rows][:, None] + column, 0), real


def anyhow(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of any length, padded to their longest."""
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    return [order[i : i + size] for i in range(0, len(order), size)]


def squares(ours: torch.Tensor, theirs: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """What equations 7 and 8 sum, its gradient found by autograd."""
    return (ours - theirs).masked_fill(keep == 0, 0.0).square().sum()


def ways(world: speed.BenchmarkSetup, data: tokenized.TokenizedDataset) -> dict:
    """Name → (texts, what, keep_bytes, patches): the package's way, and each switch off."""
    plain_adamw = functools.partial(torch.optim.AdamW)

    def unfused(*args, fused=None, **options):
        return plain_adamw(*args, **options)

    padded = Padded(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    keep = 2**36
    return {
        "as it is": (data, "auto", keep, []),
        "Gram form for short texts too": (data, "qk", keep, []),
        "maps written out": (data, "scores", keep, []),
        "teacher asked at every step": (data, "auto", 0, []),
        "teacher's answers in a file": (data, "auto", keep, []),
        "batches of any length": (data, "auto", keep, [mock.patch.object(training, "plan", anyhow)]),
        "padded to 64": (padded, "auto", keep, []),
        "AdamW not fused": (data, "auto", keep, [mock.patch.object(torch.optim, "AdamW", unfused)]),
        "no clipping": (data, "auto", keep, []),
        "squares left to autograd": (
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
    world = speed.BenchmarkSetup("embedded", options.device)
    data = world.slice(options.steps * speed.BATCH)
    scratch = tempfile.TemporaryDirectory()

    def side(name, texts, what, keep, patches):
        file = Path(scratch.name) / "answers" if name == "teacher's answers in a file" else None
        answers = teacher_cache.TeacherCache(
            world.teacher, texts, world.mapping, what, keep, file=file
        )
        student, projection = world.student()
        module = distillation.IntermediateLoss(student, projection, world.mapping)
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
                return speed.timed(
                    world,
                    lambda: distillation.distill_intermediate(
                        module, answers, texts, settings, Path(folder), world.accelerator,
                        progress=False,
                    ),
                )  # fmt: skip

        return once

    sides = {name: side(name, *way) for name, way in ways(world, data).items()}
    measured = speed.in_turn(world, sides, options.rounds)
    base = measured["as it is"]["seconds"]
    for name, got in measured.items():
        got["sentences_per_second"] = round(len(data) / got["seconds"], 1)
        got["of_as_it_is"] = round(base / got["seconds"], 3)
        print(f"{name:32}{got['sentences_per_second']:8.1f} sentences a second", flush=True)
    storage.write_json(
        options.out,
        {
            "command": " ".join(["python tests/benchmarks/bench_switches.py", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "ways": measured,
            "sentences": len(data),
            "mean_tokens": round(float(data.lengths.mean()), 1),
            "environment": evaluation.environment(),
        },
    )


if __name__ == "__main__":
    main()
