"""What a run depends on, said once, and refused early where it cannot work."""

import math
from dataclasses import dataclass
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.data import tasks
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import catalog
from tinybert_lite.models.loading import load_config
from tinybert_lite.students import PRESETS, student_config


@dataclass
class DistillationConfig:
    """Everything a run depends on; two runs with equal options give equal weights on a CPU."""

    task: str | None = None
    train: str | None = None
    test: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    regression: bool = False
    teacher: str = "minilm"
    student: str = "lite"
    start: str | None = None
    mapping: str | list[int] = "uniform"
    projection: str = "paper"
    general: str | None = None
    unlabelled: bool = True
    augment: int = 0
    masked_lm: str = "minilm"
    temperature: float = 1.0
    seed: int = 0
    max_length: int = 128
    batch_size: int = 32
    lora_rank: int = 16
    finetune_epochs: float | None = None
    finetune_learning_rate: float | None = None
    intermediate_epochs: float | None = None
    intermediate_learning_rate: float = 1e-3
    prediction_epochs: float | None = None
    prediction_learning_rate: float = 3e-4


@dataclass
class RuntimeConfig:
    """How a run is carried out: may differ from a command to its continuation."""

    cpu: bool = False
    progress: bool = True
    save_seconds: float = 60.0
    keep_gib: float = 4.0
    keep_disk_gib: float = 0.0


def load_task(options: DistillationConfig) -> tasks.Task:
    """The task the options name: a known one, or the user's own files."""
    if (options.task is None) == (options.train is None):
        raise UserError(
            "Name either a task (--task reviews) or your own file (--train a.csv --text COLUMN "
            "--label COLUMN)."
        )
    if options.task is not None:
        own = {"--test": options.test, "--text": options.text, "--label": options.label}
        own |= {"--text-pair": options.text_pair, "--regression": options.regression}
        odd = [name for name, value in own.items() if value]
        if odd:
            raise UserError(f"{', '.join(odd)} belongs to --train, not to --task {options.task}.")
        return tasks.load_task(options.task)
    if options.text is None or options.label is None:
        raise UserError("--train also needs --text COLUMN and --label COLUMN.")
    return tasks.load_files(
        options.train,
        options.test,
        text=options.text,
        label=options.label,
        text_pair=options.text_pair,
        regression=options.regression,
    )


def validate(options: DistillationConfig, manner: RuntimeConfig | None = None) -> None:
    """Refuse options that cannot work before anything is loaded. Raises UserError."""
    for name in ("keep_gib", "keep_disk_gib", "save_seconds"):
        value = getattr(manner or RuntimeConfig(), name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {value:g}.")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must lie between 0 and {2**32 - 1:,}, not {options.seed}.")
    if options.student not in PRESETS:
        raise UserError(f"There is no student {options.student!r}; take {', '.join(PRESETS)}.")
    if options.start not in (None, "random", "warm"):
        raise UserError(f"There is no start {options.start!r}; take random or warm.")
    if options.projection not in ("paper", "shared"):
        raise UserError(f"There is no projection {options.projection!r}; take paper or shared.")
    if options.general and not Path(options.general).is_dir():
        shipped = catalog.general_names()
        if options.general not in shipped:
            raise UserError(
                f"There is no folder {options.general}; --general takes the model folder of a "
                "general student, as general writes it"
                + (f", or {', '.join(shipped)}." if shipped else ".")
            )
    if options.start and options.general:
        raise UserError(
            f"--start {options.start} and --general exclude each other: a student starts once."
        )
    if options.masked_lm != "minilm" and not options.augment:
        raise UserError("--masked-lm proposes words for --augment; give both, or neither.")
    if not options.unlabelled and options.task not in ("reviews", "review-ratings"):
        raise UserError("--no-unlabelled is for --task reviews and review-ratings; leave it out.")
    if not 0 < options.temperature < math.inf:
        raise UserError(f"--temperature must be a number above 0, not {options.temperature:g}.")
    for name, least in (("batch_size", 1), ("max_length", 8)):
        if getattr(options, name) < least:
            raise UserError(
                f"--{name.replace('_', '-')} must be {least} or more, not {getattr(options, name)}."
            )
    if options.lora_rank < 0:
        raise UserError(f"--lora-rank is a rank, 0 for none, not {options.lora_rank}.")
    if options.augment < 0:
        raise UserError(f"--augment is the number of variants a sentence, not {options.augment}.")
    for phase in ("finetune", "intermediate", "prediction"):
        epochs, rate = (
            getattr(options, f"{phase}_epochs"),
            getattr(options, f"{phase}_learning_rate"),
        )
        if epochs is not None and not 0 <= epochs <= 10_000:
            raise UserError(f"--{phase}-epochs must lie between 0 and 10,000, not {epochs:g}.")
        if rate is not None and not 0 < rate < 1:
            raise UserError(f"--{phase}-learning-rate must lie between 0 and 1, not {rate:g}.")


def validate_student(options: DistillationConfig) -> None:
    """Refuse a student that does not fit its teacher, before hours of fine-tuning it."""
    teacher = load_config(options.teacher)
    student = student_config(teacher, options.student)
    layer_mapping(teacher.num_hidden_layers, student.num_hidden_layers, options.mapping)
