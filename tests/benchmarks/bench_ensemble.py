"""What a teacher ensemble is worth: nano with 6 heads, taught by one teacher or by several.

    python -m tests.benchmarks.bench_ensemble [--teachers 1 2] [--seeds 0 1 2] [--gpu] [--table]

Beside the shipped teacher, one teacher for each seed of --teachers is fine-tuned as it was; the
ensemble's logits are the mean of all. Each student seed takes the default recipe, its intermediate
step from the shipped teacher, and then the prediction step twice, on the same texts: with the logits
of the shipped teacher, and with those of the ensemble. The texts are those of --texts-seed. Folders
go to --work and continue when interrupted, results to --out; what is there is not run again. On two
CPU cores the students take hours (a part of on_gpu.sh, not run yet); `--seeds` without a number
measures the teachers alone.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.bench_recipe import ROWS, read, unpacked
from tests.benchmarks.bench_reviews import bits
from tests.benchmarks.bench_search import compared
from tests.benchmarks.results import merge_runs
from tinybert_lite.data import paths
from tinybert_lite.data.statistics import paired_comparison
from tinybert_lite.data.tokenized import TokenizedDataset
from tinybert_lite.models import inference, loading
from tinybert_lite.models.loading import quiet_libraries
from tinybert_lite.pipeline import evaluation, pipeline
from tinybert_lite.pipeline.config import COMMAND_PHASES, DistillationConfig, RuntimeConfig
from tinybert_lite.pipeline.task_data import TaskData
from tinybert_lite.training import make_accelerator

RESULT = paths.ROOT / "data" / "results" / "ensemble.json"
TEACHER = DistillationConfig("reviews", finetune_epochs=3)  # as the shipped one was made
STUDENT = ROWS["reviews, nano, 6 heads"]
SIDES = ("one teacher", "ensemble")


def teacher_folder(seed: int, work: Path, how: RuntimeConfig) -> Path:
    """A teacher fine-tuned like the shipped one, in another seed."""
    out = work / f"teacher-{seed}"
    pipeline.run(replace(TEACHER, seed=seed), out, how, COMMAND_PHASES["finetune"])
    return out / "teacher"


def logits_of(file: Path, model, texts: TokenizedDataset) -> np.ndarray:
    """A model's logits for texts, computed once."""
    if not file.is_file():
        part = file.with_suffix(".part.npy")
        np.save(part, inference.predict(model, texts))
        part.replace(file)
    return np.load(file)


def scores(logits: np.ndarray, target: np.ndarray, labels: np.ndarray) -> list[float]:
    return compared(torch.from_numpy(logits), torch.from_numpy(target), labels)


def student(
    seed: int, side: str, data: TaskData, logits: np.ndarray, work: Path, how: RuntimeConfig
) -> Path:
    """The folder of a student that learned from these logits in its prediction step."""
    phases, out = COMMAND_PHASES["distill"], work / f"student-{seed}-{side.split()[0]}"
    start = work / f"student-{seed}-start"
    config = replace(STUDENT, seed=seed)
    for folder in (start, out):
        folder.mkdir(parents=True, exist_ok=True)
        if folder == out and not (out / "phases.json").is_file():
            shutil.copytree(start, out, dirs_exist_ok=True)
        found = pipeline.DistillationPipeline(config, folder, how, phases)
        found.data = data
        found.prepare()
        found.intermediate()
    found.outputs.keep(torch.from_numpy(logits))
    found.prediction()
    return out / "model"


