"""Does speed cost accuracy? Students of the package's loop and of the reference procedure, by seed.

    python tests/benchmarks/bench_paths.py [--seeds 0 1 2]

Reviews, the shipped teacher, lite, the training sentences alone, the last weights. Both sides of a
seed begin with the same weights and take as many steps of 32 sentences, at the same rates:
INTERMEDIATE epochs on equations 7 to 9 and PREDICTION on equation 10. What data/results/paths.json
holds is not run again. A process with other seeds may run beside this one.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where it is run as a script

from tests.benchmarks.results import RESULTS, merge_runs  # noqa: E402
from tinybert_lite import distillation, teacher_cache  # noqa: E402
from tinybert_lite.benchmark.config import BenchmarkConfig  # noqa: E402
from tinybert_lite.benchmark.reference import ReferenceTrainer  # noqa: E402
from tinybert_lite.benchmark.setup import BenchmarkSetup  # noqa: E402
from tinybert_lite.models.loading import quiet_libraries  # noqa: E402
from tinybert_lite.pipeline import evaluation  # noqa: E402
from tinybert_lite.training import TrainingConfig  # noqa: E402

RESULT = RESULTS / "paths.json"
INTERMEDIATE, PREDICTION = 2, 2  # epochs


def optimized(setup: BenchmarkSetup, seed: int) -> torch.nn.Module:
    """A student as `run` trains it."""
    train, accelerator = setup.data["train"], setup.accelerator
    first, second = both(seed)
    student, projection = setup.student(seed)
    module = distillation.IntermediateLoss(student, projection, setup.mapping)
    cache = teacher_cache.TeacherCache(setup.teacher, train, setup.mapping, keep_bytes=2**36)
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_intermediate(
            module, cache, train, first, Path(folder), accelerator, progress=False
        )
        distillation.distill_prediction(
            student, setup.teacher, train, second, Path(folder), accelerator,
            teacher_logits=cache.teacher_logits, progress=False,
        )  # fmt: skip
    return student


def baseline(setup: BenchmarkSetup, seed: int) -> torch.nn.Module:
    """A student as the reference procedure trains it."""
    train, (first, second) = setup.data["train"], both(seed)
    trainer = ReferenceTrainer(setup, train, first)
    trainer.begin(trainer.student, trainer.projection)
    trainer.train(trainer.intermediate)
    last = ReferenceTrainer(setup, train, second)
    last.student = trainer.student
    last.begin(last.student)
    last.train(last.prediction)
    return last.student


SIDES = {"optimized": optimized, "baseline": baseline}


def both(seed: int) -> tuple[TrainingConfig, TrainingConfig]:
    """How both sides are trained, step by step."""
    return (
        TrainingConfig(INTERMEDIATE, learning_rate=1e-3, seed=seed, save_seconds=math.inf),
        TrainingConfig(PREDICTION, learning_rate=3e-4, seed=seed, save_seconds=math.inf),
    )


def work(jobs: list[tuple[int, str]], out: Path) -> None:
    """Run the (seed, side) that are missing in `out`."""
    setup = BenchmarkSetup(BenchmarkConfig())
    for seed, side in jobs:
        if str(seed) in merge_runs(out, {})["runs"].get(side, {}):
            continue
        started = time.perf_counter()
        student = SIDES[side](setup, seed)
        run = {
            "accuracy": evaluation.score(setup.task, student, setup.data["test"])["accuracy"],
            "seconds": round(time.perf_counter() - started),
            "threads": torch.get_num_threads(),
            "date": time.strftime("%Y-%m-%d"),
        }
        facts = {
            "command": "python tests/benchmarks/bench_paths.py",
            "epochs": {"intermediate": INTERMEDIATE, "prediction": PREDICTION},
            "environment": evaluation.environment(),
        }
        merge_runs(out, facts | {"runs": {side: {str(seed): run}}})


def lines(runs: dict) -> list[str]:
    """A line for each side: its accuracies by seed, mean and standard deviation, and seconds."""
    found = []
    for side, by_seed in runs.items():
        scores = [100 * run["accuracy"] for run in by_seed.values()]
        each = ", ".join(f"seed {seed} {score:.2f}" for seed, score in sorted(zip(by_seed, scores)))
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        seconds = statistics.median(run["seconds"] for run in by_seed.values())
        found.append(f"{side}: {each}; mean {statistics.mean(scores):.2f}{spread}; {seconds} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    quiet_libraries()
    work([(seed, side) for seed in options.seeds for side in SIDES], options.out)
    print("\n".join(lines(merge_runs(options.out, {})["runs"])))


if __name__ == "__main__":
    main()
