"""From a teacher and a text to a folder with a student in it: the phases in order, resumable."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tinybert_lite import UserError, augmentation, distillation, teacher_cache
from tinybert_lite.data import corpus, tasks
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.data.word_vectors import Glove
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import catalog, inference, loading, lora
from tinybert_lite.models.labels import label_maps
from tinybert_lite.models.sizes import parameters
from tinybert_lite.pipeline import evaluation, report
from tinybert_lite.pipeline.config import (
    COMMAND_PHASES,
    ENOUGH_STEPS,
    RECOMBINED_RECIPE,
    DistillationConfig,
    RuntimeConfig,
    settings_of,
)
from tinybert_lite.pipeline.run_folder import FinishedPhases, run_folder, save_model
from tinybert_lite.pipeline.task_data import TaskData
from tinybert_lite.pipeline.teacher_outputs import TeacherOutputs
from tinybert_lite.pipeline.validation import (
    general_student,
    preset_of,
    shipped_general,
    validate,
    validate_student,
)
from tinybert_lite.students import (
    Projection,
    build_student,
    init_from_general,
    student_preset,
    svd_init,
)
from tinybert_lite.training import History, TrainingConfig, make_accelerator

logger = logging.getLogger(__name__)


def run(
    config: DistillationConfig,
    out: str | Path,
    runtime: RuntimeConfig | None = None,
    phases: tuple[str, ...] = COMMAND_PHASES["run"],
) -> dict:
    """Carry out the phases, measure the result, write all of it into `out`.

    Returns the content of metrics.json. Called again with the same configuration it resumes where
    it stopped. Raises UserError for invalid input.
    """
    runtime, out = runtime or RuntimeConfig(), Path(out)
    validate(config, runtime, phases)
    if {"general", "intermediate"} & set(phases):
        validate_student(config)
    with run_folder(out, settings_of(config, phases), phases, dataclasses.asdict(runtime)):
        return DistillationPipeline(config, out, runtime, phases).run()


class DistillationPipeline:
    """One run: a method for each phase, and what the phases share."""

    def __init__(
        self,
        config: DistillationConfig,
        out: Path,
        runtime: RuntimeConfig | None = None,
        phases: tuple[str, ...] = COMMAND_PHASES["run"],
    ):
        self.config, self.out, self.phases, self.state = config, out, phases, out / "state"
        self.runtime = runtime = runtime or RuntimeConfig()
        self.accelerator = make_accelerator(runtime.cpu, config.bf16)
        self.is_main = self.accelerator.is_main_process  # of several, the one that writes
        self.finished = FinishedPhases(out, phases, self.is_main)
        self.data = TaskData(config)
        self.outputs = TeacherOutputs(self.state, runtime, self.accelerator, config.bf16)
        self.student: PreTrainedModel | None = None

    def run(self) -> dict:
        """Carry out the phases and report; returns the content of metrics.json."""
        self.prepare()
        self.announce()
        phases: dict[str, Callable[[], None]] = {
            "general": self.general,
            "finetune": self.finetune,
            "augment": self.augment,
            "intermediate": self.intermediate,
            "prediction": self.prediction,
        }
        for phase in self.phases:
            phases[phase]()
        return self.report()

    def prepare(self) -> None:
        """Find out what is done already, and load everything that may be refused."""
        self.accelerator.wait_for_everyone()  # the first process has checked the folder
        self.state.mkdir(exist_ok=True)
        self.finished.load()
        self.accelerator.wait_for_everyone()  # all have read the same before it changes
        for phase in self.finished.facts:  # killed before these were removed
            self.finished.remove(self.finished.checkpoint(phase))
        if "prediction" in self.finished:
            self.finished.remove(self.outputs.logits_file)
        if not self.has_task:
            return
        self.data.prepare(distills="prediction" in self.phases)
        if "finetune" not in self.phases:
            _ = self.teacher

    def announce(self) -> None:
        """Log the phases with their steps, and which of them are done."""
        phases = {p: self.ahead(p) for p in self.phases if p != "augment" or self.config.augment}
        said = ", ".join(f"{phase} ({what})" for phase, what in phases.items())
        timed = self.runtime.progress and set(phases.values()) != {"done"}
        bars = "; once its first steps are timed, each phase's bar shows the time left"
        logger.info("phases: %s, then the report%s", said, bars if timed else "")

    def ahead(self, phase: str) -> str:
        """What is known of a phase before the first one starts: "done", or its number of steps."""
        if phase in self.finished:
            return "done"
        if phase == "general":
            return "its steps follow once the text is read"
        texts, more = len(self.data.splits["train"]), 0
        if phase == "augment":
            return f"{self.config.augment} draws for each of {texts:,} texts"
        if phase != "finetune":
            if self.config.augment:
                return "its steps depend on the augmented texts"
            texts += len(self.data.unlabeled)
        if phase == "prediction":
            more = len(self.data.recombined_texts[0])
        settings = training_config(self.config, phase, texts + more, recombined=more > 0)
        per_epoch = math.ceil((texts + more) / settings.batch_size)
        steps = settings.steps(per_epoch) if settings.epochs else 0
        resumed = self.finished.checkpoint(phase).is_file()
        return f"{steps:,} steps, resumed" if resumed else f"{steps:,} steps"

    # The phases -------------------------------------------------------------------------------

    def general(self) -> None:
        """Stage 1: equations 7 to 9 on general text, from a pre-trained encoder (section 3.2).

        No labels and no prediction loss. The student's encoder goes to `general/`, or to `model/`
        where this is the only phase.
        """
        if "general" in self.finished:
            return
        config = self.config
        teacher, tokenizer = loading.load_encoder(config.teacher)
        words = config.general_words
        texts = list(corpus.sentences(config.general_text or None, config.seed, words))
        if not texts:
            raise UserError("The text files hold no sentences to learn from.")
        length = loading.max_tokens(config.max_length, teacher.config, tokenizer)
        data = tokenize(tokenizer, texts, max_length=length)
        tokens = int(data.offsets[-1])
        init = general_student(config) or config.init or "random"
        student, projection = new_student(config, teacher, init)
        module = distillation.IntermediateLoss(
            student, projection, self.mapping(teacher), relation_heads=config.relation_heads
        )
        # One pass over much text: keeping the outputs would cost more than it saves.
        teacher.to(self.accelerator.device)
        cache = teacher_cache.TeacherCache(teacher, data, self.mapping(teacher))
        settings = self.settings("general", len(data))
        steps = settings.steps(math.ceil(len(data) / settings.batch_size))
        logger.info(
            "%s passages, %s tokens, %s steps", *(f"{n:,}" for n in (len(data), tokens, steps))
        )
        history = distillation.distill_intermediate(
            module, cache, data, settings, self.state, self.accelerator, "general",
            progress=self.runtime.progress,
        )  # fmt: skip
        if self.is_main:
            encoder: Any = student.base_model
            save_model(encoder, tokenizer, self.finished.folder("general"), projection)
        self.accelerator.wait_for_everyone()
        losses = [r["losses"] for r in history.records if "losses" in r]
        facts = {"passages": len(data), "tokens": tokens, "losses": losses[-1] if losses else {}}
        size = {"student_params": parameters(student.base_model)}
        self.finished.finish("general", history, settings, **facts, **size)

    def finetune(self) -> None:
        """Train the teacher on labels, best on dev; `teacher/`."""
        folder, rank = self.finished.folder("finetune"), self.config.lora_rank
        if "finetune" not in self.finished:
            task = self.data.task
            torch.manual_seed(self.config.seed)  # for the classifier's initial weights
            teacher, _ = loading.load_classifier(
                self.config.teacher,
                task.label_names,
                task.kind == "regression",
                multi_label=task.kind == "multilabel",
            )
            trained: Any = lora.add_lora(teacher, rank) if rank else teacher
            settings, history = self.settings("finetune", len(self.data.splits["train"])), History()
            if settings.epochs:
                history = distillation.finetune(
                    trained, self.data.splits["train"], settings, self.state, self.accelerator,
                    self.dev_score(trained), progress=self.runtime.progress,
                )  # fmt: skip
            if rank:
                if self.is_main:
                    lora.save_lora(trained, self.out / catalog.LORA, rank, task.label_names)
                teacher = trained.merge_and_unload()
            self.save(teacher, folder)
            self.finished.finish("finetune", history, settings)
        self.teacher = self.load(folder)

    def augment(self) -> None:
        """Algorithm 1 on the training texts; `state/augmented.jsonl`."""
        if not self.config.augment:
            return
        from tinybert_lite.models.masked_lm import load_masked_lm

        train, started = self.data.task.splits["train"], time.monotonic()
        file = self.state / "augmented.jsonl"
        if self.is_main:
            augmentation.augment_file(
                file, train.texts, train.pairs, load_masked_lm(self.config.masked_lm),
                Glove.load(), n=self.config.augment, seed=self.config.seed,
                progress=self.runtime.progress,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()
        texts, pairs, _ = augmentation.read_augmented(file)
        self.data.augmented = (texts, pairs)
        if "augment" not in self.finished:
            self.finished.finish("augment", History(seconds=time.monotonic() - started))

    def intermediate(self) -> None:
        """Equations 7 to 9 on the task's text: student and projection; `intermediate/`."""
        folder = self.finished.folder("intermediate")
        if "intermediate" not in self.finished:
            student, projection = new_student(self.config, self.teacher, self.initial_student())
            settings, history = self.settings("intermediate", len(self.data.texts)), History()
            if settings.epochs:
                mapping = self.mapping(self.teacher)
                module = distillation.IntermediateLoss(
                    student, projection, mapping, relation_heads=self.config.relation_heads
                )
                cache = self.outputs.cache(self.teacher, self.data.texts, mapping, settings.epochs)
                history = distillation.distill_intermediate(
                    module, cache, self.data.texts, settings, self.state, self.accelerator,
                    progress=self.runtime.progress,
                )  # fmt: skip
                history.seconds += self.outputs.seconds
                if cache.teacher_logits is not None:
                    self.outputs.keep(cache.teacher_logits)
            self.save(student, folder, projection)
            self.finished.finish("intermediate", history, settings)
        self.student = self.load(folder)

    def prediction(self) -> None:
        """Equation 10, the epoch that agrees best with the teacher on dev; `model/`."""
        folder = self.finished.folder("prediction")
        if "prediction" not in self.finished:
            student = self.student
            if student is None:
                student, _ = new_student(self.config, self.teacher, self.initial_student())
            texts, more = self.data.prediction_texts, self.data.recombined
            recombined = 0 if more is None else len(more)
            settings = training_config(
                self.config, "prediction", len(texts), self.runtime.save_seconds, recombined > 0
            )
            history, facts = History(), {"batch_size": settings.batch_size}
            if settings.epochs:
                logits = self.outputs.logits(self.teacher, self.data.texts, more)
                history = distillation.distill_prediction(
                    student, self.teacher, texts, settings, self.state, self.accelerator,
                    self.config.temperature, self.student_score(student), teacher_logits=logits,
                    progress=self.runtime.progress,
                )  # fmt: skip
                history.seconds += self.outputs.seconds
                history.best = self.dev_score(student)()
            self.save(student, folder)
            self.finished.finish("prediction", history, settings, recombine=recombined, **facts)
            self.finished.remove(self.outputs.logits_file)
        self.student = self.load(folder)

    def report(self) -> dict:
        """Measure the models of this run and write metrics, figures and the model card."""
        settings = settings_of(self.config, self.phases) | self.chosen_settings()
        if not self.has_task:
            metrics = report.general_metrics(self.config, self.finished.facts["general"])
        else:
            task, test, most = self.data.task, self.data.splits["test"], self.data.max_length
            metrics = report.task_metrics(task, self.teacher, self.student, test, most)
            metrics |= report.run_facts(self.config, self.finished.facts, self.data)
            metrics |= {"init": settings["init"]} if "init" in settings else {}
        if self.is_main:
            report.write(self.out, metrics, settings, self.phases)
        return metrics

    # Loaded when first needed -------------------------------------------------------------------

    @property
    def has_task(self) -> bool:
        """Whether any phase is of stage 2."""
        return tuple(self.phases) != ("general",)

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The fine-tuned teacher: trained here, or given."""
        return given_teacher(self.config.teacher, self.data.task)

    # What the phases share ----------------------------------------------------------------------

    def initial_student(self) -> str:
        """What the student of stage 2 starts from: "random", "svd", or a general student."""
        if "general" in self.phases:
            return str(self.finished.folder("general"))
        return general_student(self.config) or self.config.init or default_init(self.config)

    def mapping(self, teacher: PreTrainedModel) -> list[int]:
        """g(0…M) for this student and teacher."""
        layers = student_preset(self.config.student).layers
        return layer_mapping(teacher.config.num_hidden_layers, layers, self.config.mapping)

    def settings(self, phase: str, texts: int) -> TrainingConfig:
        """How a phase is trained on this many texts."""
        return training_config(self.config, phase, texts, self.runtime.save_seconds)

    def chosen_settings(self) -> dict:
        """The settings that were not given, as they were chosen."""
        first = "random" if "general" in self.phases else default_init(self.config)
        distills = {"general", "intermediate"} & set(self.phases)
        chosen: dict[str, Any] = {"init": self.config.init or first} if distills else {}
        for phase, facts in self.finished.facts.items():
            used = {name: facts[name] for name in ("epochs", "learning_rate") if name in facts}
            chosen |= {f"{phase}_{name}": value for name, value in used.items()}
            if phase == "prediction":
                chosen |= {
                    "recombine": facts["recombine"],
                    "prediction_batch_size": facts["batch_size"],
                }
        return chosen

    def dev_score(self, model: nn.Module) -> Callable[[], float]:
        """A function that gives the model's score on dev, which selects the checkpoint."""
        task, dev = self.data.task, self.data.splits["dev"]
        return lambda: evaluation.score(task, model, dev)[task.metric]

    def student_score(self, student: nn.Module) -> Callable[[], float]:
        """What selects the student's checkpoint: --metric, else agreement with the teacher on dev.

        Agreement is minus the loss of the prediction step: unlike accuracy it uses all of the
        teacher's output, and is far less noisy on a small dev split.
        """
        if self.config.metric is not None:
            return self.dev_score(student)
        dev = self.data.splits["dev"]
        target = torch.from_numpy(inference.predict(self.teacher, dev))
        more = self.config.temperature, self.data.task.kind == "multilabel"

        def agreement() -> float:
            logits = torch.from_numpy(inference.predict(student, dev))
            return -float(distillation.prediction_loss(logits, target, *more))

        return agreement

    def load(self, folder: Path) -> PreTrainedModel:
        """A model of an earlier phase, on the device."""
        return loading.load_classifier(str(folder))[0].to(self.accelerator.device)

    def save(
        self, model: PreTrainedModel, folder: Path, projection: Projection | None = None
    ) -> None:
        """Write a classifier with the task's class names."""
        if self.data.task.label_names:
            model.config.update(label_maps(self.data.task.label_names))
        if self.is_main:
            save_model(model, self.data.tokenizer, folder, projection)
        self.accelerator.wait_for_everyone()


