"""How much faster the shipped students are than their teacher, runtime by runtime.

    python -m tests.benchmarks.bench_latency [--threads 2] [--repeats 50]

One text of 128 tokens, and 32 of them; torch, ONNX Runtime in float32 and in int8, each with its
default thread settings. All models of a runtime take turns in one run, and a speed-up compares
medians within one runtime. Results go to data/results/latency.json; `--table` prints them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from tinybert_lite.data import paths
from tinybert_lite.data.atomic_files import write_json
from tinybert_lite.deploy import onnx_export
from tinybert_lite.models import inference, loading, sizes

RESULT = paths.ROOT / "data" / "results" / "latency.json"
MODELS = {"teacher": "reviews-teacher", "lite": "reviews-lite", "nano": "reviews-nano"}
SHAPES = ((1, 128), (32, 128))


def measure(threads: int, repeats: int) -> dict:
    """Medians in milliseconds by runtime, shape and model."""
    torch.set_num_threads(threads)
    loaded = {name: loading.load_classifier(folder) for name, folder in MODELS.items()}
    models = {name: model for name, (model, _) in loaded.items()}
    with tempfile.TemporaryDirectory() as folder:
        exported: dict[str, dict] = {"torch": models, "onnx": {}, "onnx int8": {}}
        for name, (model, tokenizer) in loaded.items():
            files = Path(folder, f"{name}.onnx"), Path(folder, f"{name}-int8.onnx")
            onnx_export.to_onnx(model, files[0], onnx_export.input_names(tokenizer))
            onnx_export.to_int8(*files)
            for runtime, file in zip(("onnx", "onnx int8"), files, strict=True):
                classifier = onnx_export.OnnxClassifier(file, threads, spinning=True)
                classifier.config = model.config  # type: ignore[attr-defined]  # for the vocabulary
                exported[runtime][name] = classifier
        return {
            runtime: {
                f"{batch} x {tokens}": {
                    name: round(float(np.median(times)), 3)
                    for name, times in inference.latencies(
                        side, batch, tokens, repeats if batch == 1 else max(5, repeats // 5)
                    ).items()
                }
                for batch, tokens in SHAPES
            }
            for runtime, side in exported.items()
        }


def summary(results: dict) -> str:
    """A Markdown table: milliseconds, and how many times faster than the teacher."""
    lines = ["| runtime | batch × tokens | teacher | lite | nano |", "|---|---|---|---|---|"]
    for runtime, shapes in results["latency_ms"].items():
        for shape, times in shapes.items():
            students = [
                f"{times[name]:.1f} ({times['teacher'] / times[name]:.1f} ×)"
                for name in ("lite", "nano")
            ]
            cells = [runtime, shape.replace("x", "×"), f"{times['teacher']:.1f}", *students]
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
        load = psutil.getloadavg()[0]
        results = {
            "command": f"python -m tests.benchmarks.bench_latency --threads {options.threads}",
            "latency_ms": measure(options.threads, options.repeats),
            "parameters": {
                name: sizes.parameters(loading.load_classifier(folder)[0])
                for name, folder in MODELS.items()
            },
            "repeats": options.repeats,
            "load_average_before": round(load, 1),
            "environment": onnx_export.environment(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_json(options.out, results)
    print(summary(json.loads(options.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
