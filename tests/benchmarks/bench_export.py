"""Size, score and latency of a student in torch, ONNX float32 and ONNX int8, beside its teacher.

One machine, one run, one number of threads, the models taking turns.

    python tests/benchmarks/bench_export.py [--student reviews-lite] [--teacher reviews-teacher]

Scores are of the reviews test split, read twice: a sentence at a time, as it is served, and in
batches of 32 (int8 rounds activations batch by batch, so the two may differ). Latency is of one
random text without padding, tensors in, logits out.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from tinybert_lite.data import paths, tasks
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.deploy import onnx_export
from tinybert_lite.models import inference, loading, sizes
from tinybert_lite.models.loading import quiet_libraries

RESULT = paths.DATA / "results" / "export.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="reviews-lite")
    parser.add_argument("--teacher", default="reviews-teacher")
    parser.add_argument("--tokens", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()

    student, tokenizer = loading.load_classifier(options.student)
    teacher, _ = loading.load_classifier(options.teacher)
    with tempfile.TemporaryDirectory() as folder:
        files = {"student onnx": Path(folder, "a.onnx"), "student int8": Path(folder, "b.onnx")}
        embedding = Path(folder, "c.onnx")
        onnx_export.to_onnx(student, files["student onnx"], onnx_export.input_names(tokenizer))
        onnx_export.to_int8(files["student onnx"], files["student int8"])
        onnx_export.to_int8(files["student onnx"], embedding, ("Gather",))
        size = {name: file.stat().st_size for name, file in files.items()}
        size["student int8, embeddings only"] = embedding.stat().st_size
        exported = {name: onnx_export.OnnxClassifier(file) for name, file in files.items()}
        models = {"teacher": teacher, "student": student, **exported}
        latency = {
            f"{tokens} tokens": {
                name: percentiles(times)
                for name, times in inference.latencies(
                    models, tokens=tokens, repeats=options.repeats
                ).items()
            }
            for tokens in options.tokens
        }
        load = psutil.getloadavg()[0]
        task = tasks.load_task("reviews")
        test = task.splits["test"]
        data = tokenize(tokenizer, test.texts, None, test.labels, 128)
        # the first one is what the others' predictions are compared with
        read = {"student": student, **exported, "teacher": teacher}
        score = {
            f"batch {batch}": onnx_export.scores(read, task, data, batch_size=batch)
            for batch in (1, 32)
        }
    points = {
        batch: 100 * (score[batch]["student int8"]["accuracy"] - s["student onnx"]["accuracy"])
        for batch, s in score.items()
    }
    result = {
        "command": f"python tests/benchmarks/bench_export.py --threads {options.threads}",
        "models": {"student": options.student, "teacher": options.teacher},
        "parameters": {
            n: sizes.parameters(m) for n, m in models.items() if isinstance(m, torch.nn.Module)
        },
        "opset": onnx_export.OPSET,
        "bytes": size,
        "int8_of_float32": round(size["student int8"] / size["student onnx"], 4),
        "test_texts": len(data),
        "score": score,
        "int8_minus_float32_points": {batch: round(p, 3) for batch, p in points.items()},
        "latency_ms": {"batch": 1, "repeats": options.repeats, **latency},
        "load_average": round(load, 1),
        "environment": onnx_export.environment(),
        "date": time.strftime("%Y-%m-%d"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def percentiles(times: np.ndarray) -> dict[str, float]:
    """Median, 95th percentile and fastest, in milliseconds."""
    median, slow = np.percentile(times, [50, 95])
    return {
        "median": round(float(median), 2),
        "p95": round(float(slow), 2),
        "fastest": round(float(times.min()), 2),
    }


if __name__ == "__main__":
    main()