def training_config(
    config: DistillationConfig,
    phase: str,
    texts: int,
    save_seconds: float = 60.0,
    recombined: bool = False,
) -> TrainingConfig:
    """How a phase is trained on this many texts; settings that were not given are chosen.

    `recombined` tells whether texts recombined from the training texts are among them.
    """
    defaults: dict[str, Any] = {"batch_size": config.batch_size}
    if phase in ENOUGH_STEPS:
        defaults["epochs"] = min(30.0, max(2.0, ENOUGH_STEPS[phase] * config.batch_size / texts))
    if phase == "finetune":  # low-rank updates need far larger steps
        defaults["learning_rate"] = 1e-3 if config.lora_rank else 1e-4
    elif phase == "prediction":
        defaults |= RECOMBINED_RECIPE if recombined else {"learning_rate": 3e-4}
    given = {name: getattr(config, f"{phase}_{name}", None) for name in RECOMBINED_RECIPE}
    chosen = defaults | {name: value for name, value in given.items() if value is not None}
    return TrainingConfig(seed=config.seed, save_seconds=save_seconds, **chosen)


def default_init(config: DistillationConfig) -> str:
    """Initial weights where --init is not given: stage 1 where its result is shipped, else SVD."""
    own_teacher = config.teacher == "minilm" or config.teacher in catalog.names()
    paper = config.projection == "paper"  # the form of the shipped projections
    return (own_teacher and paper and shipped_general(config)) or "svd"


def given_teacher(name: str, task: tasks.Task) -> PreTrainedModel:
    """A fine-tuned classifier, its classes put into the task's order. Raises UserError."""
    teacher, _ = loading.load_classifier(name)
    own = loading.match_task(teacher, name, task.kind, task.label_names)
    if own and tasks.generic_labels(own):
        logger.info(
            "note: the classes of %s have no names (%s …); they are taken to be in the task's "
            "order, %s.", name, own[0], ", ".join(task.label_names),
        )  # fmt: skip
    return teacher


def new_student(
    config: DistillationConfig, teacher: PreTrainedModel, init: str
) -> tuple[PreTrainedModel, Projection]:
    """A student of the configured size and its projection, with initial weights from `init`.

    `init` is "random", "svd", or a general student's folder or shipped name.
    """
    preset = preset_of(config)
    student = build_student(teacher.config, preset, config.seed)
    widths = student.config.hidden_size, teacher.config.hidden_size
    projection = Projection(*widths, config.projection, config.seed)
    if init == "svd":
        svd_init(student, projection, teacher)
    elif init != "random":
        init_from_general(student, projection, init)
    return student, projection