def measure(options: argparse.Namespace) -> None:
    """Run what is missing."""
    work, how = options.work, RuntimeConfig(cpu=not options.gpu, progress=False)
    work.mkdir(parents=True, exist_ok=True)
    device = make_accelerator(how.cpu).device
    data = TaskData(replace(STUDENT, seed=options.texts_seed))
    names = {0: STUDENT.teacher}
    names |= {s: str(teacher_folder(s, work, how)) for s in options.teachers}
    teachers = {s: loading.load_classifier(name)[0].to(device) for s, name in names.items()}
    dev, test = data.splits["dev"], data.splits["test"]
    texts = {"dev": dev, "test": test} | ({"train": data.prediction_texts} if options.seeds else {})
    found: dict[str, dict[int, np.ndarray]] = {
        kind: {s: logits_of(work / f"logits-{s}-{kind}.npy", t, of) for s, t in teachers.items()}
        for kind, of in texts.items()
    }
    both = {kind: (x[0], np.mean(list(x.values()), axis=0)) for kind, x in found.items()}
    of_teachers = {
        name: {
            "dev": scores(logits, both["dev"][0], dev.labels),
            "right": bits(on_test.argmax(1) == test.labels),
            "accuracy": float((on_test.argmax(1) == test.labels).mean()),
        }
        for name, logits, on_test in [
            *((f"teacher {s}", found["dev"][s], found["test"][s]) for s in teachers),
            ("ensemble", both["dev"][1], both["test"][1]),
        ]
    }
    about = {
        "command": "python -m tests.benchmarks.bench_ensemble",
        "test_texts": len(test),
        "teachers": of_teachers,
        "environment": evaluation.environment(),
    }
    if options.seeds:
        about["texts"] = {"seed": options.texts_seed, "number": len(texts["train"])}
    merge_runs(options.out, about | {"runs": {}}, SIDES)
    print(summary(read(options.out)), flush=True)
    for seed in options.seeds:
        for side, logits in zip(SIDES, both["train"], strict=True):
            if str(seed) in read(options.out)["runs"].get(side, {}):
                continue
            folder = student(seed, side, data, logits, work, how)
            model = loading.load_classifier(str(folder))[0].to(device)
            on_dev, on_test = (inference.predict(model, split) for split in (dev, test))
            run = {
                "dev": scores(on_dev, both["dev"][0], dev.labels),
                "accuracy": float((on_test.argmax(1) == test.labels).mean()),
                "right": bits(on_test.argmax(1) == test.labels),
            }
            run |= {
                f"agreement with {name}": float((on_test.argmax(1) == theirs.argmax(1)).mean())
                for name, theirs in zip(SIDES, both["test"], strict=True)
            }
            merge_runs(options.out, {"runs": {side: {str(seed): run}}}, SIDES)
            print(summary(read(options.out)), flush=True)


def summary(results: dict) -> str:
    """A line for each teacher and for each kind of student, and their paired difference."""
    teachers = results["teachers"]
    lines = [
        f"{name}: {run['dev'][0]:.2%} on dev, {run['accuracy']:.2%} on test"
        for name, run in teachers.items()
    ]
    single = [100 * run["accuracy"] for name, run in teachers.items() if name != "ensemble"]
    lines.append(f"single teachers on test: {np.mean(single):.2f} ± {np.std(single, ddof=1):.2f}")
    n = results["test_texts"]
    apart = paired_comparison(
        *(unpacked(teachers[x]["right"], n)[None] for x in ("ensemble", "teacher 0"))
    )
    lines.append(f"ensemble minus the shipped teacher: {apart}")
    one, ensemble = (results["teachers"][name]["accuracy"] for name in ("teacher 0", "ensemble"))
    for side, runs in results["runs"].items():
        values = np.array([100 * run["accuracy"] for run in runs.values()])
        spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        agreement = np.mean([run[f"agreement with {side}"] for run in runs.values()])
        line = f"student of {side}: {values.mean():.2f}{spread} on test ({len(values)} seeds), "
        line += f"{values.mean() / one:.1f} % of the shipped teacher, {values.mean() / ensemble:.1f} % of the ensemble, "
        lines.append(line + f"agreement with its teacher {agreement:.1%}")
    if pair := paired(results):
        lines.append(f"student of ensemble minus student of one teacher: {pair}")
    return "\n".join(lines)


def paired(results: dict):
    """The students of both sides on the same seeds and texts; None where there are none."""
    sides = [results["runs"].get(side, {}) for side in SIDES]
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    if not seeds:
        return None
    n = results["test_texts"]
    one, ensemble = (np.stack([unpacked(side[s]["right"], n) for s in seeds]) for side in sides)
    return paired_comparison(ensemble, one)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teachers", nargs="*", type=int, default=[1, 2], help="seeds")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of the students")
    parser.add_argument("--texts-seed", type=int, default=0)
    parser.add_argument("--gpu", action="store_true", help="use a GPU if there is one")
    parser.add_argument("--work", type=Path, default=paths.ROOT / "runs" / "ensemble")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    return parser


def main() -> None:
    options = build_parser().parse_args()
    if options.table:
        print(summary(read(options.out)))
        return
    quiet_libraries()
    measure(options)


if __name__ == "__main__":
    main()
