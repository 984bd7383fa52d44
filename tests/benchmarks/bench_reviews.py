"""What each part of the recipe is worth on reviews: one row changed at a time, several seeds.

    python tests/benchmarks/bench_reviews.py [--rows lite random …] [--seeds 0 1 2] [--table]

A (row, seed) that is already in data/results/reviews.json is not run again, so the script may be
stopped and called as often as there is time; seed 0 of all rows comes first. Every student learns
from the shipped teacher, on the texts and for the steps of `run --task reviews`; a row names what
it does otherwise. `--table` writes data/results/README.md from what is there.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from tinybert_lite import checkpoints, distill, evaluate, models, tasks
from tinybert_lite.__main__ import quiet_libraries
from tinybert_lite.attention import capture
from tinybert_lite.batches import encode
from tinybert_lite.fitting import start_from
from tinybert_lite.losses import soft_cross_entropy
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.recipe import ENOUGH_STEPS, LONGEST_UNLABELLED
from tinybert_lite.training import Settings, fit, write_json

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
PARTS = ("attention", "hidden", "embedding")


@dataclass(frozen=True)
class Row:
    """What one row of the table does; the defaults are the recipe's."""

    says: str
    student: str = "lite"
    start: str = "warm"
    mapping: str = "uniform"
    parts: tuple[str, ...] = PARTS
    steps: str = "both"  # "both", "joint", "prediction" (alone), "intermediate" (then gold labels)
    labels: str = "soft"  # or "hard": gold labels in place of the teacher
    temperature: float = 1.0
    texts: str = "all"  # or "task": without the unlabelled sentences


ROWS = {
    "lite": Row("the recipe"),
    "hard labels": Row("gold labels only, no teacher", steps="prediction", labels="hard"),
    "no intermediate step": Row("prediction loss only", steps="prediction"),
    "no prediction loss": Row("intermediate, then gold labels", steps="intermediate"),
    "no attention loss": Row("without equation 7", parts=("hidden", "embedding")),
    "no hidden loss": Row("without equation 8", parts=("attention", "embedding")),
    "no embedding loss": Row("without equation 9", parts=("attention", "hidden")),
    "mapping top": Row("g(m) = the last layers", mapping="top"),
    "mapping bottom": Row("g(m) = the first layers", mapping="bottom"),
    "random start": Row("as in the paper, without stage 1", start="random"),
    "general start": Row("from the shipped student of stage 1", start="general-lite"),
    "no unlabelled text": Row("only the sentences of the task", texts="task"),
    "one joint step": Row("all losses at once", steps="joint"),
    "temperature 2": Row("t = 2 in equation 10", temperature=2.0),
    "nano": Row("the recipe, width 84", student="nano"),
    "nano, hard labels": Row("gold labels only", student="nano", steps="prediction", labels="hard"),
}


class World:
    """Task, teacher and the teacher's answers, loaded once for all rows."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()
        self.task = tasks.load_task("reviews")
        self.teacher, self.tokenizer = models.load_classifier("reviews-teacher")
        self.teacher.to(self.accelerator.device).eval()
        splits = self.task.splits
        self.data = {
            name: encode(self.tokenizer, s.texts, None, s.labels) for name, s in splits.items()
        }
        more = tasks.unlabelled_sentences()
        short = encode(self.tokenizer, more, None, None).lengths <= LONGEST_UNLABELLED
        more = [text for text, fits in zip(more, short) if fits]
        task_texts = list(splits["train"].texts)
        self.texts = {
            "task": encode(self.tokenizer, task_texts, None, None),
            "all": encode(self.tokenizer, [*task_texts, *more], None, None),
        }
        self._answers: tuple = (None, None)
        self._soft: dict[str, torch.Tensor] = {}

    def answers(self, texts: str, mapping: list[int]) -> distill.TeacherAnswers:
        if self._answers[0] != (texts, mapping):
            self._answers = (None, None)  # free the old ones first: they fill a gigabyte or more
            answers = distill.TeacherAnswers(
                self.teacher, self.texts[texts], mapping, "qk", 4 * 2**30
            )
            self._answers = ((texts, mapping), answers)
        return self._answers[1]

    def soft_labels(self, texts: str) -> torch.Tensor:
        if texts not in self._soft:
            self._soft[texts] = torch.from_numpy(evaluate.predict(self.teacher, self.texts[texts]))
        return self._soft[texts]


class Joint(nn.Module):
    """Both steps in one: equations 7 to 10 of the same forward pass."""

    def __init__(self, intermediate: distill.Intermediate):
        super().__init__()
        self.intermediate = intermediate
        intermediate.student.requires_grad_(True)

    def forward(self, inputs, hidden, attention, soft_labels):
        losses = self.intermediate(inputs, hidden, attention)
        logits = capture(self.intermediate.student, inputs, "qk").logits
        return losses | {"prediction": soft_cross_entropy(logits, soft_labels)}


def train(row: Row, seed: int, world: World, folder: Path) -> nn.Module:
    """The student of one row, ready to be scored."""
    accelerator, task = world.accelerator, world.task
    student = models.build_student(world.teacher.config, row.student, seed)
    widths = student.config.hidden_size, world.teacher.config.hidden_size
    projection = models.Projection(*widths, "paper", seed)
    if row.start == "warm":
        models.warm_start(student, projection, world.teacher)
    elif row.start != "random":
        start_from(student, projection, row.start)
    texts = world.texts[row.texts]
    mapping = layer_mapping(
        world.teacher.config.num_hidden_layers, student.config.num_hidden_layers, row.mapping
    )

    def settings(steps: int, rate: float, data) -> Settings:
        return Settings(epochs=steps * 32 / len(data), rate=rate, seed=seed, save_seconds=1e9)

    module = distill.Intermediate(student, projection, mapping, "qk", row.parts)
    student.to(accelerator.device)
    first, second = ENOUGH_STEPS["intermediate"], ENOUGH_STEPS["prediction"]

    def score() -> float:
        return evaluate.score(task, student, world.data["dev"])[task.metric]

    if row.steps == "joint":
        answers, soft = world.answers(row.texts, mapping), world.soft_labels(row.texts)

        def loss(model: nn.Module, rows) -> dict:
            inputs = texts.batch(rows, accelerator.device)
            return model(inputs, *answers(rows, inputs), soft[rows].to(accelerator.device))

        joint = Joint(module).to(accelerator.device).train()
        together = settings(first + second, 1e-3, texts)
        fit("joint", joint, loss, texts.lengths, together, folder, accelerator, score,
            progress=False)  # fmt: skip
        return student
    if row.steps in ("both", "intermediate"):
        answers = world.answers(row.texts, mapping)
        distill.intermediate(
            module, answers, texts, settings(first, 1e-3, texts), folder, accelerator,
            progress=False,
        )  # fmt: skip
    student.requires_grad_(True)
    if row.labels == "hard" or row.steps == "intermediate":
        gold = world.data["train"]
        distill.finetune(
            student, gold, settings(second, 3e-4, gold), folder, accelerator, score,
            name="gold", progress=False,
        )  # fmt: skip
    else:
        distill.prediction(
            student, world.teacher, texts, settings(second, 3e-4, texts), folder, accelerator,
            row.temperature, score, soft_labels=world.soft_labels(row.texts), progress=False,
        )  # fmt: skip
    return student


def baselines(task: tasks.Task) -> dict[str, float]:
    """Accuracy of TF-IDF with logistic regression, and of the majority answer."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = task.splits["train"], task.splits["test"]
    bag = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10)
    ).fit(train.texts, train.labels)
    return {
        "TF-IDF, logistic regression": task.score(bag.predict(test.texts), test.labels)["accuracy"],
        "majority": task.majority()["accuracy"],
    }


