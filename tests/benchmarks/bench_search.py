"""Which student, and which texts for it: a search on the dev split of reviews, sized for a GPU.

    python -m tests.benchmarks.bench_search [--rows …] [--seeds 0 1 2] [--workers 6] [--test]

Each row is a student (shape, heads, relation heads), how long it learned from general text, what
its intermediate step reads and what its prediction step reads. The package's own phases train it,
from the shipped teacher. A row is judged by accuracy on dev, agreement with the teacher on dev, and
mean KL divergence from the teacher on dev, the least noisy of the three; with `--test` the test
split is measured as well, which is for the rows that were chosen. What several rows need (texts
with the teacher's logits, general students, students after the intermediate step) is made once, in
--work. Results go to data/results/search.json; a (row, seed) that is there is not run again.
`--small` is a rehearsal on a CPU.
"""

import argparse
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tests.benchmarks.bench_recipe import read, unpacked
from tests.benchmarks.bench_reviews import bits
from tests.benchmarks.results import merge_runs
from tinybert_lite import distillation, students, teacher_cache
from tinybert_lite.augmentation import recombine
from tinybert_lite.data import corpus, paths, tasks
from tinybert_lite.data.statistics import paired_comparison
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import inference, loading, sizes
from tinybert_lite.pipeline import evaluation
from tinybert_lite.pipeline.run_folder import save_model
from tinybert_lite.pipeline.task_data import LONGEST_UNLABELED
from tinybert_lite.training import TrainingConfig

RESULT = paths.ROOT / "data" / "results" / "search.json"
CHUNK = 125_000  # texts made, tokenized and labeled by the teacher at a time


@dataclass(frozen=True)
class Row:
    """A student and its training; `texts` names what the prediction step reads beside its own.

    recombined: from the training texts; mixed: from these and the unlabeled ones; replaced:
    recombined, then one token in ten replaced by a random token of the training texts; general:
    passages of the embedded text.
    """

    student: str = "nano"
    heads: int | None = None
    embedding_size: int | None = None
    relation_heads: int | None = None
    general_epochs: float = 1
    intermediate_steps: int = 1700
    intermediate_recombined: int = 0
    texts: tuple[tuple[str, int], ...] = (("recombined", 300_000),)
    epochs: float = 3
    batch: int = 128
    rate: float = 1e-3

    @property
    def shape(self) -> tuple:
        return self.student, self.heads, self.embedding_size, self.relation_heads

    @property
    def start(self) -> tuple:
        """What two rows with the same intermediate step have in common."""
        return (
            *self.shape,
            self.general_epochs,
            self.intermediate_steps,
            self.intermediate_recombined,
        )


def _texts(**counts: int) -> tuple[tuple[str, int], ...]:
    return tuple(counts.items())


SIX = Row(heads=6, relation_heads=12)
SHAPES = {
    "nano": Row(),
    "nano, 6 heads": SIX,
    "nano, 4 heads": Row(heads=4, relation_heads=12),
    "3 × 108, embeddings 76, 6 heads": Row("3x108", 6, 76, 12),
}
CHANGES: dict[str, dict[str, Any]] = {
    "intermediate step on recombined texts": {
        "intermediate_steps": 8500, "intermediate_recombined": 300_000,
    },
    "general text 3 times": {"general_epochs": 3},
    "1,000,000 recombined": {"texts": _texts(recombined=1_000_000)},
    "mixed": {"texts": _texts(recombined=150_000, mixed=150_000)},
    "replaced": {"texts": _texts(recombined=150_000, replaced=150_000)},
    "and general text": {"texts": _texts(recombined=300_000, general=100_000)},
    "rate 2e-3": {"rate": 2e-3},
}  # fmt: skip
ROWS = SHAPES | {f"nano, 6 heads, {name}": replace(SIX, **how) for name, how in CHANGES.items()}
ROWS |= {"lite": Row("lite", texts=_texts(recombined=300_000))}
# What the search chose, for the test split: `on_gpu.sh students`.
MANY = _texts(recombined=375_000, replaced=125_000, general=110_000)
CHOSEN = {"nano, 6 heads, full": replace(SIX, texts=MANY)}
ROWS |= CHOSEN


# One job each, in a process of its own ------------------------------------------------------------


@cache
def device() -> torch.device:
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU
    return _accelerator().device


@cache
def _accelerator() -> Accelerator:
    return Accelerator(mixed_precision="no")


@cache
def _teacher():
    teacher, tokenizer = loading.load_classifier("reviews-teacher")
    return teacher.to(device()).eval(), tokenizer


