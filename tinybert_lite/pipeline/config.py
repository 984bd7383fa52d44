"""Run configuration, declared once: the command line, its help and config.json come from here.

Nothing heavy is imported, so that `--help` is instant; `validation` checks what needs torch.
"""

import dataclasses
import difflib
import json
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from tinybert_lite import UserError

PHASES = ("general", "finetune", "augment", "intermediate", "prediction")
COMMAND_PHASES = {
    "run": ("finetune", "augment", "intermediate", "prediction"),
    "finetune": ("finetune",),
    "general": ("general",),
    "distill": ("augment", "intermediate", "prediction"),
}
STUDENT_PHASES = ("general", "intermediate", "prediction")
TASK_PHASES = COMMAND_PHASES["run"]
# Steps where the number of epochs is not given: enough for reviews, many passes over a small file.
ENOUGH_STEPS = {"finetune": 450, "intermediate": 1700, "prediction": 1100}
REVIEWS_EPOCHS = {"finetune": 2, "intermediate": 2.8, "prediction": 2}  # what it is for reviews
# The prediction step on recombined texts: as many for each training text as N_a of Algorithm 1.
RECOMBINED_PER_TEXT, MOST_RECOMBINED = 20, 160_000
RECOMBINED_RECIPE: dict[str, Any] = {"epochs": 3.0, "batch_size": 128, "learning_rate": 1e-3}
MAX_SEED = 2**32 - 1


def parse_mapping(text: str) -> str | list[int]:
    """A strategy's name, or teacher layers as 2,4,6. Raises UserError."""
    if not text[:1].isdigit():
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--mapping takes uniform, top, bottom, or teacher layers such as 2,4,6, not {text!r}."
        ) from error


