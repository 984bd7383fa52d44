"""The ablations on reviews: each row changes one thing of the recipe, several seeds.

    python tests/benchmarks/bench_reviews.py [--rows lite random …] [--seeds 0 1 2] [--table]

A (row, seed) that is already in data/results/reviews.json is not run again, so the script may be
stopped and called as often as there is time; seed 0 of all rows comes first. `--workers 2` shares
the rows among that many processes of one thread each, which on two cores is faster than one after
the other. Every student learns from the shipped teacher, on the texts and for the steps of `run
--task reviews --quick --init svd --metric accuracy`; a row names what it changes. `--table` writes data/results/README.md from
what is there.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where it is run as a script

from tests.benchmarks import cse  # noqa: E402
from tests.benchmarks.results import RESULTS, merge_runs  # noqa: E402
from tinybert_lite import augmentation, distillation, students, teacher_cache  # noqa: E402
from tinybert_lite.data import corpus, tasks  # noqa: E402
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize  # noqa: E402
from tinybert_lite.data.word_vectors import Glove  # noqa: E402
from tinybert_lite.losses import soft_cross_entropy  # noqa: E402
from tinybert_lite.mapping import layer_mapping  # noqa: E402
from tinybert_lite.models import catalog, inference, loading, sizes  # noqa: E402
from tinybert_lite.models.loading import quiet_libraries  # noqa: E402
from tinybert_lite.models.masked_lm import load_masked_lm  # noqa: E402
from tinybert_lite.pipeline import evaluation  # noqa: E402
from tinybert_lite.pipeline.config import ENOUGH_STEPS  # noqa: E402
from tinybert_lite.pipeline.task_data import LONGEST_UNLABELED  # noqa: E402
from tinybert_lite.students import init_from_general  # noqa: E402
from tinybert_lite.training import TrainingConfig, fit  # noqa: E402

PARTS = ("attention", "hidden", "embedding")
VARIANTS = 2  # augmented sentences for each sentence of the task, in the row "augmented"
CSE_TEXTS, CSE_STEPS = 8_000, 2000  # general passages the CSE starts from, and steps on them


@dataclass(frozen=True)
class Row:
    """One row of the table; the defaults are the recipe's, for nano."""

    description: str
    student: str = "nano"
    init: str = "svd"
    mapping: str = "uniform"
    parts: tuple[str, ...] = PARTS
    steps: str = "both"  # "both", "joint", "prediction" (alone), "intermediate" (then hard labels)
    labels: str = "soft"  # or "hard": labels in place of the teacher's logits
    temperature: float = 1.0
    budget: float = 1  # times the recipe's steps
    texts: str = "all"  # or "task" (no unlabeled sentences), "augmented" (in their place)


# Ablations are of nano, which costs a third of lite, so that there is time for more seeds.
# Rows that share the teacher's outputs are neighbors: computing those takes minutes.
ROWS = {
    "lite": Row("the recipe", "lite"),
    "nano": Row("the recipe"),
    "nano, three times the steps": Row("the recipe, longer", budget=3),
    "lite, hard labels": Row("hard labels only", "lite", steps="prediction", labels="hard"),
    "nano, hard labels": Row("hard labels only", steps="prediction", labels="hard"),
    "no intermediate step": Row("prediction loss only", steps="prediction"),
    "no intermediate step, longer": Row(
        "prediction loss only, in as many steps as both steps have",
        steps="prediction",
        budget=sum(ENOUGH_STEPS[step] for step in ("intermediate", "prediction"))
        / ENOUGH_STEPS["prediction"],
    ),
    "no prediction loss": Row("intermediate, then hard labels", steps="intermediate"),
    "no attention loss": Row("without equation 7", parts=("hidden", "embedding")),
    "no hidden loss": Row("without equation 8", parts=("attention", "embedding")),
    "no embedding loss": Row("without equation 9", parts=("attention", "hidden")),
    "one joint step": Row("all losses at once", steps="joint"),
    "temperature 2": Row("t = 2 in equation 10", temperature=2.0),
    "random start": Row("random initialization, no stage 1", init="random"),
    "lite, random start": Row("random initialization, no stage 1", "lite", "random"),
    "lite, general start": Row(
        "initialized from the shipped student of stage 1", "lite", "general-lite"
    ),
    "CSE": Row("no attention at all: convolution over GloVe, soft labels", "cse", "sentences"),
    "CSE, hard labels": Row("the same, hard labels only", "cse", "sentences", labels="hard"),
    "no unlabeled text": Row("only the sentences of the task", texts="task"),
    "augmented": Row(
        f"{VARIANTS} sentences of Algorithm 1 for each of the task, no other text",
        texts="augmented",
    ),
    "mapping top": Row("g(m) = the last layers", mapping="top"),
    "mapping bottom": Row("g(m) = the first layers", mapping="bottom"),
}


