"""What the default recipe gives: `distill` and `run` as anyone would give them, in several seeds.

    python -m tests.benchmarks.bench_recipe [--rows …] [--seeds 0 1 2] [--data FOLDER]

Each run is the command line's own (`pipeline.run`), into runs/recipe, and continues when it is
interrupted. Results go to data/results/recipe.json; a (row, seed) that is there is not run again.
A row of reviews takes 25 to 40 minutes of one CPU core (OMP_NUM_THREADS=1). `--table` prints what is on file and runs
nothing; `--data` is a folder with sst2/ and rte/, each a train.tsv and a dev.tsv, for the rows of
these tasks.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_reviews import bits
from tinybert_lite.data import assets, corpus, paths
from tinybert_lite.data.atomic_files import write_json
from tinybert_lite.data.statistics import paired_comparison
from tinybert_lite.models import inference, loading
from tinybert_lite.pipeline import evaluation, pipeline
from tinybert_lite.pipeline.config import (
    COMMAND_PHASES,
    RECOMBINED_PER_TEXT,
    DistillationConfig,
    RuntimeConfig,
    recombined_count,
)

RESULT = paths.ROOT / "data" / "results" / "recipe.json"
RUNS = paths.ROOT / "runs" / "recipe"
SST2_TRAIN, TOPICS, TOPIC_TEXTS = 6_000, 8, 1_500
REVIEWS = DistillationConfig("reviews", teacher="reviews-teacher")
ROWS = {
    "reviews, nano": replace(REVIEWS, student="nano"),
    "reviews, lite": replace(REVIEWS, student="lite"),
    "reviews, nano, 6 heads": replace(REVIEWS, student="nano", heads=6),
    "reviews, nano, quick": replace(REVIEWS, student="nano", quick=True),
    "reviews, lite, quick": replace(REVIEWS, student="lite", quick=True),
    "review ratings, nano": DistillationConfig("review-ratings", student="nano"),
    "news topics, nano": DistillationConfig(student="nano", text="text", label="topic"),
    "SST-2, nano": DistillationConfig(student="nano", text="sentence", label="label"),
    "SST-2, lite": DistillationConfig(student="lite", text="sentence", label="label"),
    "RTE, nano": DistillationConfig(
        student="nano", text="sentence1", text_pair="sentence2", label="label"
    ),
}


def with_files(name: str, config: DistillationConfig, data: Path | None) -> DistillationConfig:
    """The configuration with the files it reads, made where they do not exist."""
    RUNS.mkdir(parents=True, exist_ok=True)
    if name.startswith("news topics"):
        return replace(config, train=str(topics_file()))
    if name.startswith(("SST-2", "RTE")):
        if data is None:
            raise SystemExit(f"error: the row {name!r} needs --data, a folder with sst2/ and rte/.")
        folder = data / ("sst2" if name.startswith("SST-2") else "rte")
        train = folder / "train.tsv"
        if name.startswith("SST-2"):
            train = RUNS / "sst2.tsv"
            lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()
            kept = np.random.default_rng(0).permutation(len(lines) - 1)[:SST2_TRAIN] + 1
            rows = [lines[0], *(lines[i] for i in sorted(kept))]
            train.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return replace(config, train=str(train), test=str(folder / "dev.tsv"))
    return config


def topics_file() -> Path:
    """A table of news texts of the largest topics of the embedded news, the same at each call."""
    import pandas as pd

    source = assets.path("text") / corpus.SOURCES["news"][0]
    table = pd.DataFrame(
        {
            "topic": corpus.read_tab(source, "Category"),
            "text": corpus.read_tab(source, "Text"),
        }
    )
    largest = table["topic"].value_counts().index[:TOPICS]
    table = table[table["topic"].isin(largest)].sample(TOPIC_TEXTS, random_state=0)
    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / "topics.csv"
    table.to_csv(file, index=False)
    return file


def train(name: str, seed: int, data: Path | None, cpu: bool) -> dict:
    """Carry out one run and measure its student beside its teacher."""
    config = with_files(name, replace(ROWS[name], seed=seed), data)
    out = RUNS / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    phases = COMMAND_PHASES["distill" if config.teacher == "reviews-teacher" else "run"]
    metrics = pipeline.run(config, out, RuntimeConfig(cpu=cpu, progress=False), phases)
    found = pipeline.DistillationPipeline(config, out, RuntimeConfig(cpu=True), phases)
    task, test = found.data.task, found.data.splits["test"]
    shipped = config.teacher == "reviews-teacher"
    teacher, _ = loading.load_classifier(config.teacher if shipped else str(out / "teacher"))
    student, _ = loading.load_classifier(str(out / "model"))
    own, teachers = (
        evaluation.predicted_labels(task, inference.predict(model, test))
        for model in (student, teacher)
    )
    run = {
        "metric": task.metric,
        "student": metrics["student"],
        "teacher": metrics["teacher"],
        "majority": metrics["majority"],
        "test_texts": len(test),
        "recombined": recombined_count(config, len(task.splits["train"].texts)),
        "size_ratio": metrics["size_ratio"],
        "minutes": round(sum(metrics["seconds"].values()) / 60, 1),
        "environment": metrics["environment"],
        "date": time.strftime("%Y-%m-%d"),
    }
    if task.kind == "regression":
        return run
    return run | {
        "agreement": float((own == teachers).mean()),
        "right": bits(own == test.labels),
        "teacher_right": bits(teachers == test.labels),
    }


def summary(results: dict) -> str:
    """A line for each row: score of the student, mean and standard deviation, and of its teacher."""
    lines = []
    for name, runs in results["runs"].items():
        seeds = list(runs.values())
        percent = seeds[0]["metric"] in ("accuracy", "f1", "macro_f1", "micro_f1")
        scores, digits = (
            [(100 if percent else 1) * r["student"] for r in seeds],
            2 if percent else 3,
        )
        spread = f" ± {np.std(scores, ddof=1):.{digits}f}" if len(scores) > 1 else ""
        retained = np.mean([run["student"] / run["teacher"] for run in seeds])
        line = f"{name}: {seeds[0]['metric']} {np.mean(scores):.{digits}f}{spread} ({len(scores)} "
        line += f"{'seed' if len(scores) == 1 else 'seeds'}), {retained:.1%} of the teacher"
        if "agreement" in seeds[0]:
            line += f", agreement {np.mean([run['agreement'] for run in seeds]):.1%}"
        for threads in sorted({run["environment"]["threads"] for run in seeds}):
            took = [r["minutes"] for r in seeds if r["environment"]["threads"] == threads]
            line += f", {np.mean(took):.0f} minutes on {threads} thread{'s' * (threads > 1)}"
        lines.append(line)
    return "\n".join(lines)


def readme_table() -> str:
    """The table of README.md, from recombination, search, latency and reviews.json."""
    runs = read(RESULT.with_name("recombination.json"))["runs"]
    runs |= read(RESULT.with_name("search.json"))["runs"]
    fixed = read(RESULT.with_name("reviews.json"))["fixed"]
    speed = read(RESULT.with_name("latency.json"))
    times, sizes = speed["latency_ms"]["torch"]["1 x 128"], speed["parameters"]
    teacher = fixed["teacher"]
    lines = [
        "| on 2,074 test sentences | accuracy, % | of the teacher | parameters | ms per text |",
        "|---|---|---|---|---|",
        f"| teacher | {100 * teacher:.1f} | 100 % | {sizes['teacher'] / 1e6:.1f} M "
        f"| {times['teacher']:.1f} |",
    ]
    rows = {
        "lite": ("lite", "lite, 200,000 recombined texts"),
        "nano": ("nano", "nano, 300,000 recombined texts"),
        "nano, 6 heads": ("nano --heads 6", "nano, 6 heads, full"),
    }
    for name, (command, row) in rows.items():
        seeds = runs[row].values()
        scores = 100 * np.array([run["accuracy"] for run in seeds])
        lines.append(
            f"| `{command}` | {scores.mean():.1f} ± {scores.std(ddof=1):.1f} "
            f"| {scores.mean() / teacher:.1f} % | {sizes[name] / 1e6:.1f} M "
            f"| {times[name]:.1f} ({times['teacher'] / times[name]:.1f} × faster) |"
        )
    for title, name in (
        ("TF-IDF, logistic regression", "TF-IDF, logistic regression"),
        ("majority class", "majority"),
    ):
        score = 100 * fixed[name]
        lines.append(f"| {title} | {score:.1f} | {score / teacher:.1f} % | | |")
    return "\n".join(lines)


def own_data_table() -> str:
    """The table of docs/own_data.md: tasks on which nothing was tuned, the difference paired."""
    titles = {
        "news topics, nano": "topics of news items, eight classes",
        "SST-2, nano": "SST-2, sentiment of phrases, two classes",
        "SST-2, lite": "the same",
        "review ratings, nano": "ratings of review sentences, a number",
        "RTE, nano": "RTE, does the first text imply the second?",
    }
    lines = [
        "| task | training texts | score | majority class | teacher | student | of the teacher "
        "| student minus teacher |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, title in titles.items():
        run = read(RESULT)["runs"][name]["0"]
        scale, digits = (100, 1) if run["metric"] == "accuracy" else (1, 3)
        majority, teacher, own = (
            f"{scale * run[side]:.{digits}f}" for side in ("majority", "teacher", "student")
        )
        metric = run["metric"]
        if metric == "pearson":  # a constant has no correlation
            metric, majority = "Pearson's r", "–"
        apart = "–"
        if "right" in run:
            sides = (unpacked(run[side], run["test_texts"]) for side in ("right", "teacher_right"))
            pair = paired_comparison(*sides)
            low, high = (f"{100 * x:+.1f}" for x in (pair.low, pair.high))
            apart = f"{100 * pair.difference:+.1f} points ({low} to {high})".replace("-", "−")
        lines.append(
            f"| {title} | {round(run['recombined'] / RECOMBINED_PER_TEXT):,} | {metric} | {majority} "
            f"| {teacher} | {own} (`{name.split(', ')[1]}`) "
            f"| {100 * run['student'] / run['teacher']:.1f} % | {apart} |"
        )
    return "\n".join(lines)


def readme_shipped() -> str:
    """Accuracy of the students that ship."""
    runs = read(RESULT)["runs"]
    names = {"lite": "lite", "nano": "nano", "nano, 6 heads": "nano --heads 6"}
    score = {n: 100 * runs[f"reviews, {n}"]["0"]["student"] for n in names}
    return ", ".join(f"{score[n]:.1f} % (`{command}`)" for n, command in names.items())


def readme_teachers() -> str:
    """Accuracies of teachers fine-tuned in other seeds than the shipped one."""
    teachers = read(RESULT.with_name("ensemble.json"))["teachers"]
    first, second = (100 * teachers[f"teacher {seed}"]["accuracy"] for seed in (1, 2))
    return f"(two other seeds reach {first:.1f} and {second:.1f} %)"


def readme_finding() -> str:
    """What leaving out equation 7 costs nano, in accuracy and in agreement with the teacher."""
    results = read(RESULT.with_name("reviews.json"))
    n, runs = results["test_texts"], results["runs"]
    teacher = unpacked(results["right"]["teacher"], n)

    def seeds(name: str) -> np.ndarray:
        return np.stack([unpacked(run["right"], n) for run in runs[name].values()])

    whole, without = seeds("nano"), seeds("no attention loss")
    accuracy = paired_comparison(whole, without)
    agreement = paired_comparison(whole == teacher, without == teacher)
    return (
        f"costs `nano` {100 * accuracy.difference:.1f} points of accuracy, which may be noise "
        f"(p = {accuracy.p_value:.2g}), and {100 * agreement.difference:.1f} points of agreement "
        f"with its teacher, which is not (p = {agreement.p_value:.1g})"
    )


def unpacked(bits_of_texts: str, texts: int) -> np.ndarray:
    """Booleans (texts,) from what `bits` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits_of_texts), np.uint8))[:texts] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS)[:5], metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="a folder with sst2/ and rte/")
    parser.add_argument("--gpu", action="store_true", help="use a GPU if there is one")
    parser.add_argument("--table", action="store_true", help="print what is on file, run nothing")
    parser.add_argument("--readme", action="store_true", help="print the tables of the documents")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.readme:
        parts = readme_table, readme_teachers, readme_shipped, readme_finding, own_data_table
        print(*(part() for part in parts), sep="\n\n")
        return
    for name in () if options.table else options.rows:
        for seed in options.seeds:
            if str(seed) in read(options.out)["runs"].get(name, {}):
                continue
            run = train(name, seed, options.data, not options.gpu)
            results = read(options.out)  # another process may have written since
            results["runs"].setdefault(name, {})[str(seed)] = run
            order = {key: results["runs"][key] for key in ROWS if key in results["runs"]}
            write_json(options.out, results | {"runs": order})
    print(summary(read(options.out)))


def read(file: Path) -> dict:
    """The results on file, or empty ones."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return {"command": "python -m tests.benchmarks.bench_recipe", "runs": {}}


if __name__ == "__main__":
    main()
