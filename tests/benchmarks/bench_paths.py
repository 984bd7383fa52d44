"""Does speed cost accuracy? Students of the fast path and of the authors' procedure, seed by seed.

    python tests/benchmarks/bench_paths.py [--seeds 0 1 2] [--sides fast plain]

Reviews, the shipped teacher, lite, the training sentences alone, the last weights. Both sides of a
seed begin with the same weights and take as many steps of 32 sentences, at the same rates:
INTERMEDIATE epochs on equations 7 to 9 and PREDICTION on equation 10. What data/results/paths.json
holds is not run again. A process with other seeds may run beside this one.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from filelock import FileLock

from tinybert_lite import bench, distill, evaluate
from tinybert_lite.__main__ import quiet_libraries
from tinybert_lite.folders import read_json
from tinybert_lite.training import Settings, write_json

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "paths.json"
INTERMEDIATE, PREDICTION = 2, 2  # epochs
# Dropout is as in the authors' code in the third: on, in student and teacher.
SIDES = {"fast": None, "plain": 0.0, "plain, with dropout": 0.1}


def fast(world: bench.World, seed: int) -> torch.nn.Module:
    """A student as `run` trains it."""
    train, accelerator = world.data["train"], world.accelerator
    first, second = both(seed)
    student, projection = world.student(seed)
    module = distill.Intermediate(student, projection, world.mapping)
    answers = distill.TeacherAnswers(world.teacher, train, world.mapping, keep_bytes=2**36)
    with tempfile.TemporaryDirectory() as folder:
        distill.intermediate(
            module, answers, train, first, Path(folder), accelerator, progress=False
        )
        distill.prediction(
            student, world.teacher, train, second, Path(folder), accelerator,
            soft_labels=answers.soft_labels, progress=False,
        )  # fmt: skip
    return student


def plain(world: bench.World, seed: int, dropout: float) -> torch.nn.Module:
    """A student as the authors' procedure trains it."""
    train, (first, second) = world.data["train"], both(seed)
    side = bench.Plain(world, train, first, dropout)
    side.begin(side.student, side.projection)
    side.train(side.intermediate)
    last = bench.Plain(world, train, second, dropout)
    last.student = side.student
    last.begin(last.student)
    last.train(last.prediction)
    return last.student


def both(seed: int) -> tuple[Settings, Settings]:
    return (
        Settings(INTERMEDIATE, rate=1e-3, seed=seed, save_seconds=math.inf),
        Settings(PREDICTION, rate=3e-4, seed=seed, save_seconds=math.inf),
    )


def merge(out: Path, side: str = "", seed: int = 0, run: dict | None = None) -> dict:
    """Put one run into the file, which other workers write too; all of it."""
    with FileLock(Path(tempfile.gettempdir()) / f"{out.stem}.lock"):
        known = read_json(out, "remove it") if out.is_file() else {"runs": {}}
        if run is not None:
            known["runs"].setdefault(side, {})[str(seed)] = run
            known |= summary(known["runs"])
            write_json(out, known)
    return known


def summary(runs: dict) -> dict:
    """Mean and standard deviation of each side, and the differences seed by seed."""
    found = {}
    for side in runs:
        scores = [run["accuracy"] for run in runs[side].values()]
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        found[side] = {"mean": statistics.mean(scores), "spread": spread, "seeds": len(scores)}
        found[side]["fast_minus_this"] = {
            seed: round(runs["fast"][seed]["accuracy"] - run["accuracy"], 4)
            for seed, run in runs[side].items()
            if side != "fast" and seed in runs.get("fast", {})
        }
    return {
        "command": "python tests/benchmarks/bench_paths.py",
        "epochs": {"intermediate": INTERMEDIATE, "prediction": PREDICTION},
        "environment": evaluate.environment(),
        "summary": found,
    }


def work(jobs: list[tuple[int, str]], out: Path) -> None:
    world = bench.World("embedded", "cpu")
    for seed, side in jobs:
        if str(seed) in merge(out)["runs"].get(side, {}):
            continue
        started, dropout = time.perf_counter(), SIDES[side]
        student = fast(world, seed) if dropout is None else plain(world, seed, dropout)
        run = {
            "accuracy": evaluate.score(world.task, student, world.data["test"])["accuracy"],
            "seconds": round(time.perf_counter() - started),
            "threads": torch.get_num_threads(),
            "date": time.strftime("%Y-%m-%d"),
        }
        merge(out, side, seed, run)
        print(f"{side}, seed {seed}: {run['accuracy']:.4f} in {run['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=["fast", "plain"])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    quiet_libraries()
    work([(seed, side) for seed in options.seeds for side in options.sides], options.out)
    for side, found in merge(options.out).get("summary", {}).items():
        spread = "" if found["spread"] is None else f" ± {100 * found['spread']:.2f}"
        print(f"{side}: {100 * found['mean']:.2f}{spread}, {found['seeds']} seeds")


if __name__ == "__main__":
    main()
