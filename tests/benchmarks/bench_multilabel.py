"""Several labels a text on real data: newsgroup topics and their super-groups, teacher and student.

    python -m tests.benchmarks.bench_multilabel [--seeds 0] [--out data/results/multilabel.json]

Each text of the embedded newsgroups has two labels: its group (sci.space) and the super-group of
that (sci). The run is the command line's own (`pipeline.run`), into runs/multilabel, and continues
when it is interrupted; a few minutes of one CPU core a seed. `--table` prints what is on file.
"""

import argparse
import csv
import json
import random
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.results import RESULTS, merge_runs
from tinybert_lite.data import assets, corpus, paths
from tinybert_lite.pipeline import pipeline
from tinybert_lite.pipeline.config import DistillationConfig, RuntimeConfig

RUNS = paths.ROOT / "runs" / "multilabel"
TEXTS = 400  # of which a fifth is the test
GROUPS = ("rec.autos", "rec.sport.hockey", "sci.med", "sci.space")


def topics_file() -> Path:
    """A table of one passage (up to 45 words) of each newsgroup text, and its two labels."""
    source = assets.path("text") / corpus.SOURCES["newsgroups"][0]
    columns = (corpus.read_tab(source, column) for column in ("Category", "Text"))
    rows = [
        (passage, f"{group}|{group.split('.')[0]}")
        for group, text in zip(*columns, strict=True)
        if group in GROUPS
        for passage in islice(corpus.letter_passages(text), 1)
    ]
    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / "topics.csv"
    with file.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("text", "labels"), *random.Random(0).sample(rows, TEXTS)])
    return file


def measure(seed: int) -> dict:
    """Train teacher and student with one seed; their micro and macro F1, and the minutes."""
    config = DistillationConfig(
        train=str(topics_file()), text="text", label="labels", multi_label="|", student="nano",
        batch_size=16, max_length=24, finetune_epochs=4, intermediate_epochs=4, recombine=300,
        prediction_epochs=8, prediction_batch_size=16, seed=seed,
    )  # fmt: skip
    runtime = RuntimeConfig(cpu=True, progress=False)
    metrics = pipeline.run(config, RUNS / f"seed-{seed}", runtime)
    kept = "metric teacher student retained retained_above_majority majority test_size all_scores "
    kept += "per_class texts teacher_params student_params seconds environment"
    run = {name: metrics[name] for name in kept.split() if name in metrics}
    minutes = round(sum(metrics["seconds"].values()) / 60, 1)
    return run | {"minutes": minutes, "date": time.strftime("%Y-%m-%d")}


def summary(results: dict) -> str:
    """One line: micro F1 of teacher and student, and what is retained, over the seeds."""
    runs = list(results["runs"]["newsgroups, nano"].values())
    teacher, student, retained, minutes = (
        np.mean([run[name] for run in runs])
        for name in ("teacher", "student", "retained", "minutes")
    )
    return (
        f"newsgroups, nano: micro F1 {student:.4f} of the teacher's {teacher:.4f} ({retained:.1%}), "
        f"constant answer {runs[0]['majority']:.4f}, seeds {', '.join(results['runs']['newsgroups, nano'])}, "
        f"{minutes:.0f} minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "multilabel.json")
    parser.add_argument("--table", action="store_true", help="print what is on file, run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in () if options.table else options.seeds:
        new = {
            "command": "python -m tests.benchmarks.bench_multilabel",
            "runs": {"newsgroups, nano": {str(seed): measure(seed)}},
        }
        merge_runs(options.out, new)
    print(summary(json.loads(options.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
