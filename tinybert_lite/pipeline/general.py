"""Stage 1, general distillation: a pre-trained teacher, any text, intermediate losses only."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from tinybert_lite import UserError, distillation, teacher_cache
from tinybert_lite.data import corpus
from tinybert_lite.data.storage import write_json
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models.loading import load_encoder, max_tokens
from tinybert_lite.models.sizes import parameters
from tinybert_lite.pipeline.config import DistillationConfig, RuntimeConfig, validate
from tinybert_lite.pipeline.evaluation import environment
from tinybert_lite.pipeline.model_cards import write_general
from tinybert_lite.pipeline.run_folder import run_folder, save_model
from tinybert_lite.students import PRESETS, Projection, build_student, svd_init
from tinybert_lite.training import TrainingConfig


@dataclass
class GeneralConfig:
    """Everything stage 1 depends on. `text` are .txt files, or names of the embedded texts."""

    teacher: str = "minilm"
    student: str = "lite"
    start: str = "random"
    mapping: str | list[int] = "uniform"
    projection: str = "paper"
    text: list[str] = field(default_factory=list)
    words: int | None = None
    seed: int = 0
    max_length: int = 128
    batch_size: int = 32
    epochs: float = 1
    learning_rate: float = 1e-3


def run(
    options: GeneralConfig,
    out: str | Path,
    manner: RuntimeConfig | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict:
    """Distil a general student from a pre-trained encoder into `out`/model, resumable.

    No labels, no [MASK], no prediction loss (section 3.3). Returns what metrics.json holds.
    """
    shared = {f.name for f in dataclasses.fields(DistillationConfig)} & set(vars(options)) - {
        "text"
    }
    validate(DistillationConfig(**{name: getattr(options, name) for name in shared}), manner)
    if not 0 <= options.epochs <= 10_000:
        raise UserError(f"--epochs must lie between 0 and 10,000, not {options.epochs:g}.")
    if not 0 < options.learning_rate < 1:
        raise UserError(f"--learning-rate must lie between 0 and 1, not {options.learning_rate:g}.")
    if options.words is not None and options.words < 1:
        raise UserError(f"--words must be 1 or more, not {options.words}.")
    manner, out = manner or RuntimeConfig(), Path(out)
    with run_folder(out, dataclasses.asdict(options), ("general",)):
        gpu = torch.cuda.is_available() and not manner.cpu
        accelerator = Accelerator(cpu=manner.cpu, mixed_precision="bf16" if gpu else "no")
        accelerator.wait_for_everyone()  # the first process has looked at the folder
        state = out / "state"
        state.mkdir(exist_ok=True)
        teacher, tokenizer = load_encoder(options.teacher)
        mapping = layer_mapping(
            teacher.config.num_hidden_layers, PRESETS[options.student].layers, options.mapping
        )
        texts = list(corpus.sentences(options.text or None, options.seed, options.words))
        if not texts:
            raise UserError("The text files hold no sentences to learn from.")
        length = max_tokens(options.max_length, teacher.config, tokenizer)
        data = tokenize(tokenizer, texts, max_length=length)
        if accelerator.is_main_process:
            tell(f"{len(data):,} passages, {int(data.offsets[-1]):,} tokens")
        student = build_student(teacher.config, options.student, options.seed)
        widths = student.config.hidden_size, teacher.config.hidden_size
        projection = Projection(*widths, options.projection, options.seed)
        if options.start == "warm":
            svd_init(student, projection, teacher)
        module = distillation.IntermediateLoss(student, projection, mapping)
        # One pass over much text: keeping answers would cost more than it saves.
        answers = teacher_cache.TeacherCache(teacher.to(accelerator.device), data, mapping)
        settings = TrainingConfig(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            seed=options.seed,
            save_seconds=manner.save_seconds,
        )
        history = distillation.distill_intermediate(
            module, answers, data, settings, state, accelerator, "general",
            progress=manner.progress,
        )  # fmt: skip
        losses = [r["losses"] for r in history.records if "losses" in r]
        metrics = {
            "teacher": options.teacher,
            "student_params": parameters(student.base_model),
            "passages": len(data),
            "tokens": int(data.offsets[-1]),
            "losses": losses[-1] if losses else {},
            "seconds": {"general": round(history.seconds, 1)},
            "seed": options.seed,
            "environment": environment(),
        }
        if accelerator.is_main_process:
            save_model(student.base_model, tokenizer, out / "model", projection)
            write_json(out / "metrics.json", metrics)
            write_general(out, metrics, dataclasses.asdict(options))
        return metrics
