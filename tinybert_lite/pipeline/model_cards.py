"""The report of a run: a model card in plain words, and its figures."""

import json
from pathlib import Path

import numpy as np

from tinybert_lite.data.files import write_text
from tinybert_lite.data.tasks import Task


def write(out: Path, metrics: dict, options: dict, task: Task) -> None:
    """README.md of an output folder, every number taken from its metrics.json."""
    m = metrics
    lines = [
        f"# A student for {task.name}",
        "",
        f"Distilled from `{options['teacher']}` by TinyBERT Lite (TinyBERT, Jiao et al. 2020). "
        f"Data: {task.source}.",
        "",
        "| | teacher | student |",
        "|---|---|---|",
    ]
    if "student" in m:
        t = m["latency_ms"]
        lines += [
            f"| {m['metric']} on {m['test_size']:,} test texts | {m['teacher']:.4f} | "
            f"{m['student']:.4f} |",
            f"| parameters | {m['teacher_params']:,} | {m['student_params']:,} |",
            f"| ms for one text of {t['tokens']} tokens | {t['teacher']:.1f} | {t['student']:.1f} |",
            "",
            f"Answering with the most frequent class scores {m['majority']:.4f}."
            if task.kind == "classification"
            else f"Answering with the mean scores {m['majority']:.4f}.",
        ]
    else:
        lines += [
            f"| {m['metric']} on {m['test_size']:,} test texts | {m['teacher']:.4f} | not made |",
            f"| parameters | {m['teacher_params']:,} | |",
        ]
    lines += [
        "",
        f"Seed {m['seed']}; seconds by phase: "
        + (", ".join(f"{k} {v:.0f}" for k, v in m["seconds"].items()) or "none")
        + f"; {m['environment']['processor']}, {m['environment']['threads']} threads, "
        f"GPU {m['environment']['gpu']}.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        'pipeline("text-classification", "model")("a text of your own")',
        "```",
        "",
        "## Limits",
        "",
        "It was measured on texts like those it was trained on, and on nothing else. It inherits "
        "what its teacher gets wrong.",
        "",
        *_against_the_majority(metrics),
        *(f"- {note}" for note in task.notes),
        "",
        "## Settings",
        "",
        *_settings(options),
    ]
    write_text(out / "README.md", "\n".join(lines))


def _settings(options: dict) -> list[str]:
    """The settings as JSON; one without a value had no part in the run."""
    used = {name: value for name, value in options.items() if value is not None}
    return ["```json", json.dumps(used, indent=2), "```", ""]


def _against_the_majority(metrics: dict) -> list[str]:
    """What is kept above the most frequent answer, or that nothing is."""
    if "student" not in metrics:
        return []
    least, teacher, student = (metrics[k] for k in ("majority", "teacher", "student"))
    if student <= least:
        return [
            "**The student is no better than always giving the most frequent answer: it has "
            "learnt nothing yet.**",
            "",
        ]
    if teacher <= least:
        return ["**The teacher is no better than always giving the most frequent answer.**", ""]
    share = (student - least) / (teacher - least)
    return [f"Above the most frequent answer the student keeps {share:.1%} of its teacher.", ""]


def write_general(out: Path, metrics: dict, options: dict) -> None:
    """README.md of a generally distilled student."""
    m, text = (
        metrics,
        ", ".join(options["general_text"]) or "the embedded texts (see data/README.md)",
    )
    lines = [
        "# A general student",
        "",
        f"Stage 1 of TinyBERT (Jiao et al. 2020): distilled from `{options['teacher']}` on "
        f"{m['passages']:,} passages, {m['tokens']:,} tokens of {text}, without labels. It has "
        f"{m['student_params']:,} parameters and no head: give it to `run` or `distill` with "
        "`--init FOLDER/model`.",
        "",
        f"Seed {m['seed']}; {m['seconds']['general']:.0f} seconds on "
        f"{m['environment']['processor']}, {m['environment']['threads']} threads, GPU "
        f"{m['environment']['gpu']}.",
        "",
        "Last losses: " + ", ".join(f"{k} {v:.4f}" for k, v in m["losses"].items()) + ".",
        "",
        *_settings(options),
    ]
    write_text(out / "README.md", "\n".join(lines))


def draw(out: Path, metrics: dict) -> None:
    """figures/<phase>.png: the losses of log.jsonl over the steps, a curve each."""
    from tinybert_lite.explorer import plots

    log = out / "log.jsonl"
    if not log.is_file():
        return
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (out / "figures").mkdir(exist_ok=True)
    for phase in metrics["seconds"]:
        rows = [r for r in records if r["phase"] == phase and "losses" in r]
        if rows:
            names = list(rows[0]["losses"])
            figure = plots.training_curves(
                [r["step"] for r in rows],
                np.array([[r["losses"][name] for name in names] for r in rows]),
                names,
                f"Losses of phase {phase}",
                "loss",
            )
            figure.savefig(out / "figures" / f"{phase}.png", dpi=120)
