"""From a task and a teacher to a folder with a student in it: the phases in order, resumable."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from tinybert_lite import UserError, distillation, teacher_cache
from tinybert_lite.data import tasks
from tinybert_lite.data.storage import load_tensors, save_tensors, write_json, write_text
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import catalog, inference, lora
from tinybert_lite.models.loading import (
    load_classifier,
    load_config,
    load_tokenizer,
    max_tokens,
    needs_number,
    reorder_classes,
)
from tinybert_lite.models.lora import add_lora
from tinybert_lite.models.sizes import flops, parameters
from tinybert_lite.pipeline import evaluation
from tinybert_lite.pipeline.config import (
    DistillationConfig,
    RuntimeConfig,
    load_task,
    validate,
    validate_student,
)
from tinybert_lite.pipeline.run_folder import read_json, run_folder, save_model
from tinybert_lite.students import PRESETS, Projection, build_student, init_from_general, svd_init
from tinybert_lite.training import History, TrainingConfig

GIB = 2**30
# What an unnamed number of epochs comes to: enough for reviews, many passes over a small file.
ENOUGH_STEPS = {"finetune": 450, "intermediate": 1700, "prediction": 1100}
LONGEST_UNLABELLED = 40  # tokens; what is longer is unlike a review sentence, and slow


PHASES = ("finetune", "augment", "intermediate", "prediction")


def run(
    options: DistillationConfig,
    out: str | Path,
    manner: RuntimeConfig | None = None,
    phases: tuple[str, ...] = PHASES,
    tell: Callable[[str], None] = lambda line: None,
) -> dict:
    """Fine-tune the teacher, distil the student, measure both, write it all into `out`.

    Returns what metrics.json holds. Called again with the same options it continues where it was
    stopped. Raises UserError for what the user can mend.
    """
    manner = manner or RuntimeConfig()
    validate(options, manner)
    if "intermediate" in phases:
        validate_student(options)
    out = Path(out)
    with run_folder(out, dataclasses.asdict(options), phases):
        workshop = DistillationPipeline(options, out, manner, tell)
        if "finetune" not in phases:
            workshop._teacher()  # a wrong one is said before the texts are augmented
        for phase in phases:
            getattr(workshop, phase)()
        return workshop.report(phases)


class DistillationPipeline:
    """One run: what its phases share, and a method for each."""

    def __init__(
        self,
        options: DistillationConfig,
        out: Path,
        manner: RuntimeConfig,
        tell: Callable[[str], None],
    ):
        self.options, self.out, self.manner, self.tell = options, out, manner, tell
        self.state = out / "state"
        self._teacher_logits = self.state / "teacher_logits.safetensors"
        gpu = torch.cuda.is_available() and not manner.cpu
        self.accelerator = Accelerator(cpu=manner.cpu, mixed_precision="bf16" if gpu else "no")
        self.main = self.accelerator.is_main_process  # the one of several that writes and tells
        if not self.main:
            self.tell = lambda line: None
        self.accelerator.wait_for_everyone()  # the first process has looked at the folder
        self.state.mkdir(exist_ok=True)
        self.task = load_task(options)
        if self.task.kind == "regression" and options.temperature != 1:
            raise UserError(
                "--temperature softens classes and this task asks for a number; leave it out."
            )
        for note in self.task.notes:
            self.tell(f"note: {note}")
        self.tokenizer = load_tokenizer(options.teacher)
        self.max_length = max_tokens(
            options.max_length, load_config(options.teacher), self.tokenizer
        )
        if self.max_length < options.max_length:
            self.tell(
                f"note: texts are cut to {self.max_length} tokens, the teacher knows no more."
            )
        self.data = {
            name: tokenize(self.tokenizer, s.texts, s.pairs, s.labels, self.max_length)
            for name, s in self.task.splits.items()
        }
        self.unlabelled = self._with_unlabelled()  # what the student reads; augmentation adds
        self.done_file = out / "phases.json"
        mend = "remove it and give the command again: the phases it named are done again"
        done = read_json(self.done_file, mend) if self.done_file.is_file() else {}
        # A phase whose model is gone is done again.
        self.done = {p: d for p, d in done.items() if p == "augment" or self._made(p)}
        self.accelerator.wait_for_everyone()  # all have read the same before it changes
        for phase in self.done:  # killed between the note that it is done and this
            self._remove(self.state / f"{phase}.safetensors")
        if "prediction" in self.done:
            self._remove(self._teacher_logits)
        self.teacher: PreTrainedModel | None = None
        self.student: PreTrainedModel | None = None

    # The phases -------------------------------------------------------------------------------

    def finetune(self) -> None:
        """Teacher on hard labels, best on dev; `teacher/`."""
        folder = self.out / "teacher"
        if "finetune" not in self.done:
            teacher, rank = self._fresh_teacher(), self.options.lora_rank
            trained = add_lora(teacher, rank) if rank else teacher
            if self.options.finetune_epochs != 0:
                history = distillation.finetune(
                    trained, self.data["train"], self._settings("finetune"), self.state,
                    self.accelerator, self._dev_score(trained), progress=self.manner.progress,
                )  # fmt: skip
            else:
                history = History()
            if rank:
                file = self.out / catalog.LORA
                if self.main:
                    lora.save_lora(trained, file, rank, self.task.label_names)
                teacher = trained.merge_and_unload()
            self._save_model(teacher, folder)
            self._finish("finetune", history)
        self.teacher = self._load(folder)

    def augment(self) -> None:
        """Algorithm 1 on the training texts; `state/augmented.jsonl`."""
        if not self.options.augment:
            return
        from tinybert_lite import (
            augmentation,  # masked LM and word vectors: only who augments needs them
        )
        from tinybert_lite.models.masked_lm import load_masked_lm

        train, started = self.task.splits["train"], time.monotonic()
        file = self.state / "augmented.jsonl"
        if self.main:
            augmentation.augment_file(
                file, train.texts, train.pairs, load_masked_lm(self.options.masked_lm),
                augmentation.Glove.load(), n=self.options.augment, seed=self.options.seed,
                progress=self.manner.progress,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()
        texts, pairs, _ = augmentation.read_augmented(file)
        self.unlabelled = self._with_unlabelled(texts, pairs)
        if "augment" not in self.done:
            self._finish("augment", History(seconds=time.monotonic() - started))

    def intermediate(self) -> None:
        """Equations 7 to 9, student and projection; `intermediate/`."""
        teacher = self._teacher()
        folder = self.out / "intermediate"
        if "intermediate" not in self.done:
            student, projection = self._fresh_student()
            module = distillation.IntermediateLoss(student, projection, self._mapping())
            if self.options.intermediate_epochs != 0:
                teacher.to(self.accelerator.device)
                settings = self._settings("intermediate")
                answers = self._answers(teacher, settings.epochs)
                history = distillation.distill_intermediate(
                    module, answers, self.unlabelled, settings, self.state, self.accelerator,
                    progress=self.manner.progress,
                )  # fmt: skip
                if answers.teacher_logits is not None and self.main:
                    save_tensors(
                        {"teacher_logits": answers.teacher_logits}, self._teacher_logits, {}
                    )
            else:
                history = History()
            self._save_model(student, folder, projection)
            self._finish("intermediate", history)
        self.student = self._load(folder)

    def prediction(self) -> None:
        """Equation 10, best on dev; `model/`."""
        teacher = self._teacher()
        folder = self.out / "model"
        if "prediction" not in self.done:
            student = self.student or self._fresh_student()[0]
            known = self._teacher_logits.is_file()
            teacher_logits = (
                load_tensors(self._teacher_logits)[0]["teacher_logits"] if known else None
            )
            if self.options.prediction_epochs != 0:
                history = distillation.distill_prediction(
                    student, teacher, self.unlabelled, self._settings("prediction"), self.state,
                    self.accelerator, self.options.temperature, self._dev_score(student),
                    teacher_logits=teacher_logits, progress=self.manner.progress,
                )  # fmt: skip
            else:
                history = History()
            self._save_model(student, folder)
            self._finish("prediction", history)
            self._remove(self._teacher_logits)
        self.student = self._load(folder)

    def _with_unlabelled(
        self, texts: Sequence[str] = (), pairs: Sequence[str] | None = None
    ) -> TokenizedDataset:
        """What the student reads: training texts, `texts` beside them (augmented, and their
        `pairs`), and for reviews the rated tweets, products and editorials too.

        A student learns from its teacher's answers alone, so text without labels is as good.
        """
        o, train = self.options, self.task.splits["train"]
        read = [*train.texts, *texts]
        read_pairs = None if train.pairs is None else [*train.pairs, *(pairs or ())]
        own = len(read)
        if o.unlabelled and o.task in ("reviews", "review-ratings"):
            more = tasks.unlabelled_sentences()
            lengths = tokenize(self.tokenizer, more, None, None, self.max_length).lengths
            read += [text for text, n in zip(more, lengths) if n <= LONGEST_UNLABELLED]
        if len(read) > len(train):
            self.tell(
                f"the student reads {len(read):,} texts: {len(train):,} of the task, "
                f"{own - len(train):,} augmented, {len(read) - own:,} unlabelled"
            )
        return tokenize(self.tokenizer, read, read_pairs, None, self.max_length)

    # What they share --------------------------------------------------------------------------

    def _made(self, phase: str) -> bool:
        folder = {"finetune": "teacher", "prediction": "model"}.get(phase, phase)
        return (self.out / folder / "config.json").is_file()

    def _settings(self, phase: str) -> TrainingConfig:
        o = self.options
        rate, epochs = getattr(o, f"{phase}_learning_rate"), getattr(o, f"{phase}_epochs")
        if rate is None:  # of fine-tuning: low-rank updates take, and need, far larger steps
            rate = 1e-3 if o.lora_rank else 1e-4
        if epochs is None:
            texts = self.data["train"] if phase == "finetune" else self.unlabelled
            epochs = min(30.0, max(2.0, ENOUGH_STEPS[phase] * o.batch_size / len(texts)))
        return TrainingConfig(
            epochs=epochs, learning_rate=rate, batch_size=o.batch_size, seed=o.seed,
            save_seconds=self.manner.save_seconds,
        )  # fmt: skip

    def _chosen(self, phases: tuple[str, ...]) -> dict:
        """The settings that were left open, as they were used."""
        chosen = {}
        if "intermediate" in phases:
            chosen["start"] = self.options.start or ("general" if self.options.general else "warm")
        for phase in set(phases) - {"augment"}:
            s = self._settings(phase)
            chosen |= {f"{phase}_epochs": s.epochs, f"{phase}_learning_rate": s.learning_rate}
        return chosen

    def _fresh_teacher(self) -> PreTrainedModel:
        torch.manual_seed(self.options.seed)  # the classifier's start
        return load_classifier(
            self.options.teacher, self.task.label_names, self.task.kind == "regression"
        )[0]

    def _teacher(self) -> PreTrainedModel:
        """The fine-tuned teacher: made here, or given, its classes in the task's order."""
        if self.teacher is None:
            teacher, _ = load_classifier(self.options.teacher)
            if self.task.kind == "regression":
                needs_number(teacher, self.options.teacher)
            else:
                own = reorder_classes(teacher, self.task.label_names)
                if tasks.generic_labels(own):
                    self.tell(
                        f"note: the classes of {self.options.teacher} have no names "
                        f"({own[0]} …); they are taken in the task's order, "
                        f"{', '.join(self.task.label_names)}."
                    )
            self.teacher = teacher
        return self.teacher

    def _mapping(self) -> list[int]:
        teacher, o = self._teacher(), self.options
        layers = PRESETS[o.student].layers
        return layer_mapping(teacher.config.num_hidden_layers, layers, o.mapping)

    def _fresh_student(self) -> tuple[PreTrainedModel, Projection]:
        o, teacher = self.options, self._teacher()
        student = build_student(teacher.config, o.student, o.seed)
        widths = student.config.hidden_size, teacher.config.hidden_size
        projection = Projection(*widths, o.projection, o.seed)
        if o.start == "warm" or (o.start is None and not o.general):
            svd_init(student, projection, teacher)
        if o.general:
            init_from_general(student, projection, o.general)
        return student, projection

    def _answers(self, teacher: PreTrainedModel, epochs: float) -> teacher_cache.TeacherCache:
        mapping = self._mapping()
        need = teacher_cache.TeacherCache.bytes_needed(
            teacher.config.hidden_size, self.unlabelled, mapping
        )
        memory, disk = (
            int(gib * GIB) if epochs > 1 else 0
            for gib in (self.manner.keep_gib, self.manner.keep_disk_gib)
        )
        file = None
        if need <= memory:
            how = "asked once and kept"
        elif need <= disk:
            how = "asked once and kept on the disk"
            file = self.state / f"answers-{self.accelerator.process_index}"
        else:
            how = "more than may be kept (--keep-gib, --keep-disk-gib), asked at every step"
        self.tell(f"teacher answers: {need / GIB:.2f} GiB, {how}")
        return teacher_cache.TeacherCache(
            teacher, self.unlabelled, mapping, "auto", max(memory, disk), self._bar, file
        )

    def _bar(self, batches: list) -> list:
        from tqdm.auto import tqdm

        show = self.manner.progress and self.main
        return tqdm(batches, desc="teacher answers", disable=not show)

    def _dev_score(self, model: nn.Module) -> Callable[[], float]:
        return lambda: evaluation.score(self.task, model, self.data["dev"])[self.task.metric]

    def _load(self, folder: Path) -> PreTrainedModel:
        return load_classifier(str(folder))[0].to(self.accelerator.device)

    def _save_model(
        self, model: PreTrainedModel, folder: Path, projection: Projection | None = None
    ) -> None:
        if self.task.label_names:
            model.config.id2label = dict(enumerate(self.task.label_names))
            model.config.label2id = {name: i for i, name in enumerate(self.task.label_names)}
        if self.main:
            save_model(model, self.tokenizer, folder, projection)
        self.accelerator.wait_for_everyone()

    def _finish(self, phase: str, history: History) -> None:
        """Note a phase as done; only then its checkpoint is no longer needed."""
        if not self.main:
            return
        self.done[phase] = {"seconds": round(history.seconds, 1), "dev": history.best}
        write_json(self.done_file, self.done)
        self._remove(self.state / f"{phase}.safetensors")

    def _remove(self, file: Path) -> None:
        if self.main:
            file.unlink(missing_ok=True)

    # The report -------------------------------------------------------------------------------

    def report(self, phases: tuple[str, ...]) -> dict:
        """Measure teacher and student on the test split and write metrics, card and figures."""
        from tinybert_lite.pipeline import model_cards

        o, task, test = self.options, self.task, self.data["test"]
        models = {"teacher": self._teacher(), "student": self.student}
        models = {name: m for name, m in models.items() if m is not None}
        scores = {name: evaluation.score(task, m, test) for name, m in models.items()}
        main = {name: s[task.metric] for name, s in scores.items()}
        metrics = {
            "task": task.name,
            "metric": task.metric,
            **main,
            "retained": _ratio(main.get("student"), main["teacher"]),
            "majority": task.majority()[task.metric],
            "test_size": len(test),
            "seed": o.seed,
            "all_scores": scores,
            "teacher_params": parameters(models["teacher"]),
            "teacher_flops": flops(models["teacher"].config),
        }
        if "student" in models:
            tokens = self.max_length
            one = inference.latency(models, batch=1, tokens=tokens)
            many = inference.latency(models, batch=32, tokens=tokens, repeats=3)
            size = parameters(models["student"])
            metrics |= {
                "student_params": size,
                "student_flops": flops(models["student"].config),
                "size_ratio": metrics["teacher_params"] / size,
                "latency_ms": {**one, "batch": 1, "tokens": tokens},
                "latency_ms_batch_32": {**many, "batch": 32, "tokens": tokens},
                "speedup": one["teacher"] / one["student"],
                "speedup_batch_32": many["teacher"] / many["student"],
            }
        metrics |= {
            "seconds": {phase: facts["seconds"] for phase, facts in self.done.items()},
            "dev": {phase: facts["dev"] for phase, facts in self.done.items()},
            "environment": evaluation.environment(),
            "notes": task.notes,
        }
        if self.main:
            write_json(self.out / "metrics.json", metrics)
            log = self.state / "log.jsonl"
            if log.is_file():
                write_text(self.out / "log.jsonl", log.read_text(encoding="utf-8"))
            model_cards.write(self.out, metrics, dataclasses.asdict(o) | self._chosen(phases), task)
            model_cards.draw(self.out, metrics)
        return metrics


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or whole == 0 else part / whole