class ReviewsSetup:
    """Task, teacher and the teacher's outputs, loaded once for all rows."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()
        self.task = tasks.load_task("reviews")
        self.teacher, self.tokenizer = loading.load_classifier("reviews-teacher")
        self.teacher.to(self.accelerator.device).eval()
        splits = self.task.splits
        self.data = {
            name: tokenize(self.tokenizer, s.texts, None, s.labels) for name, s in splits.items()
        }
        more = tasks.unlabeled_sentences()
        short = tokenize(self.tokenizer, more, None, None).lengths <= LONGEST_UNLABELED
        more = [text for text, fits in zip(more, short) if fits]
        task_texts = list(splits["train"].texts)
        self.texts = {
            "task": tokenize(self.tokenizer, task_texts, None, None),
            "all": tokenize(self.tokenizer, [*task_texts, *more], None, None),
        }
        self.raw = {"task": task_texts, "all": [*task_texts, *more]}
        self.sentence_vectors: torch.Tensor | None = None  # of the CSE's general text
        self._cache: tuple = (None, None)
        self._logits: dict[str, torch.Tensor] = {}

    def read(self, texts: str) -> TokenizedDataset:
        """The tokenized texts of a name; the augmented ones are made on first use."""
        if texts not in self.texts:
            own = self.raw["task"]
            new = augmentation.augment(
                own, None, load_masked_lm("minilm"), Glove.load(), n=VARIANTS
            )
            self.raw[texts] = [*own, *(row["text"] for row in new)]
            self.texts[texts] = tokenize(self.tokenizer, self.raw[texts], None, None)
        return self.texts[texts]

    def cache(self, texts: str, mapping: list[int]) -> teacher_cache.TeacherCache:
        if self._cache[0] != (texts, mapping):
            self._cache = (None, None)  # free the old ones first: they fill a gigabyte or more
            cache = teacher_cache.TeacherCache(
                self.teacher, self.read(texts), mapping, "auto", 4 * 2**30
            )
            self._cache = ((texts, mapping), cache)
            if cache.teacher_logits is not None:
                self._logits[texts] = cache.teacher_logits
        return self._cache[1]

    def teacher_logits(self, texts: str) -> torch.Tensor:
        if texts not in self._logits:
            self._logits[texts] = torch.from_numpy(
                inference.predict(self.teacher, self.read(texts))
            )
        return self._logits[texts]


class Joint(nn.Module):
    """Both steps in one: equations 7 to 10 of the same forward pass."""

    def __init__(self, intermediate: distillation.IntermediateLoss):
        super().__init__()
        self.intermediate = intermediate
        intermediate.student.requires_grad_(True)

    def forward(self, inputs, hidden, attention, teacher_logits):
        losses = self.intermediate(inputs, hidden, attention)
        logits = self.intermediate.student(**inputs).logits
        return losses | {"prediction": soft_cross_entropy(logits, teacher_logits)}


def settings(
    steps: float, learning_rate: float, data: TokenizedDataset, seed: int
) -> TrainingConfig:
    """So many steps of 32 texts, without checkpoints."""
    return TrainingConfig(
        steps * 32 / len(data), learning_rate=learning_rate, seed=seed, save_seconds=math.inf
    )


def train_cse(row: Row, seed: int, setup: ReviewsSetup, folder: Path) -> tuple[nn.Module, dict]:
    """The student without attention, and the texts of each split as it reads them."""
    words, vectors = cse.word_table(Glove.load())
    splits = setup.task.splits
    data = {name: cse.encode_words(words, s.texts, s.labels) for name, s in splits.items()}
    student = cse.CSE(vectors, len(setup.task.label_names), seed=seed)

    def score() -> float:
        return evaluation.score(setup.task, student, data["dev"])["accuracy"]

    general = list(itertools.islice(corpus.sentences(None, 0), CSE_TEXTS))
    encoder, tokenizer = loading.load_encoder("minilm")
    if setup.sentence_vectors is None:
        tokens = tokenize(tokenizer, general, None, None, max_length=64)
        setup.sentence_vectors = cse.sentence_vectors(encoder, tokens)
    read = cse.encode_words(words, general)
    cse.pretrain(
        student, read, setup.sentence_vectors, settings(CSE_STEPS, 1e-3, read, seed), folder,
        setup.accelerator, progress=False,
    )  # fmt: skip
    steps = ENOUGH_STEPS["intermediate"] + ENOUGH_STEPS["prediction"]
    if row.labels == "hard":
        distillation.finetune(
            student, data["train"], settings(steps, 1e-3, data["train"], seed), folder,
            setup.accelerator, score, name="labels", progress=False,
        )  # fmt: skip
    else:
        read = cse.encode_words(words, setup.raw[row.texts])
        distillation.distill_prediction(
            student, setup.teacher, read, settings(steps, 1e-3, read, seed), folder,
            setup.accelerator, row.temperature, score, teacher_logits=setup.teacher_logits(row.texts), progress=False,
        )  # fmt: skip
    return student, data


def train(row: Row, seed: int, setup: ReviewsSetup, folder: Path) -> tuple[nn.Module, dict]:
    """The student of one row, and the texts of each split as it reads them."""
    if row.student == "cse":
        return train_cse(row, seed, setup, folder)
    accelerator, task = setup.accelerator, setup.task
    student = students.build_student(setup.teacher.config, row.student, seed)
    widths = student.config.hidden_size, setup.teacher.config.hidden_size
    projection = students.Projection(*widths, "paper", seed)
    if row.init == "svd":
        students.svd_init(student, projection, setup.teacher)
    elif row.init != "random":
        init_from_general(student, projection, row.init)
    texts = setup.read(row.texts)
    mapping = layer_mapping(
        setup.teacher.config.num_hidden_layers, student.config.num_hidden_layers, row.mapping
    )

    module = distillation.IntermediateLoss(student, projection, mapping, parts=row.parts)
    student.to(accelerator.device)
    first, second = (row.budget * ENOUGH_STEPS[step] for step in ("intermediate", "prediction"))

    def score() -> float:
        return evaluation.score(task, student, setup.data["dev"])[task.metric]

    if row.steps == "joint":
        cache, logits = setup.cache(row.texts, mapping), setup.teacher_logits(row.texts)

        def loss(model: nn.Module, rows) -> dict:
            inputs = texts.batch(rows, accelerator.device)
            return model(inputs, *cache(rows, inputs), logits[rows].to(accelerator.device))

        joint = Joint(module).to(accelerator.device).train()
        together = settings(first + second, 1e-3, texts, seed)
        fit("joint", joint, loss, texts.lengths, together, folder, accelerator, score,
            progress=False)  # fmt: skip
        return student, setup.data
    if row.steps in ("both", "intermediate"):
        cache = setup.cache(row.texts, mapping)
        distillation.distill_intermediate(
            module, cache, texts, settings(first, 1e-3, texts, seed), folder, accelerator,
            progress=False,
        )  # fmt: skip
    student.requires_grad_(True)
    if row.labels == "hard" or row.steps == "intermediate":
        labeled = setup.data["train"]
        distillation.finetune(
            student, labeled, settings(second, 3e-4, labeled, seed), folder, accelerator, score,
            name="labels", progress=False,
        )  # fmt: skip
    else:
        distillation.distill_prediction(
            student, setup.teacher, texts, settings(second, 3e-4, texts, seed), folder, accelerator,
            row.temperature, score, teacher_logits=setup.teacher_logits(row.texts), progress=False,
        )  # fmt: skip
    return student, setup.data


def bits(right: np.ndarray) -> str:
    """Which test texts are classified correctly, packed: unpack by numpy.unpackbits(bytes.fromhex)."""
    return np.packbits(right).tobytes().hex()


def right_of(task: tasks.Task, model: nn.Module, data: TokenizedDataset) -> np.ndarray:
    """Whether each text is classified correctly."""
    return evaluation.predicted_labels(task, inference.predict(model, data)) == data.labels


def baselines(task: tasks.Task) -> dict[str, np.ndarray]:
    """Right or wrong on each test text: TF-IDF with logistic regression, the majority class."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = task.splits["train"], task.splits["test"]
    bag = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10)
    ).fit(train.texts, train.labels)
    most = np.bincount(train.labels).argmax()
    return {
        "TF-IDF, logistic regression": bag.predict(test.texts) == test.labels,
        "majority": test.labels == most,
    }