@cache
def _own() -> tuple[list[str], list[str]]:
    """Training texts, and the unlabeled ones that a run reads."""
    more = tasks.unlabeled_sentences()
    lengths = tokenize(_teacher()[1], more).lengths
    short = [x for x, length in zip(more, lengths, strict=True) if length <= LONGEST_UNLABELED]
    return list(tasks.load_task("reviews").splits["train"].texts), short


def passages(work: Path, words: int | None = None):
    """The general text: the embedded one, or the --text that was given."""
    given = work / "text.txt"
    return corpus.sentences([str(given)] if given.is_file() else None, 0, words)


def make_texts(kind: str, number: int, count: int, work: Path) -> None:
    """Chunk `number` of `count` texts of a kind, with the teacher's logits, as a file."""
    file = work / f"{kind}-{number}.npz"
    if file.is_file():
        return
    teacher, tokenizer = _teacher()
    train, short = _own()
    if kind == "own":
        texts = [*train, *short][:count]
    elif kind == "general":
        texts = list(passages(work))[number * count :][:count]
    else:
        texts = recombine([*train, *short] if kind == "mixed" else train, count, seed=number)
    data = tokenize(tokenizer, texts, max_length=64 if kind == "general" else 128)
    if kind == "replaced":
        replace_tokens(data, tokenize(tokenizer, train), tokenizer.all_special_ids, number)
    logits = inference.predict(teacher, data, 512)
    part = file.with_suffix(".part.npz")
    np.savez(part, tokens=data.tokens.astype(np.uint16), offsets=data.offsets, logits=logits)
    part.replace(file)


def replace_tokens(data: TokenizedDataset, train: TokenizedDataset, special: list[int], seed: int):
    """Replace one token in ten, in place, by a random one of the training texts."""
    random = np.random.default_rng(seed)
    chosen = (random.random(len(data.tokens)) < 0.1) & ~np.isin(data.tokens, special)
    known = train.tokens[~np.isin(train.tokens, special)]
    data.tokens[chosen] = random.choice(known, int(chosen.sum()))


def load_texts(work: Path, wanted: list[tuple[str, int]], pad: int):
    """Texts of several kinds as one, with the teacher's logits: (texts, logits)."""
    tokens, lengths, logits = [], [], []
    for kind, count in wanted:
        number = 0
        while count > 0:
            with np.load(work / f"{kind}-{number}.npz") as chunk:
                some = min(count, len(chunk["logits"]))
                offsets = chunk["offsets"][: some + 1]
                tokens.append(chunk["tokens"][: offsets[-1]].astype(np.int32))
                lengths.append(np.diff(offsets))
                logits.append(chunk["logits"][:some])
            count, number = count - some, number + 1
            if not (work / f"{kind}-{number}.npz").is_file():
                break
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    every = np.concatenate(tokens)
    data = TokenizedDataset(every, np.zeros(len(every), np.int8), offsets, None, pad)
    return data, torch.from_numpy(np.concatenate(logits))


def build(row: Row, seed: int, teacher):
    """Student, projection and mapping of a row."""
    sizes_ = {"heads": row.heads, "embedding_size": row.embedding_size}
    student = students.build_student(
        teacher.config, students.student_preset(row.student, **sizes_), seed
    )
    width = student.config.hidden_size, teacher.config.hidden_size
    mapping = layer_mapping(teacher.config.num_hidden_layers, student.config.num_hidden_layers)
    return student, students.Projection(*width, "paper", seed), mapping


def config(steps: float, batch: int, rate: float, texts, seed: int, small: bool) -> TrainingConfig:
    steps = min(steps, 2) if small else steps
    return TrainingConfig(steps * batch / len(texts), batch, rate, seed=seed, save_seconds=math.inf)


def name_of(key: tuple) -> str:
    return "-".join(str(part) for part in key)


def make_general(row: Row, work: Path, small: bool) -> float:
    """Stage 1 of a row's shape, from the SVD of the teacher's embeddings; its seconds."""
    out, started = work / f"general-{name_of((*row.shape, row.general_epochs))}", time.monotonic()
    if out.is_dir():
        return 0.0
    device()
    teacher, tokenizer = loading.load_encoder("minilm")
    student, projection, mapping = build(row, 0, _teacher()[0])
    students.svd_init(student, projection, teacher)
    texts = list(passages(work, 2000 if small else None))
    data = tokenize(tokenizer, texts, max_length=128)
    cache_ = teacher_cache.TeacherCache(teacher.to(device()), data, mapping)
    module = distillation.IntermediateLoss(
        student, projection, mapping, relation_heads=row.relation_heads
    )
    steps = row.general_epochs * len(data) / 32
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_intermediate(
            module, cache_, data, config(steps, 32, 1e-3, data, 0, small), Path(folder),
            _accelerator(), progress=False,
        )  # fmt: skip
    save_model(student.base_model.cpu(), tokenizer, out, projection.cpu())
    return time.monotonic() - started