def option(
    default: Any,
    help: str,
    *,
    phases: tuple[str, ...] = PHASES,
    group: str = "training",
    flag: str | None = None,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    const: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option of the commands with these `phases`.

    `const` is the value of an option that is given without one.
    """
    metadata = {
        "help": help,
        "phases": phases,
        "group": group,
        "flag": flag,
        "metavar": metavar,
        "parse": parse,
        "const": const,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _of_task(default: Any, help: str, metavar: str | None = None) -> Any:
    return option(default, help, phases=TASK_PHASES, group="task", metavar=metavar)


def _epochs(phase: str) -> Any:
    recombined = f"with recombined texts {RECOMBINED_RECIPE['epochs']:g}, else "
    return option(
        None,
        f"passes over the texts (default: {recombined if phase == 'prediction' else ''}"
        f"enough for {ENOUGH_STEPS[phase]:,} steps, at least 2 "
        f"and at most 30; for reviews {REVIEWS_EPOCHS[phase]:g})",
        phases=(phase,),
    )


@dataclass
class DistillationConfig:
    """Everything a run's result depends on; equal configurations give equal weights on a CPU."""

    task: str | None = _of_task(None, "reviews, review-ratings, glue/sst2 …", "NAME")
    train: str | None = _of_task(
        None, "your own .csv, .tsv, .jsonl, .parquet or .xlsx file, or hub:NAME", "FILE"
    )
    test: str | None = _of_task(None, "your own test file (default: a fifth of the rows)", "FILE")
    text: str | None = _of_task(None, "column with the texts", "COLUMN")
    text_pair: str | None = _of_task(None, "column with the second texts", "COLUMN")
    label: str | None = _of_task(None, "column with the labels", "COLUMN")
    regression: bool = _of_task(False, "the labels are numbers to predict")
    multi_label: str | None = option(
        None,
        "a text may have several labels, or none, with SEPARATOR between them in the label column "
        "(| if you give no value); list if the column holds lists (default: one label per text)",
        phases=TASK_PHASES,
        group="task",
        metavar="SEPARATOR",
        const="|",
    )

    teacher: str = option(
        "minilm", "minilm (fetched once), a model folder, or a hub name", group="models"
    )
    student: str = option(
        "lite",
        "layers × width (parameters): lite 3 × 192 (7.3 M), nano 3 × 84 (2.9 M), "
        "tinybert4 4 × 312 (14.4 M), tinybert6 6 × 768 (67.0 M), or your own size, such as 3x128",
        phases=STUDENT_PHASES,
        group="models",
    )
    heads: int | None = option(
        None,
        "the student's attention heads (default: as many as the teacher's, or the next smaller number that "
        "divides both widths)",
        phases=STUDENT_PHASES,
        group="models",
    )
    feed_forward: int | None = option(
        None,
        "width of the student's feed-forward layers (default: the preset's; for your own size, four "
        "times its width)",
        phases=STUDENT_PHASES,
        group="models",
        metavar="WIDTH",
    )
    embedding_size: int | None = option(
        None,
        "width of the student's embedding tables, which hold most of a small student's parameters; a "
        "matrix projects them to the width of its layers (default: the width of its layers)",
        phases=STUDENT_PHASES,
        group="models",
        metavar="WIDTH",
    )
    relation_heads: int | None = option(
        None,
        "compare attention on this many relation heads, as MiniLMv2 does (default: as many as "
        "the teacher's heads if that divides the student's width, else the student's heads; "
        "equation 7 if both models have as many)",
        phases=STUDENT_PHASES,
        group="models",
        metavar="R",
    )
    init: str | None = option(
        None,
        "the student's initial weights: random, svd (of the teacher's embeddings), general (the "
        "shipped general student of this size), the name of a shipped general student, or a model "
        "folder written by the command general (default: general if the teacher is minilm or a "
        "shipped one and a general student of this size is shipped, else svd; for the command "
        "general: random)",
        phases=STUDENT_PHASES,
        group="models",
    )
    mapping: str | list[int] = option(
        "uniform",
        "g(m): uniform (2,4,6 of 6 for a student of 3 layers), top, bottom, or layers such as 1,3,6",
        phases=STUDENT_PHASES,
        group="models",
        parse=parse_mapping,
    )
    projection: str = option(
        "paper",
        "paper (W_e and W_h) or shared (one for all outputs, as in the authors' code)",
        phases=STUDENT_PHASES,
        group="models",
    )

    general_text: list[str] = option(
        [],
        ".txt files (default: the course's texts)",
        phases=("general",),
        flag="--text",
        metavar="FILE",
    )
    general_words: int | None = option(
        None, "use at most this many words (default: all)", phases=("general",), flag="--words"
    )
    general_epochs: float = option(
        1.0, "passes over the text", phases=("general",), flag="--epochs"
    )
    general_learning_rate: float = option(
        1e-3, "peak learning rate", phases=("general",), flag="--learning-rate"
    )

    unlabeled: bool = option(
        True,
        "for reviews: do not train on the additional, unlabeled sentences",
        phases=("intermediate", "prediction"),
        flag="--no-unlabeled",
    )
    augment: int = option(
        0, "augmented variants of each sentence (Algorithm 1); 0 for none", phases=("augment",)
    )
    masked_lm: str = option(
        "minilm",
        "the masked language model that proposes words: minilm (shipped head), a model folder, or "
        "a hub name",
        phases=("augment",),
        metavar="NAME",
    )
    quick: bool = option(
        False,
        "the short recipe, without recombined texts: a third of the time, a less accurate student",
        phases=("prediction",),
    )
    recombine: int | None = option(
        None,
        "number of recombined texts that the prediction step trains on as well (default: "
        f"{RECOMBINED_PER_TEXT} for each training text, at most {MOST_RECOMBINED:,}; with --quick 0)",
        phases=("prediction",),
    )
    temperature: float = option(1.0, "temperature of equation 10", phases=("prediction",))
    lora_rank: int = option(
        16,
        "fine-tune low-rank updates (LoRA) of this rank; 0 fine-tunes all weights",
        phases=("finetune",),
        metavar="RANK",
    )

    metric: str | None = option(
        None,
        'score that selects the checkpoint and that "retained" refers to: accuracy, f1, macro_f1, '
        "matthews; for several labels per text micro_f1, macro_f1; for numbers pearson, spearman "
        "(default: the task's own; the student is then selected by its agreement with the teacher "
        "on dev)",
        phases=TASK_PHASES,
        metavar="NAME",
    )
    seed: int = option(0, "seed of every random choice")
    bf16: bool = option(
        False,
        "train in bfloat16 on a CPU, as on a GPU, and run the teacher in it: faster where the processor has "
        "AVX512-BF16 or AMX, refused elsewhere; results differ slightly",
    )
    max_length: int = option(128, "longest text in tokens; the rest is cut off")
    batch_size: int = option(32, "texts per step")
    finetune_epochs: float | None = _epochs("finetune")
    finetune_learning_rate: float | None = option(
        None,
        "peak learning rate (default: 0.001 with LoRA, 0.0001 with --lora-rank 0)",
        phases=("finetune",),
    )
    intermediate_epochs: float | None = _epochs("intermediate")
    intermediate_learning_rate: float = option(1e-3, "peak learning rate", phases=("intermediate",))
    prediction_epochs: float | None = _epochs("prediction")
    prediction_learning_rate: float | None = option(
        None,
        f"peak learning rate (default: {RECOMBINED_RECIPE['learning_rate']:g} with recombined "
        "texts, else 0.0003)",
        phases=("prediction",),
    )
    prediction_batch_size: int | None = option(
        None,
        f"texts per step (default: {RECOMBINED_RECIPE['batch_size']} with recombined texts, else "
        "--batch-size)",
        phases=("prediction",),
    )


@dataclass
class RuntimeConfig:
    """How a run is carried out; may change when the run is resumed."""

    cpu: bool = option(False, "do not use a GPU", group="runtime")
    progress: bool = option(True, "no progress bars", group="runtime", flag="--quiet")
    save_seconds: float = option(60.0, "seconds between checkpoints", group="runtime")
    keep_gib: float = option(
        4.0, "GiB of memory for keeping the teacher's outputs", group="runtime"
    )
    keep_disk_gib: float = option(
        0.0,
        "GiB of disk for teacher outputs that do not fit in memory; with 0 the teacher then runs at "
        "every step",
        group="runtime",
    )


def options(
    kind: type, phases: Iterable[str] = PHASES, group: str | None = None
) -> list[dataclasses.Field]:
    """The fields of a configuration class that matter to these phases, in their order."""
    wanted = set(phases)
    return [
        f
        for f in dataclasses.fields(kind)
        if wanted & set(f.metadata["phases"]) and group in (None, f.metadata["group"])
    ]


def flag(f: dataclasses.Field) -> str:
    """The command-line spelling of a field: `--batch-size`."""
    return f.metadata["flag"] or "--" + f.name.replace("_", "-")


def value_type(f: dataclasses.Field) -> type:
    """The type of a field's value where there is one: `int` of `int | None`."""
    kinds = [k for k in get_args(f.type) if k is not types.NoneType]
    return kinds[0] if isinstance(f.type, types.UnionType) else f.type  # type: ignore[return-value]


def settings_of(config: DistillationConfig, phases: Iterable[str]) -> dict[str, Any]:
    """The settings that matter to these phases, as config.json keeps them."""
    return {f.name: getattr(config, f.name) for f in options(DistillationConfig, phases)}


def recombined_count(config: DistillationConfig, training_texts: int) -> int:
    """How many recombined texts the prediction step reads, given or by default."""
    if config.recombine is not None:
        return config.recombine
    return 0 if config.quick else min(MOST_RECOMBINED, RECOMBINED_PER_TEXT * training_texts)


# The file ---------------------------------------------------------------------------------------


def read_config(file: str | Path, phases: tuple[str, ...]) -> tuple[dict, dict]:
    """The settings and the runtime settings in a run's config.json.

    Raises UserError when it is not the config.json of a run of these phases.
    """
    content = _read_object(Path(file))
    of = tuple(content["phases"])
    if of != phases:
        command = next((name for name, known in COMMAND_PHASES.items() if known == of), None)
        hint = f"use it with {command} --config {file}" if command else "choose another file"
        raise UserError(
            f"{file} is from a run with other phases ({', '.join(map(str, of))}); {hint}."
        )
    runtime = content.get("runtime", {})
    if not isinstance(runtime, dict):
        raise UserError(
            f"{file} gives runtime as {runtime!r}; it must be an object, or be left out."
        )
    settings = {k: v for k, v in content.items() if k not in ("version", "phases", "runtime")}
    _check(settings, DistillationConfig, phases, file)
    _check(runtime, RuntimeConfig, phases, file)
    return settings, runtime


def _read_object(file: Path) -> dict:
    takes = "--config takes the config.json that a run wrote into its --out folder"
    if file.is_dir():
        raise UserError(f"{file} is a folder; --config takes the config.json in it.")
    if not file.is_file():
        raise UserError(f"There is no file {file}; {takes}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {takes}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON; {takes}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("phases"), list):
        raise UserError(f"{file} is not the configuration of a run; {takes}.")
    return content


def _check(values: dict, kind: type, phases: tuple[str, ...], file: str | Path) -> None:
    """Refuse settings that do not exist or have a value of the wrong type."""
    known = {f.name: f for f in options(kind, phases)}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "remove it."
            raise UserError(f"{file} has the unknown setting {name!r}; {hint}")
        if not _is_a(value, known[name].type):
            shown = getattr(known[name].type, "__name__", None) or str(known[name].type)
            raise UserError(
                f"{file} gives {name} as {json.dumps(value)}; it must be {_TYPES.get(shown, shown)}."
            )


_TYPES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list of strings",
    "str | None": "a string or null",
    "int | None": "a whole number or null",
    "float | None": "a number or null",
    "str | list[int]": "a string or a list of whole numbers",
}


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has the declared type."""
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, k) for k in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(v, get_args(kind)[0]) for v in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
