"""The report of a run: what metrics.json holds, the model card and the figures."""

from pathlib import Path

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from tinybert_lite.data.atomic_files import write_json, write_text
from tinybert_lite.data.metrics import class_scores, confusion
from tinybert_lite.data.tasks import Task
from tinybert_lite.data.tokenized import TokenizedDataset
from tinybert_lite.models import inference
from tinybert_lite.models.sizes import flops, parameters
from tinybert_lite.pipeline import evaluation, model_cards
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.task_data import TaskData


def task_metrics(
    task: Task,
    teacher: PreTrainedModel,
    student: PreTrainedModel | None,
    test: TokenizedDataset,
    max_length: int,
) -> dict:
    """Scores, sizes and latency (ms per text) of the models on the test split."""
    models: dict[str, nn.Module] = {"teacher": teacher}
    if student is not None:
        models["student"] = student
    assert test.labels is not None
    answers = {
        name: evaluation.predicted_labels(task, inference.predict(m, test))
        for name, m in models.items()
    }
    scores = {name: task.score(found, test.labels) for name, found in answers.items()}
    main = {name: s[task.metric] for name, s in scores.items()}
    size, majority = parameters(teacher), task.majority()[task.metric]
    metrics = {
        "task": task.name,
        "kind": task.kind,
        "source": task.source,
        "metric": task.metric,
        **main,
        "retained": _ratio(main.get("student"), main["teacher"]),
        "retained_above_majority": _ratio_above(main, majority),
        "majority": majority,
        "test_size": len(test),
        "all_scores": scores,
        **_by_class(task, answers, test.labels),
        "teacher_params": size,
        "teacher_flops": flops(teacher.config),
    }
    if student is None:
        return metrics
    one = inference.latency(models, batch=1, tokens=max_length)
    many = inference.latency(models, batch=32, tokens=max_length, repeats=3)
    student_size = parameters(student)
    return metrics | {
        "student_params": student_size,
        "student_flops": flops(student.config),
        "size_ratio": size / student_size,
        "latency_ms": {**one, "batch": 1, "tokens": max_length},
        "latency_ms_batch_32": {**many, "batch": 32, "tokens": max_length},
        "speedup": one["teacher"] / one["student"],
        "speedup_batch_32": many["teacher"] / many["student"],
    }


def _by_class(task: Task, answers: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    """Scores of each class for each model, and where a text has one label the confusion matrix."""
    if task.kind == "regression":
        return {}
    names = task.label_names
    found: dict[str, dict] = {
        "per_class": {who: class_scores(names, own, labels) for who, own in answers.items()}
    }
    if task.kind == "classification":
        found["confusion"] = {
            who: confusion(len(names), own, labels) for who, own in answers.items()
        }
    return found


def run_facts(config: DistillationConfig, finished: dict[str, dict], data: TaskData) -> dict:
    """Texts that were read, seed, seconds and dev score of each phase, environment and notes."""
    texts = {name: len(data.task.splits[name]) for name in ("train", "dev")}
    if "prediction" in finished:
        texts |= {
            "unlabeled": len(data.unlabeled),
            "augmented": len(data.augmented[0]),
            "recombined": finished["prediction"]["recombine"],
        }
    return {
        "texts": texts,
        "seed": config.seed,
        "seconds": {phase: facts["seconds"] for phase, facts in finished.items()},
        "dev": {phase: facts["dev"] for phase, facts in finished.items()},
        "environment": evaluation.environment(),
        "notes": data.task.notes,
    }


def general_metrics(config: DistillationConfig, facts: dict) -> dict:
    """The metrics of a general distillation, from the facts that its phase left."""
    kept = ("student_params", "passages", "tokens", "losses")
    return {
        "teacher": config.teacher,
        **{name: facts[name] for name in kept},
        "seconds": {"general": facts["seconds"]},
        "seed": config.seed,
        "environment": evaluation.environment(),
    }


def write(out: Path, metrics: dict, settings: dict, phases: tuple[str, ...]) -> None:
    """metrics.json, log.jsonl, README.md and figures/ of a run."""
    write_json(out / "metrics.json", metrics)
    _copy_log(out)
    model_cards.write(out, metrics, settings, phases)
    model_cards.draw(out, metrics)


def _copy_log(out: Path) -> None:
    log = out / "state" / "log.jsonl"
    if log.is_file():
        write_text(out / "log.jsonl", log.read_text(encoding="utf-8"))


def _ratio_above(scores: dict[str, float], majority: float) -> float | None:
    """(student − majority) / (teacher − majority), None where the teacher gains nothing."""
    gain = scores["teacher"] - majority
    return _ratio(scores["student"] - majority, gain) if "student" in scores and gain > 0 else None


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or whole == 0 else part / whole