def make_intermediate(row: Row, seed: int, work: Path, small: bool) -> float:
    """A student of a row and a seed after the intermediate step; its seconds."""
    file, started = work / f"intermediate-{name_of((*row.start, seed))}.pt", time.monotonic()
    if file.is_file():
        return 0.0
    teacher, tokenizer = _teacher()
    student, projection, mapping = build(row, seed, teacher)
    general = work / f"general-{name_of((*row.shape, row.general_epochs))}"
    students.init_from_general(student, projection, str(general))
    wanted = [("own", 10**9)]
    wanted += [("recombined", row.intermediate_recombined)] * bool(row.intermediate_recombined)
    data, _ = load_texts(work, wanted, tokenizer.pad_token_id)
    module = distillation.IntermediateLoss(
        student, projection, mapping, relation_heads=row.relation_heads
    )
    how = config(row.intermediate_steps, 32, 1e-3, data, seed, small)
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_intermediate(
            module, teacher_cache.TeacherCache(teacher, data, mapping), data, how, Path(folder),
            _accelerator(), progress=False,
        )  # fmt: skip
    torch.save(student.state_dict(), file)
    return time.monotonic() - started


def make_prediction(row: Row, seed: int, work: Path, small: bool, test: bool) -> dict:
    """The prediction step of a row and a seed, and what its student is worth."""
    started = time.monotonic()
    teacher, tokenizer = _teacher()
    student, _, _ = build(row, seed, teacher)
    student.load_state_dict(torch.load(work / f"intermediate-{name_of((*row.start, seed))}.pt"))
    data, logits = load_texts(work, [("own", 10**9), *row.texts], tokenizer.pad_token_id)
    splits = tasks.load_task("reviews").splits
    dev = tokenize(tokenizer, splits["dev"].texts, None, splits["dev"].labels)
    target = torch.from_numpy(inference.predict(teacher, dev, 512))
    by_epoch: list[list[float]] = []

    def agreement() -> float:
        own = torch.from_numpy(inference.predict(student, dev, 512))
        by_epoch.append(compared(own, target, dev.labels))
        return -by_epoch[-1][2]

    how = config(
        row.epochs * math.ceil(len(data) / row.batch), row.batch, row.rate, data, seed, small
    )
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_prediction(
            student, teacher, data, how, Path(folder), _accelerator(), 1.0, agreement,
            teacher_logits=logits, progress=False,
        )  # fmt: skip
    best = min(by_epoch, key=lambda scores: scores[2])
    run = {"dev": best, "dev_by_epoch": by_epoch, "parameters": sizes.parameters(student)}
    if test:
        data = tokenize(tokenizer, splits["test"].texts, None, splits["test"].labels)
        own, theirs = (inference.predict(m, data, 512).argmax(1) for m in (student, teacher))
        run |= {
            "accuracy": float((own == data.labels).mean()),
            "agreement": float((own == theirs).mean()),
            "right": bits(own == data.labels),
            "same": bits(own == theirs),
        }
        torch.save(
            student.cpu().state_dict(),
            work / f"student-{name_of((*row.start, row.texts, row.epochs, seed))}.pt",
        )
    return run | {"row": asdict(row), "seconds": round(time.monotonic() - started, 1)}


def compared(own: torch.Tensor, target: torch.Tensor, labels: np.ndarray) -> list[float]:
    """Accuracy, agreement with the teacher, and mean KL divergence from it (nats)."""
    there, here = target.log_softmax(1), own.log_softmax(1)
    kl = (there.exp() * (there - here)).sum(1).mean()
    same, right = own.argmax(1) == target.argmax(1), own.argmax(1).numpy() == labels
    return [round(float(x), 4) for x in (right.mean(), same.float().mean(), kl)]


# All of them ---------------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> None:
    """Run what is missing, what several rows need once; seed by seed, rows in their order."""
    known = json.loads(options.out.read_text("utf-8"))["runs"] if options.out.is_file() else {}
    missing = [
        (name, seed) for seed in options.seeds for name in options.rows
        if str(seed) not in known.get(name, {})
    ]  # fmt: skip
    work, small, began = options.work, options.small, time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    if options.text:
        shutil.copyfile(options.text, work / "text.txt")
    jobs = planned(missing, work, small, options.test)
    done: set[Key] = set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context) as pool:
        running: dict[Future, Key] = {}
        while jobs or running:
            ready = [key for key, job in jobs.items() if job.needs <= done]
            for key in ready:
                predicting = sum(other[0] == "prediction" for other in running.values())
                if key[0] == "prediction" and predicting >= options.together:
                    continue  # so that the first are done before the last begin
                if len(running) < options.workers:
                    job = jobs.pop(key)
                    running[pool.submit(job.function, *job.arguments)] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, result = running.pop(future), future.result()
                done.add(key)
                say(f"{time.monotonic() - began:.0f} s: {' '.join(map(str, key))}")
                if key[0] == "prediction":
                    merge_runs(options.out, {"runs": {key[1]: {str(key[2]): result}}}, ROWS)
                    say(f"    {result['dev']} in {result['seconds']} s")