def merge(file: Path, new: dict) -> dict:
    """Put what is new into the results file, rows in the table's order; the whole of it."""
    return merge_runs(file, new, ROWS)


def table(results: dict) -> str:
    """What was measured, for a reader: a row a line, mean and spread over seeds."""
    fixed = results["fixed"]
    lines = [
        "# Measured on reviews",
        "",
        f"Accuracy on {results['test_texts']:,} test sentences, in percent; ± is the standard "
        "deviation over the seeds, and the standard error of a single accuracy is about 0.8. "
        "Every student learns from the shipped teacher, with the texts and steps of "
        "`python -m tinybert_lite run --task reviews --quick --init svd --metric accuracy`: the "
        "short recipe without stage 1. Most rows change one thing about nano, or about lite where "
        "they name it. A row without the intermediate step trains for 1,100 steps instead of 2,800 "
        "unless noted. The rows with hard labels change several things: no intermediate losses, no "
        "teacher logits, no unlabeled text. CSE is another network, trained for all 2,800 steps. "
        "Notebook 09 explains the terms. `python tests/benchmarks/bench_reviews.py` trains the runs "
        "that are missing and writes this page; with `--table` it only writes the page.",
        "",
        "| | what differs | accuracy | seeds | of the teacher |",
        "|---|---|---|---|---|",
        f"| teacher | fine-tuned MiniLM, shipped | {100 * fixed['teacher']:.1f} | 1 | 100 % |",
    ]
    for name, row in ROWS.items():
        runs = list(results["runs"].get(name, {}).values())
        if not runs:
            lines.append(f"| {name} | {row.description} | not measured yet | 0 | |")
            continue
        scores = [100 * run["accuracy"] for run in runs]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        mean = statistics.mean(scores)
        lines.append(
            f"| {name} | {row.description} | {mean:.1f}{spread} | {len(scores)} | "
            f"{mean / fixed['teacher']:.1f} % |"
        )
    for name in ("TF-IDF, logistic regression", "majority"):
        share = fixed[name] / fixed["teacher"]
        lines.append(f"| {name} | | {100 * fixed[name]:.1f} | 1 | {100 * share:.1f} % |")
    where = results["environment"]
    lines += [
        "",
        f"Machine: {where['processor']}, threads: {where['threads']}, GPU {where['gpu']}, torch "
        f"{where['torch']}, transformers {where['transformers']}. Seconds, dev scores and dates "
        "are in reviews.json.",
    ]
    return "\n".join(lines) + "\n"


