"""Checks of a run's configuration, made before anything is loaded or trained."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from tinybert_lite import UserError
from tinybert_lite.data import tasks
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import catalog
from tinybert_lite.models.loading import load_config
from tinybert_lite.pipeline.config import (
    MAX_SEED,
    PHASES,
    DistillationConfig,
    RuntimeConfig,
    flag,
    options,
)
from tinybert_lite.students import (
    Preset,
    Projection,
    build_student,
    init_from_general,
    student_config,
    student_preset,
)
from tinybert_lite.training import check_bf16


def load_task(config: DistillationConfig) -> tasks.Task:
    """The task that the configuration names: a known one, or the user's own files."""
    if (config.task is None) == (config.train is None):
        raise UserError(
            "Give either a task (--task reviews) or your own file (--train a.csv --text COLUMN "
            "--label COLUMN)."
        )
    if config.task is not None:
        own: dict[str, object] = {"--test": config.test, "--text": config.text}
        own |= {"--label": config.label, "--text-pair": config.text_pair}
        own |= {"--regression": config.regression, "--multi-label": config.multi_label}
        odd = [name for name, value in own.items() if value]
        if odd:
            raise UserError(f"{', '.join(odd)} belongs to --train, not to --task {config.task}.")
        return with_metric(tasks.load_task(config.task), config.metric)
    if config.train is None or config.text is None or config.label is None:
        missing = {"--text COLUMN": config.text, "--label COLUMN": config.label}
        needed = " and ".join(name for name, value in missing.items() if value is None)
        raise UserError(f"--train also needs {needed}.")
    if config.regression and config.multi_label is not None:
        raise UserError("--regression and --multi-label exclude each other; give one of them.")
    if config.multi_label == "":
        raise UserError('--multi-label takes the separator of the labels, such as "|", or list.')
    task = tasks.load_files(
        config.train,
        config.test,
        text=config.text,
        label=config.label,
        text_pair=config.text_pair,
        regression=config.regression,
        multi_label=config.multi_label,
    )
    return with_metric(task, config.metric)


def with_metric(task: tasks.Task, metric: str | None) -> tasks.Task:
    """The task with another main metric. Raises UserError where it has no such metric."""
    if metric is None:
        return task
    labels: Any = task.splits["train"].labels
    known = [name for name in task.score(labels, labels) if name != "mse"]  # larger is better
    if metric not in known:
        raise UserError(f"{task.name} has no metric {metric!r}; choose one of {', '.join(known)}.")
    return dataclasses.replace(task, metric=metric)


def validate(
    config: DistillationConfig,
    runtime: RuntimeConfig | None = None,
    phases: tuple[str, ...] = PHASES,
) -> None:
    """Refuse settings that cannot work in these phases. Raises UserError."""
    _check_ranges(config, runtime or RuntimeConfig(), phases)
    student_preset(config.student)
    if config.projection not in ("paper", "shared"):
        raise UserError(f"There is no projection {config.projection!r}; choose paper or shared.")
    _check_init(config)
    if config.masked_lm != "minilm" and not config.augment:
        raise UserError("--masked-lm proposes words for --augment; give both, or neither.")
    if config.quick and config.recombine:
        raise UserError("--quick leaves recombined texts out; give --quick or --recombine.")
    if not config.unlabeled and config.task not in ("reviews", "review-ratings"):
        raise UserError("--no-unlabeled is for --task reviews and review-ratings; leave it out.")
    if config.bf16:
        check_bf16(runtime is not None and runtime.cpu)


def _check_ranges(
    config: DistillationConfig, runtime: RuntimeConfig, phases: tuple[str, ...]
) -> None:
    """Refuse numbers outside the range of their setting."""
    runtime_names = {"save_seconds", "keep_gib", "keep_disk_gib"}
    for f in options(RuntimeConfig, phases):
        value = getattr(runtime, f.name)
        if f.name in runtime_names and not 0 <= value < math.inf:
            raise UserError(f"{flag(f)} must be 0 or more, not {value:g}.")
    if not 0 <= config.seed <= MAX_SEED:
        raise UserError(f"--seed must be between 0 and {MAX_SEED:,}, not {config.seed}.")
    if not 0 < config.temperature < math.inf:
        raise UserError(f"--temperature must be a number above 0, not {config.temperature:g}.")
    least = {
        "batch_size": 1,
        "max_length": 8,
        "lora_rank": 0,
        "augment": 0,
        "recombine": 0,
        "prediction_batch_size": 1,
        "heads": 1,
        "feed_forward": 1,
        "embedding_size": 1,
        "relation_heads": 1,
        "general_words": 1,
    }
    for f in options(DistillationConfig, phases):
        value, name = getattr(config, f.name), flag(f)
        if value is None:
            continue
        if f.name in least and value < least[f.name]:
            raise UserError(f"{name} must be {least[f.name]} or more, not {value}.")
        if f.name.endswith("_epochs") and not 0 <= value <= 10_000:
            raise UserError(f"{name} must be between 0 and 10,000, not {value:g}.")
        if f.name.endswith("_learning_rate") and not 0 < value < 1:
            raise UserError(f"{name} must be between 0 and 1, not {value:g}.")


def _check_init(config: DistillationConfig) -> None:
    """Refuse an initialization that does not exist."""
    start, shipped = general_student(config), catalog.general_names()
    if start is None or start in shipped:
        return
    if config.init == "general":
        raise UserError(
            f"No general student of size {config.student}"
            + (f" with {config.heads} heads" if config.heads else "")
            + " is shipped"
            + (f" (there are {', '.join(shipped)})" if shipped else "")
            + "; make one with the command general and give its model folder as --init."
        )
    if not Path(start).is_dir():
        raise UserError(
            f"There is no folder {start}; --init takes random, svd, general"
            + "".join(f", {name}" for name in shipped)
            + ", or a model folder written by the command general."
        )


def general_student(config: DistillationConfig) -> str | None:
    """The general student to start from, as a folder or a shipped name; None for random or SVD."""
    if config.init in (None, "random", "svd"):
        return None
    return shipped_general(config) or "general" if config.init == "general" else config.init


def shipped_general(config: DistillationConfig) -> str | None:
    """The shipped general student of the configured size, of the teacher's heads if none are given."""
    preset = preset_of(config)
    wanted = preset.layers, preset.width, preset.feed_forward, preset.embedding_size
    heads = preset.heads or 12  # of the teacher that the shipped students learned from
    fits = (
        name for name in catalog.general_names() if catalog.student_size(name) == (*wanted, heads)
    )
    return next(fits, None)


def preset_of(config: DistillationConfig) -> Preset:
    """The size of the configured student. Raises UserError for an unknown one."""
    sizes = {"heads": config.heads, "feed_forward": config.feed_forward}
    return student_preset(config.student, embedding_size=config.embedding_size, **sizes)


def validate_student(config: DistillationConfig) -> None:
    """Refuse a student that does not fit its teacher, before hours of fine-tuning it."""
    teacher = load_config(config.teacher)
    preset = preset_of(config)
    student = student_config(teacher, preset)
    for width in (student.hidden_size, teacher.hidden_size):
        if width % (config.relation_heads or 1):
            raise UserError(
                f"--relation-heads {config.relation_heads} does not divide the width {width}; choose a "
                "number that divides the widths of student and teacher."
            )
    layer_mapping(teacher.num_hidden_layers, student.num_hidden_layers, config.mapping)
    start = general_student(config)
    if start is not None:  # the sizes of all its weights: only loading them tells
        model = build_student(teacher, preset)
        widths = student.hidden_size, teacher.hidden_size
        init_from_general(model, Projection(*widths, config.projection), start)
