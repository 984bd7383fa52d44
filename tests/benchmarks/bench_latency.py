"""How much faster the shipped students are than their teacher, runtime by runtime.

    python -m tests.benchmarks.bench_latency [--threads 2] [--repeats 50]

One text of 128 tokens, and 32 of them; torch, ONNX Runtime in float32 and in int8, each with its
default thread settings. All models of a runtime take turns in one run, and a speed-up compares
medians within one runtime. In ONNX Runtime only one session exists at a time: the threads of
another would go on waiting busily and take half of two cores. "nano, 6 heads" is `--student nano
--heads 6`, with untrained weights. Results go to data/results/latency.json; `--table` prints them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from tinybert_lite import students
from tinybert_lite.data import paths
from tinybert_lite.data.atomic_files import write_json
from tinybert_lite.deploy import onnx_export
from tinybert_lite.models import inference, loading, sizes

RESULT = paths.ROOT / "data" / "results" / "latency.json"
MODELS = {"teacher": "reviews-teacher", "lite": "reviews-lite", "nano": "reviews-nano"}
STUDENTS = ("lite", "nano", "nano, 6 heads")
SHAPES, ROUNDS = ((1, 128), (32, 128)), 3


def load() -> tuple[dict, object]:
    """The models by name, and their tokenizer."""
    models = {name: loading.load_classifier(folder)[0] for name, folder in MODELS.items()}
    six = students.student_preset("nano", heads=6)
    models["nano, 6 heads"] = students.build_student(models["teacher"].config, six)
    return models, loading.load_classifier(MODELS["teacher"])[1]


def measure(threads: int, repeats: int) -> dict:
    """Medians in milliseconds by runtime, shape and model."""
    torch.set_num_threads(threads)
    models, tokenizer = load()
    times: dict = {"torch": {}, "onnx": {}, "onnx int8": {}}
    for batch, tokens in SHAPES:
        found = inference.latencies(models, batch, tokens, passes(batch, repeats))
        times["torch"][f"{batch} x {tokens}"] = found
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            files = Path(folder, f"onnx-{name}"), Path(folder, f"onnx int8-{name}")
            onnx_export.to_onnx(model, files[0], onnx_export.input_names(tokenizer))
            onnx_export.to_int8(*files)
        for runtime in ("onnx", "onnx int8"):
            times[runtime] = in_turns(models, Path(folder), runtime, threads, repeats)
    return {
        runtime: {
            shape: {name: round(float(np.median(each)), 3) for name, each in found.items()}
            for shape, found in shapes.items()
        }
        for runtime, shapes in times.items()
    }


def in_turns(models: dict, folder: Path, runtime: str, threads: int, repeats: int) -> dict:
    """Milliseconds of each pass by shape and model, a session for each turn of a model."""
    times: dict = {f"{batch} x {tokens}": {n: [] for n in models} for batch, tokens in SHAPES}
    for _ in range(ROUNDS):
        for name, model in models.items():
            classifier = onnx_export.OnnxClassifier(
                folder / f"{runtime}-{name}", threads, spinning=True
            )
            classifier.config = model.config  # type: ignore[attr-defined]  # for the vocabulary
            for batch, tokens in SHAPES:
                count = -(-passes(batch, repeats) // ROUNDS)
                found = inference.latencies({name: classifier}, batch, tokens, count)
                times[f"{batch} x {tokens}"][name] += found[name].tolist()
            del classifier
    return times


def passes(batch: int, repeats: int) -> int:
    """Fewer of the large batches."""
    return repeats if batch == 1 else max(5, repeats // 5)


def summary(results: dict) -> str:
    """A Markdown table: milliseconds, and how many times faster than the teacher."""
    lines = [f"| runtime | batch × tokens | teacher | {' | '.join(STUDENTS)} |", "|---" * 6 + "|"]
    for runtime, shapes in results["latency_ms"].items():
        for shape, times in shapes.items():
            faster = [
                f"{times[name]:.1f} ({times['teacher'] / times[name]:.1f} ×)" for name in STUDENTS
            ]
            cells = [runtime, shape.replace("x", "×"), f"{times['teacher']:.1f}", *faster]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print what is on file, run nothing")
    options = parser.parse_args()
    if not options.table:
        before = psutil.getloadavg()[0]
        results = {
            "command": f"python -m tests.benchmarks.bench_latency --threads {options.threads}",
            "latency_ms": measure(options.threads, options.repeats),
            "parameters": {name: sizes.parameters(model) for name, model in load()[0].items()},
            "repeats": options.repeats,
            "load_average_before": round(before, 1),
            "environment": onnx_export.environment(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_json(options.out, results)
    print(summary(json.loads(options.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