def table(results: dict) -> str:
    """What was measured, for a reader: a row a line, mean and spread over seeds."""
    fixed = results["fixed"]
    lines = [
        "# Measured on reviews",
        "",
        f"Accuracy on {results['test_texts']:,} test sentences, in percent; ± is the standard "
        "deviation over the seeds, and one standard error of a single accuracy is about 0.8. "
        "Every student learns from the shipped teacher on the texts and for the steps of "
        "`python -m tinybert_lite run --task reviews`; a row changes one thing. "
        "`python tests/benchmarks/bench_reviews.py` makes what is missing, `--table` this page.",
        "",
        "| | what differs | accuracy | seeds | of the teacher |",
        "|---|---|---|---|---|",
        f"| teacher | fine-tuned MiniLM, shipped | {100 * fixed['teacher']:.1f} | 1 | 100 % |",
    ]
    for name, row in ROWS.items():
        runs = list(results["runs"].get(name, {}).values())
        if not runs:
            lines.append(f"| {name} | {row.says} | not measured yet | 0 | |")
            continue
        scores = [100 * run["accuracy"] for run in runs]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        mean = statistics.mean(scores)
        lines.append(
            f"| {name} | {row.says} | {mean:.1f}{spread} | {len(scores)} | "
            f"{mean / fixed['teacher']:.1f} % |"
        )
    for name in ("TF-IDF, logistic regression", "majority"):
        share = fixed[name] / fixed["teacher"]
        lines.append(f"| {name} | | {100 * fixed[name]:.1f} | 1 | {share:.1%} |")
    where = results["environment"]
    lines += [
        "",
        f"Machine: {where['processor']}, {where['threads']} threads, GPU {where['gpu']}, torch "
        f"{where['torch']}, transformers {where['transformers']}. Seconds, dev scores and dates "
        "are in reviews.json.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "reviews.json")
    parser.add_argument("--table", action="store_true", help="write the table and run nothing")
    options = parser.parse_args()
    quiet_libraries()
    known = options.out.is_file()
    results = json.loads(options.out.read_text(encoding="utf-8")) if known else {"runs": {}}
    if not options.table:
        world = World()
        test = world.data["test"]
        if "fixed" not in results:
            teacher = evaluate.score(world.task, world.teacher, test)["accuracy"]
            results |= {
                "command": "python tests/benchmarks/bench_reviews.py",
                "test_texts": len(test),
                "fixed": {"teacher": teacher} | baselines(world.task),
                "environment": evaluate.environment(),
            }
        for seed in options.seeds:
            for name in options.rows:
                runs = results["runs"].setdefault(name, {})
                start = ROWS[name].start
                there = start in ("warm", "random", *checkpoints.general_names())
                if str(seed) in runs or not there:
                    continue
                started = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    student = train(ROWS[name], seed, world, Path(folder))
                runs[str(seed)] = {
                    "accuracy": evaluate.score(world.task, student, test)["accuracy"],
                    "dev": evaluate.score(world.task, student, world.data["dev"])["accuracy"],
                    "seconds": round(time.monotonic() - started),
                    "date": time.strftime("%Y-%m-%d"),
                    "row": dataclasses.asdict(ROWS[name]),
                }
                write_json(options.out, results)
                print(f"{name}, seed {seed}: {runs[str(seed)]['accuracy']:.4f}", flush=True)
    (options.out.parent / "README.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