def work(jobs: list[tuple[int, str]], options: argparse.Namespace) -> None:
    """Run the jobs (seed, row) that are neither done nor claimed."""
    setup = ReviewsSetup()
    test = setup.data["test"]
    results = merge(options.out, {})
    if "fixed" not in results:
        right = {"teacher": right_of(setup.task, setup.teacher, test)} | baselines(setup.task)
        merge(options.out, {
            "command": "python tests/benchmarks/bench_reviews.py",
            "test_texts": len(test),
            "fixed": {name: float(r.mean()) for name, r in right.items()},
            "right": {name: bits(r) for name, r in right.items()},
            "environment": evaluation.environment(),
        })  # fmt: skip
    for seed, name in jobs:
        known = ROWS[name].init in ("svd", "random", "sentences", *catalog.general_names())
        if not known or str(seed) in merge(options.out, {})["runs"].get(name, {}):
            continue
        with claim(options.out, seed, name) as free:
            if not free:
                continue
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                student, data = train(ROWS[name], seed, setup, Path(folder))
            right = right_of(setup.task, student, data["test"])
            run = {
                "accuracy": float(right.mean()),
                "dev": float(right_of(setup.task, student, data["dev"]).mean()),
                "parameters": sizes.parameters(student),
                "seconds": round(time.monotonic() - started),
                "threads": torch.get_num_threads(),
                "date": time.strftime("%Y-%m-%d"),
                "row": dataclasses.asdict(ROWS[name]),
                "right": bits(right),
            }
            merge(options.out, {"runs": {name: {str(seed): run}}})
        print(f"{name}, seed {seed}: {run['accuracy']:.4f} in {run['seconds']} s", flush=True)


@contextlib.contextmanager
def claim(out: Path, seed: int, name: str):
    """Whether no other worker has this job; a claim ends with its worker, however that ends."""
    safe = "".join(c if c.isalnum() else "_" for c in name)
    lock = FileLock(Path(tempfile.gettempdir()) / f"{out.stem}-{seed}-{safe}.claim")
    try:
        with lock.acquire(timeout=0):
            yield True
    except Timeout:
        yield False


def share(jobs: list[tuple[int, str]], options: argparse.Namespace) -> None:
    """The jobs by several processes of one thread each; each takes the next that is free."""
    command = [sys.executable, __file__, "--out", str(options.out), "--rows", *options.rows]
    command += ["--seeds", *map(str, options.seeds)]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=alone) for _ in range(options.workers)]
    if any(process.wait() for process in running):
        sys.exit("error: a worker stopped; its message is above. What was done is kept.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "reviews.json")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="write the table and run nothing")
    options = parser.parse_args()
    quiet_libraries()
    jobs = [(seed, name) for seed in options.seeds for name in options.rows]
    if options.workers > 1:
        share(jobs, options)
    elif not options.table:
        work(jobs, options)
    results = merge(options.out, {})
    (options.out.parent / "README.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
