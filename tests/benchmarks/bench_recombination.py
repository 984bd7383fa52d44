"""What recombined texts are worth in the prediction step on reviews, students from stage 1.

    python tests/benchmarks/bench_recombination.py [--rows …] [--seeds 0 1 2] [--workers 4]

Each student starts from the shipped general student of its preset, learns the intermediate losses
for 1,700 steps on the training and unlabeled texts, then the prediction loss on these and on texts
recombined from the training texts, 3 epochs of 128 texts a step, learning rate 1e-3; the epoch with
the best dev accuracy is kept. Rows without recombined texts take the 1,100 steps of 32 texts of the
short recipe. Results go to data/results/recombination.json; a (row, seed) that is there is not run
again. On a GPU all runs of the file took under six minutes; on one CPU core a row of 300,000 texts
takes about an hour. `--texts 64 --steps 2` is a rehearsal.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where it is run as a script

from tests.benchmarks.bench_reviews import bits, merge  # noqa: E402
from tinybert_lite import distillation, students, teacher_cache  # noqa: E402
from tinybert_lite.augmentation import recombine  # noqa: E402
from tinybert_lite.data import tasks  # noqa: E402
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize  # noqa: E402
from tinybert_lite.mapping import layer_mapping  # noqa: E402
from tinybert_lite.models import inference, loading, sizes  # noqa: E402
from tinybert_lite.pipeline import evaluation  # noqa: E402
from tinybert_lite.pipeline.task_data import LONGEST_UNLABELED  # noqa: E402
from tinybert_lite.training import TrainingConfig  # noqa: E402

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "recombination.json"
INTERMEDIATE_STEPS, SHORT_STEPS = 1700, 1100


@dataclass(frozen=True)
class Row:
    """A student and the number of recombined texts of its prediction step (0: short recipe)."""

    student: str
    recombined: int


ROWS = {
    "nano, 300,000 recombined texts": Row("nano", 300_000),
    "lite, 200,000 recombined texts": Row("lite", 200_000),
    "nano, 150,000 recombined texts": Row("nano", 150_000),
    "nano, 60,000 recombined texts": Row("nano", 60_000),
    "nano, none": Row("nano", 0),
    "lite, none": Row("lite", 0),
}


def train(row: Row, seed: int, options: argparse.Namespace) -> dict:
    """Train one student and measure it on dev and test."""
    started = time.monotonic()
    accelerator = Accelerator(mixed_precision="no")
    device = accelerator.device
    task = tasks.load_task("reviews")
    teacher, tokenizer = loading.load_classifier("reviews-teacher")
    teacher.to(device).eval()
    train_texts = list(task.splits["train"].texts)
    more = tasks.unlabeled_sentences()
    lengths = tokenize(tokenizer, more).lengths
    short = [
        text for text, length in zip(more, lengths, strict=True) if length <= LONGEST_UNLABELED
    ]
    own = [*train_texts, *short][: options.texts]
    read = own + recombine(train_texts, min(row.recombined, options.texts or row.recombined))
    own_data, data = tokenize(tokenizer, own), tokenize(tokenizer, read)
    splits = {
        side: tokenize(tokenizer, s.texts, None, s.labels)
        for side, s in task.splits.items()
        if side != "train"
    }
    student = students.build_student(teacher.config, row.student, seed)
    width = student.config.hidden_size, teacher.config.hidden_size
    projection = students.Projection(*width, "paper", seed)
    students.init_from_general(student, projection, f"general-{row.student}")
    mapping = layer_mapping(teacher.config.num_hidden_layers, student.config.num_hidden_layers)

    def config(steps: float, batch: int, rate: float, texts: TokenizedDataset) -> TrainingConfig:
        steps = min(steps, options.steps or steps)
        return TrainingConfig(
            steps * batch / len(texts), batch, rate, seed=seed, save_seconds=math.inf
        )

    def accuracy() -> float:
        return evaluation.score(task, student, splits["dev"])["accuracy"]

    with tempfile.TemporaryDirectory() as folder:
        cache = teacher_cache.TeacherCache(teacher, own_data, mapping, "auto", 4 * 2**30)
        distillation.distill_intermediate(
            distillation.IntermediateLoss(student, projection, mapping), cache, own_data,
            config(INTERMEDIATE_STEPS, 32, 1e-3, own_data), Path(folder), accelerator,
            progress=False,
        )  # fmt: skip
        if row.recombined:
            how = config(3 * math.ceil(len(data) / 128), 128, 1e-3, data)
        else:
            how = config(SHORT_STEPS, 32, 3e-4, data)
        logits = torch.from_numpy(inference.predict(teacher, data, 256))
        history = distillation.distill_prediction(
            student, teacher, data, how, Path(folder), accelerator, 1.0, accuracy,
            teacher_logits=logits, progress=False,
        )  # fmt: skip
    return measured(student, teacher, splits) | {
        "dev": history.best,
        "parameters": sizes.parameters(student),
        "row": asdict(row),
        "seconds": round(time.monotonic() - started),
    }


def measured(student, teacher, splits: dict[str, TokenizedDataset]) -> dict:
    """Accuracy on test and agreement with the teacher, with the texts each is right on."""
    test = splits["test"]
    own, teachers = (predicted(model, test) for model in (student, teacher))
    right, same = (own == torch.from_numpy(test.labels)).numpy(), (own == teachers).numpy()
    return {
        "accuracy": float(right.mean()),
        "agreement": float(same.mean()),
        "right": bits(right),
        "same": bits(same),
    }


def predicted(model, data: TokenizedDataset) -> Tensor:
    """Predicted class of each text."""
    return torch.from_numpy(inference.predict(model, data, 256)).argmax(1)


def summary(results: dict) -> str:
    """A line for each row: mean and standard deviation over the seeds, share of the teacher."""
    lines, teacher = [], results["teacher"]
    for name, seeds in results["runs"].items():
        scores = [100 * run["accuracy"] for run in seeds.values()]
        agreement = 100 * np.mean([run["agreement"] for run in seeds.values()])
        spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
        lines.append(
            f"{name}: accuracy {np.mean(scores):.2f}{spread} ({len(scores)} seeds), "
            f"{np.mean(scores) / teacher:.1f} % of the teacher, agreement {agreement:.1f} %"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--texts", type=int, help="at most so many texts (a rehearsal)")
    parser.add_argument("--steps", type=int, help="at most so many steps (a rehearsal)")
    parser.add_argument("--workers", type=int, default=1, help="processes, each a row and a seed")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    known = json.loads(options.out.read_text("utf-8"))["runs"] if options.out.is_file() else {}
    jobs = [
        (name, seed)
        for name in options.rows
        for seed in options.seeds
        if str(seed) not in known.get(name, {})
    ]
    if options.workers > 1 and not options.table:
        share(jobs, options)
    elif not options.table:
        for name, seed in jobs:
            run = train(ROWS[name], seed, options)
            merge(options.out, {"runs": {name: {str(seed): run}}})
    print(summary(json.loads(options.out.read_text("utf-8"))))


def share(jobs: list[tuple[str, int]], options: argparse.Namespace) -> None:
    """The jobs in processes of their own, `options.workers` at a time."""
    running: list[subprocess.Popen] = []
    for name, seed in jobs:
        while len(running) >= options.workers:
            running[0].wait()
            running = [process for process in running if process.poll() is None]
        command = [sys.executable, __file__, "--rows", name, "--seeds", str(seed)]
        running.append(subprocess.Popen([*command, "--out", str(options.out)]))
    for process in running:
        process.wait()


if __name__ == "__main__":
    main()