Key = tuple[Any, ...]


@dataclass
class Job:
    """A function for a process of its own, and the keys of the jobs that must be done before."""

    function: Callable
    arguments: tuple
    needs: set[Key]


def planned(missing: list[tuple[str, int]], work: Path, small: bool, test: bool) -> dict[Key, Job]:
    """The jobs of these rows and seeds by their keys, in the order in which they are to begin."""
    own: Key = ("texts", "own", 0)
    jobs = {own: Job(make_texts, ("own", 0, 600 if small else 10**9, work), set())}
    for name, seed in missing:
        row = ROWS[name]
        texts = {own}
        for kind, count in (*row.texts, ("recombined", row.intermediate_recombined)):
            size = 300 if small else CHUNK
            for number in range(1 if small and count else math.ceil(count / CHUNK)):
                texts.add(key := ("texts", kind, number))
                jobs.setdefault(key, Job(make_texts, (kind, number, size, work), set()))
        general: Key = ("general", *row.shape, row.general_epochs)
        start: Key = ("intermediate", *row.start, seed)
        jobs.setdefault(general, Job(make_general, (row, work, small), set()))
        jobs.setdefault(start, Job(make_intermediate, (row, seed, work, small), {general, *texts}))
        arguments = (row, seed, work, small, test)
        jobs["prediction", name, seed] = Job(make_prediction, arguments, {start, *texts})
    ranks = {"prediction": 0, "intermediate": 1, "general": 2, "texts": 3}
    if missing:  # the longest chain first: what is nearest to a result
        return dict(sorted(jobs.items(), key=lambda item: (_seed(item[0]), ranks[item[0][0]])))
    return {}


def _seed(key: Key) -> int:
    return key[-1] if key[0] in ("prediction", "intermediate") else -1


def say(line: str) -> None:
    print(line, flush=True)


def summary(results: dict) -> str:
    """A line for each row, means over the seeds, the closest to the teacher on dev first."""
    lines = []
    for name, seeds in results["runs"].items():
        accuracy, agreement, kl = np.mean([run["dev"] for run in seeds.values()], axis=0)
        line = f"KL {kl:.4f}, agreement {agreement:.2%}, accuracy {accuracy:.2%} on dev"
        tested = [run for run in seeds.values() if "accuracy" in run]
        if tested:
            scores = [100 * run["accuracy"] for run in tested]
            spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
            line += f"; {np.mean(scores):.2f}{spread} on test, agreement "
            line += f"{np.mean([run['agreement'] for run in tested]):.2%}"
        lines.append((kl, f"{line} ({len(seeds)} seeds): {name}"))
    return "\n".join(line for _, line in sorted(lines))


def paired() -> str:
    """The chosen student with 6 heads against nano with 12 and against the teacher, on test."""
    chosen = read(RESULT)["runs"]["nano, 6 heads, full"]
    twelve = read(RESULT.with_name("recombination.json"))["runs"]["nano, 300,000 recombined texts"]
    n = read(RESULT.with_name("reviews.json"))["test_texts"]
    teacher = read(RESULT.with_name("recipe.json"))["runs"]["reviews, nano"]["0"]["teacher_right"]
    six, other = (
        np.stack([unpacked(side[str(seed)]["right"], n) for seed in range(5)])
        for side in (chosen, twelve)
    )
    return (
        f"6 heads minus 12: {paired_comparison(six, other)}\n"
        f"6 heads minus the teacher: {paired_comparison(six, np.stack([unpacked(teacher, n)] * 5))}"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--together", type=int, default=8, help="prediction steps at one time")
    parser.add_argument("--test", action="store_true", help="measure the test split too")
    parser.add_argument("--work", type=Path, default=paths.ROOT / "runs" / "search")
    parser.add_argument("--text", type=Path, help="general text, where the embedded one is not")
    parser.add_argument("--small", action="store_true", help="a rehearsal: few texts, two steps")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    return parser


def main() -> None:
    options = build_parser().parse_args()
    if not options.table:
        search(options)
        merge_runs(options.out, {"environment": evaluation.environment()}, ROWS)
    print(summary(read(options.out)))
    if options.table and options.out == RESULT:
        print(paired())


if __name__ == "__main__":
    main()
