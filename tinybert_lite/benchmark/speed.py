"""Speed: each part beside the authors' procedure, in one process, the two sides taking turns.

The plain side states that procedure anew with stock parts: float32, every batch of 32 padded to
the task's maximum (64 tokens), the teacher asked at every step, its attention maps and the
student's written out, torch's AdamW as it comes. The other side is the package as `run` uses it.
Medians of several rounds after a warm-up.
"""

import copy
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tinybert_lite import UserError, distillation, students, teacher_cache
from tinybert_lite.attention import capture
from tinybert_lite.data import tasks
from tinybert_lite.data.storage import write_json
from tinybert_lite.data.tokenized import TokenizedDataset, length_sorted_batches, tokenize
from tinybert_lite.losses import (
    attention_loss,
    attention_loss_gram,
    hidden_loss,
    soft_cross_entropy,
)
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import inference, loading, sizes
from tinybert_lite.pipeline import evaluation
from tinybert_lite.training import TrainingConfig, learning_rate_at

BATCH, PADDED = 32, 64
STEPS, ROUNDS = 20, 3  # steps of one round; a GPU does ten times as many in the time
EPOCHS = 10  # over which the teacher's answers, asked once, are shared out
PARTS = ("intermediate", "prediction", "finetune", "attention", "inference", "start")


class BenchmarkSetup:
    """Teacher, student's size, texts and device of one measurement.

    `size="embedded"` is the reviews teacher with the lite student on the texts of `task` (default:
    reviews), cut to 64 tokens; `"bert-base"` a teacher and a tinybert4 of random weights on random
    texts of `tokens` tokens: speed does not depend on what the weights are.
    """

    def __init__(
        self,
        size: str,
        device: str,
        tokens: int = 128,
        texts: int = 2048,
        task: tasks.Task | None = None,
    ):
        self.cuda = device.startswith("cuda")
        if self.cuda and not torch.cuda.is_available():
            raise UserError("There is no CUDA device here; leave --device out.")
        self.accelerator = Accelerator(
            cpu=not self.cuda, mixed_precision="bf16" if self.cuda else "no"
        )
        self.device = self.accelerator.device
        self.task: tasks.Task | None = None
        if size == "embedded":
            self.task = task or tasks.load_task("reviews")
            if self.task.kind == "regression" or len(self.task.label_names) != 2:
                raise UserError("The teacher here knows two answers; take a task that has two.")
            self.teacher, tokenizer = loading.load_classifier("reviews-teacher")
            self.preset, self.padded = "lite", PADDED
            self.data = {
                name: tokenize(tokenizer, s.texts, s.pairs, s.labels, PADDED)
                for name, s in self.task.splits.items()
            }
        elif task is not None:
            raise UserError("A task is measured with --size embedded only; leave --size out.")
        elif size == "bert-base":
            torch.manual_seed(0)
            self.teacher = BertForSequenceClassification(BertConfig())
            self.preset, self.padded = "tinybert4", tokens
            ids = np.random.default_rng(0).integers(1000, 30000, texts * tokens).astype(np.int32)
            labels = np.arange(texts) % 2
            offsets = np.arange(texts + 1, dtype=np.int64) * tokens
            self.data = {"train": TokenizedDataset(ids, None, offsets, labels, 0)}
        else:
            raise UserError(f"--size is embedded or bert-base, not {size!r}.")
        self.teacher.to(self.device).eval()
        config = self.teacher.config
        layers = students.PRESETS[self.preset].layers
        self.mapping = layer_mapping(config.num_hidden_layers, layers)

    def student(self, seed: int = 0) -> tuple[PreTrainedModel, students.Projection]:
        """A fresh student and its projection; both sides begin with the same weights."""
        student = students.build_student(self.teacher.config, self.preset, seed)
        projection = students.Projection(
            student.config.hidden_size, self.teacher.config.hidden_size, "paper", seed
        )
        students.svd_init(student, projection, self.teacher.cpu())
        self.teacher.to(self.device)
        return student.to(self.device), projection.to(self.device)

    def slice(self, count: int) -> TokenizedDataset:
        """The first `count` training texts of a shuffle."""
        train = self.data["train"]
        order = np.random.default_rng(0).permutation(len(train))[:count]
        offsets = np.concatenate([[0], np.cumsum(train.lengths[order])]).astype(np.int64)

        def taken(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array[train.offsets[i] : train.offsets[i + 1]] for i in order])

        types = None if train.types is None else taken(train.types)
        labels = None if train.labels is None else train.labels[order]
        return TokenizedDataset(taken(train.tokens), types, offsets, labels, train.pad)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


# The plain side ---------------------------------------------------------------------------------


class ReferenceTrainer:
    """The authors' procedure with stock parts: one step after the other, nothing kept.

    `dropout` is the student's and the teacher's. In the authors' code both have 0.1, the teacher
    because it is left in training mode; with 0 both sides have the same losses.
    """

    def __init__(
        self,
        world: BenchmarkSetup,
        data: TokenizedDataset,
        settings: TrainingConfig,
        dropout: float = 0.0,
    ):
        self.world, self.data, self.settings = world, data, settings
        self.student, self.projection = world.student(settings.seed)
        self.teacher = world.teacher
        if dropout:
            self.teacher = copy.deepcopy(world.teacher).train()
            for part in (*self.teacher.modules(), *self.student.modules()):
                if isinstance(part, nn.Dropout):
                    part.p = dropout
        self.step_number = 0
        self.total = round(settings.epochs * math.ceil(len(data) / BATCH))

    def begin(self, *modules: nn.Module) -> None:
        self.trained = [p for m in modules for p in m.parameters() if p.requires_grad]
        decay, rest = ([p for p in self.trained if (p.ndim > 1) is m] for m in (True, False))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.settings.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
        )

    def batches(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.data))
        return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def inputs(self, rows: np.ndarray) -> dict[str, Tensor]:
        short = self.data.batch(rows)
        missing = self.world.padded - short["input_ids"].shape[1]
        return {
            key: F.pad(t, (0, missing), value=self.data.pad if key == "input_ids" else 0).to(
                self.world.device
            )
            for key, t in short.items()
        }

    def update(self, loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step_number, self.total, self.settings)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1

    def train(self, step: Callable[[np.ndarray], float]) -> None:
        """All steps of the settings' epochs, each by `step`, a method below."""
        for epoch in itertools.count():
            for rows in self.batches(epoch):
                if self.step_number == self.total:
                    return
                step(rows)

    def intermediate(self, rows: np.ndarray) -> float:
        """One step on equations 7 to 9, maps written out; its loss."""
        world, inputs = self.world, self.inputs(rows)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            theirs = capture(self.teacher, inputs, "scores")
        ours = capture(self.student.base_model.train(), inputs, "scores")
        loss = torch.zeros((), device=world.device)
        for m, g in enumerate(world.mapping):
            loss = loss + hidden_loss(ours.hidden[m], theirs.hidden[g], self.projection(m), mask)
            if m:
                scores = ours.attention[m - 1], theirs.attention[g - 1]
                loss = loss + attention_loss(*scores, mask)
        self.update(loss)
        return loss.item()

    def prediction(self, rows: np.ndarray) -> float:
        """One step on equation 10; its loss."""
        inputs = self.inputs(rows)
        with torch.no_grad():
            theirs = self.teacher(**inputs).logits
        loss = soft_cross_entropy(self.student.train()(**inputs).logits, theirs)
        self.update(loss)
        return loss.item()

    def finetune(self, rows: np.ndarray) -> float:
        """One step of the teacher on hard labels; its loss."""
        assert self.data.labels is not None
        labels = torch.from_numpy(self.data.labels[rows]).to(self.world.device)
        loss = F.cross_entropy(self.teacher.train()(**self.inputs(rows)).logits, labels)
        self.update(loss)
        return loss.item()


# What is measured -------------------------------------------------------------------------------


def in_turn(
    world: BenchmarkSetup, sides: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict:
    """Call the sides in turn; median seconds of each, and on a GPU the bytes it needs to run.

    A side returns the seconds it wants counted. The first round warms up and is dropped. The bytes
    are the peak above what lay in memory before: both sides' models, and answers that are kept.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peak: dict[str, int] = {}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            if world.cuda:
                torch.cuda.reset_peak_memory_stats()
                resting = torch.cuda.memory_allocated()
            took = side()
            if turn:
                seconds[name].append(took)
            if world.cuda:
                peak[name] = torch.cuda.max_memory_allocated() - resting
    return {
        name: {
            "seconds": statistics.median(s),
            "rounds": [round(x, 4) for x in s],
            **({"peak_bytes": peak[name]} if peak else {}),
        }
        for name, s in seconds.items()
    }


def timed(world: BenchmarkSetup, what: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    world.wait()
    started = time.perf_counter()
    what()
    world.wait()
    return time.perf_counter() - started


def training(world: BenchmarkSetup, phase: str, steps: int = 0, batch: int = BATCH) -> dict:
    """Sentences and real tokens a second of one phase, plain and ours, and how many times.

    A round is as many texts as `steps` batches of 32 have (0: 20 of them, on a GPU 200). With a
    `batch` other than 32 our side is measured twice: with 32 texts a step, as plain, and with that.
    """
    steps = steps or (10 * STEPS if world.cuda else STEPS)
    data = world.slice(min(len(world.data["train"]), steps * BATCH))
    settings = TrainingConfig(
        epochs=1, learning_rate=1e-3 if phase == "intermediate" else 3e-4, save_seconds=math.inf
    )

    def plain_side(dropout: float) -> Callable[[], float]:
        plain = ReferenceTrainer(world, data, settings, dropout)
        if phase == "finetune":
            plain.teacher = copy.deepcopy(world.teacher)
            plain.begin(plain.teacher)
        else:
            plain.begin(plain.student, *([plain.projection] if phase == "intermediate" else []))
        step = getattr(plain, phase)

        def side() -> float:
            plain.step_number = 0
            return timed(world, lambda: [step(rows) for rows in plain.batches(0)])

        return side

    sides = {"plain": plain_side(0.0)}
    if phase != "finetune":  # where the teacher's own dropout is on, both ways
        sides["plain, with dropout"] = plain_side(0.1)
    once, kept, epoch = _ours(world, phase, data)
    ours = {"ours": BATCH} | ({f"ours, {batch} a step": batch} if batch != BATCH else {})
    for name, size in ours.items():
        sides[name] = functools.partial(epoch, dataclasses.replace(settings, batch_size=size))
    measured = in_turn(world, sides)
    tokens = int(data.offsets[-1])
    for name, size in ours.items():
        alone = measured[name]["seconds"] / math.ceil(len(data) / size)
        measured[name] |= {"batch": size, "seconds_a_step": alone}
        measured[name]["seconds"] += once / EPOCHS
    for side in measured.values():
        side["sentences_per_second"] = round(len(data) / side["seconds"], 1)
        side["tokens_per_second"] = round(tokens / side["seconds"], 1)
        side["times_plain"] = round(measured["plain"]["seconds"] / side["seconds"], 2)
        side["ours_times_this"] = round(side["seconds"] / measured["ours"]["seconds"], 2)
    return measured | {
        "times": measured["ours"]["times_plain"],
        "teacher_once_seconds": round(once, 3),
        "teacher_kept_bytes": kept,
        "sentences": len(data),
        "mean_tokens": round(tokens / len(data), 1),
        "padded_to": world.padded,
    }


def _ours(world: BenchmarkSetup, phase: str, data: TokenizedDataset):
    """Seconds of what is done once for all epochs, bytes kept of it, and one epoch of our own loop.

    The epoch takes settings and returns its seconds; each setting has a model of its own.
    """
    accelerator, made = world.accelerator, {}

    def timed_epoch(settings: TrainingConfig, make: Callable, train: Callable) -> float:
        if settings.batch_size not in made:
            made[settings.batch_size] = make()
        model = made[settings.batch_size]
        with tempfile.TemporaryDirectory() as folder:
            return timed(world, lambda: train(model, settings, Path(folder)))

    if phase == "intermediate":
        keep: list = []

        def ask():
            keep[:] = [
                teacher_cache.TeacherCache(world.teacher, data, world.mapping, keep_bytes=2**36)
            ]

        ask()  # warm-up
        once = timed(world, ask)
        kept = keep[0].store.nbytes

        def make():
            return distillation.IntermediateLoss(*world.student(), world.mapping)

        def train(module, settings, folder):
            distillation.distill_intermediate(
                module, keep[0], data, settings, folder, accelerator, progress=False
            )

    elif phase == "prediction":
        soft = torch.from_numpy(inference.predict(world.teacher, data))
        once, kept = timed(world, lambda: inference.predict(world.teacher, data)), soft.nbytes

        def make():
            return world.student()[0]

        def train(student, settings, folder):
            distillation.distill_prediction(
                student, world.teacher, data, settings, folder, accelerator, teacher_logits=soft,
                progress=False,
            )  # fmt: skip

    else:
        once, kept = 0.0, 0

        def make():
            return copy.deepcopy(world.teacher)

        def train(teacher, settings, folder):
            distillation.finetune(teacher, data, settings, folder, accelerator, progress=False)

    return once, kept, lambda settings: timed_epoch(settings, make, train)


def attention(
    world: BenchmarkSetup, lengths=(28, 64, 128, 256, 512), batch: int = 8, heads: int = 12
) -> dict:
    """Equation 7 with its gradients: maps written out against the Gram form, by length."""
    found = {}
    width = world.teacher.config.hidden_size // world.teacher.config.num_attention_heads
    for l in lengths:
        generator = torch.Generator().manual_seed(0)

        def drawn(d, l=l, generator=generator):
            return torch.randn(batch, heads, l, d, generator=generator).to(world.device)

        q, k, qt, kt = drawn(16), drawn(16), drawn(width), drawn(width)
        q.requires_grad_()
        k.requires_grad_()
        mask = torch.ones(batch, l, device=world.device)

        def maps(q=q, k=k, qt=qt, kt=kt, mask=mask, d=width):
            ours, theirs = q @ k.transpose(-1, -2) / 4, qt @ kt.transpose(-1, -2) * d**-0.5
            attention_loss(ours, theirs, mask).backward()

        def gram(q=q, k=k, qt=qt, kt=kt, mask=mask):
            attention_loss_gram((q, k), (qt, kt), mask).backward()

        def five_times(function: Callable[[], Any]) -> float:
            return timed(world, lambda: [function() for _ in range(5)]) / 5

        sides = {
            "maps": functools.partial(five_times, maps),
            "gram": functools.partial(five_times, gram),
        }
        measured = in_turn(world, sides, 5)
        found[str(l)] = measured | {
            "times": round(measured["maps"]["seconds"] / measured["gram"]["seconds"], 2)
        }
    return found | {"batch": batch, "heads": heads, "d_k": {"student": 16, "teacher": width}}


def measure_inference(world: BenchmarkSetup, repeats: int = 7) -> dict:
    """Milliseconds of teacher and students, batch × tokens, and how many times the teacher's.

    On a CPU the same in ONNX Runtime where it is installed, its teacher beside its students.
    """
    presets = ("lite", "nano") if world.task else ("tinybert4",)
    sides = {"teacher": world.teacher} | {
        preset: students.build_student(world.teacher.config, preset, 0).to(world.device).eval()
        for preset in presets
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        exported = {}
        if not world.cuda and importlib.util.find_spec("onnxruntime"):
            from tinybert_lite.deploy import onnx_export

            for name, model in sides.items():
                file = onnx_export.to_onnx(
                    model, Path(folder, name), ["input_ids", "attention_mask"]
                )
                exported[f"{name} in ONNX Runtime"] = onnx_export.OnnxClassifier(file)
        for batch, tokens in itertools.product((1, 8, 32), (16, 64, 128)):
            got = inference.latency(sides, batch, tokens, repeats)
            if exported:
                times = onnx_export.latencies(sides | exported, batch, tokens, repeats)
                got |= {name: float(np.median(times[name])) for name in exported}
            found[f"{batch} x {tokens}"] = {
                name: {
                    "ms": round(ms, 3),
                    "times": round(got["teacher" + "".join(name.partition(" ")[1:])] / ms, 2),
                }
                for name, ms in got.items()
            }
    return found


def start(repeats: int = 5) -> dict:
    """Seconds until `import tinybert_lite` and `--help` are done, median of fresh processes."""
    found = {}
    for name, command in {
        "import": ["-c", "import tinybert_lite, sys; assert 'torch' not in sys.modules"],
        "help": ["-m", "tinybert_lite", "--help"],
        "python alone": ["-c", ""],
    }.items():
        took = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
        found[name] = round(statistics.median(took[1:]), 3)
    return found


def machine_rates(world: BenchmarkSetup) -> dict:
    """What the machine gives: matrix products and copies, in operations and bytes a second."""
    size = 4096 if world.cuda else 1024
    found = {}
    for name in ("float32", "bfloat16") if world.cuda else ("float32",):
        a = torch.randn(size, size, device=world.device, dtype=getattr(torch, name))

        def multiply(a: Tensor = a) -> float:
            return timed(world, lambda: [a @ a for _ in range(10)]) / 10

        took = in_turn(world, {"mm": multiply}, 5)
        found[f"{name}_flops"] = 2 * size**3 / took["mm"]["seconds"]
    block = torch.empty(2**28 if world.cuda else 2**25, device=world.device)
    other = torch.empty_like(block)
    took = in_turn(world, {"copy": lambda: timed(world, lambda: other.copy_(block))}, 5)
    found["bytes"] = 2 * block.numel() * 4 / took["copy"]["seconds"]
    return found


def step_roofline(
    world: BenchmarkSetup, phase: str, mean_tokens: float, batch: int = BATCH
) -> dict:
    """Operations and bytes that a step of `batch` texts cannot do without, by the models' sizes.

    Forward and backward are three times the products of the forward pass (`models.flops`); AdamW
    reads and writes weight, gradient and two moments: 28 bytes a weight.
    """
    student = students.student_config(world.teacher.config, world.preset)
    config = world.teacher.config if phase == "finetune" else student
    tokens = max(1, round(mean_tokens))
    operations = 3 * batch * sizes.flops(config, tokens)
    size = sizes.parameters(world.teacher)
    if phase != "finetune":
        with torch.device("meta"):
            size = sizes.parameters(BertForSequenceClassification(student))
    if phase == "intermediate":
        width, theirs = student.hidden_size, world.teacher.config.hidden_size
        operations += 3 * 2 * batch * tokens * width * theirs * len(world.mapping)
    return {"operations": operations, "bytes": 28 * size}


def add_roofline(world: BenchmarkSetup, phase: str, found: dict, rates: dict) -> None:
    """Put its floor beside each side of ours, at these rates and without the teacher's share."""
    rate = rates["bfloat16_flops" if world.cuda else "float32_flops"]
    for side in found.values():
        if isinstance(side, dict) and "seconds_a_step" in side:
            least = step_roofline(world, phase, found["mean_tokens"], side["batch"])
            seconds = least["operations"] / rate + least["bytes"] / rates["bytes"]
            side["floor"] = least | {
                "milliseconds_a_step": round(1000 * seconds, 3),
                "times_the_floor": round(side["seconds_a_step"] / seconds, 2),
            }


def full_run(world: BenchmarkSetup, epochs: float = EPOCHS, tell: Callable = print) -> dict:
    """All of intermediate distillation on the task, once each way: seconds and final dev losses."""
    train, dev = world.data["train"], world.data["dev"]
    settings = TrainingConfig(epochs=epochs, learning_rate=1e-3, save_seconds=math.inf)
    found: dict[str, dict[str, Any]] = {}

    def final(student, projection) -> dict[str, float]:
        module = (
            distillation.IntermediateLoss(student, projection, world.mapping)
            .to(world.device)
            .eval()
        )
        answers = teacher_cache.TeacherCache(world.teacher, dev, world.mapping)
        sums: dict[str, float] = {}
        with torch.no_grad():
            for rows in length_sorted_batches(dev.lengths, BATCH):
                inputs = dev.batch(rows, world.device)
                for key, value in module(inputs, *answers(rows, inputs)).items():
                    sums[key] = sums.get(key, 0.0) + value.item() * len(rows) / len(dev)
        return sums

    started = time.perf_counter()
    student, projection = world.student()
    module = distillation.IntermediateLoss(student, projection, world.mapping)
    answers = teacher_cache.TeacherCache(world.teacher, train, world.mapping, keep_bytes=2**36)
    world.wait()
    once = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        distillation.distill_intermediate(
            module, answers, train, settings, Path(folder), world.accelerator, progress=False
        )
    world.wait()
    took = time.perf_counter() - started
    found["ours"] = {"seconds": took, "teacher_once_seconds": once}
    found["ours"]["losses"] = final(student, projection)
    tell(f"ours: {found['ours']['seconds']:.0f} s")
    plain = ReferenceTrainer(world, train, settings)
    plain.begin(plain.student, plain.projection)
    started = time.perf_counter()
    plain.train(plain.intermediate)
    world.wait()
    found["plain"] = {
        "seconds": time.perf_counter() - started,
        "losses": final(plain.student, plain.projection),
    }
    sums = {name: sum(side["losses"].values()) for name, side in found.items()}
    return found | {
        "times": round(found["plain"]["seconds"] / found["ours"]["seconds"], 2),
        "loss_difference": round(sums["ours"] / sums["plain"] - 1, 4),
        "epochs": epochs,
    }


def merge_runs(file: Path, new: dict, order: Iterable[str] = ()) -> dict:
    """Put what is new into a file of results that other processes write too; the whole of it.

    Its "runs" are name → seed → run, names in `order` first; other keys are replaced.
    """
    with FileLock(Path(tempfile.gettempdir()) / f"{file.stem}.lock"):
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
        runs = known["runs"]
        for name, seeds in new.get("runs", {}).items():
            runs[name] = runs.get(name, {}) | seeds
        known |= new
        known["runs"] = {name: runs[name] for name in [*order, *runs] if runs.get(name)}
        write_json(file, known)
    return known


def run(
    parts: list[str],
    size: str = "embedded",
    device: str = "cpu",
    tokens: int = 128,
    epochs: float = EPOCHS,
    tell: Callable[[str], None] = lambda line: None,
    steps: int = 0,
    batch: int = BATCH,
    task: tasks.Task | None = None,
) -> dict:
    """Measure `parts` (of PARTS, or "whole") and return it all, with the machine it was on."""
    unknown = [part for part in parts if part not in (*PARTS, "whole")]
    if unknown:
        raise UserError(
            f"There is nothing called {unknown[0]!r} to measure; take {', '.join(PARTS)} or whole."
        )
    if not 0 < batch <= 65536 or not 0 <= steps <= 1_000_000:
        raise UserError("--batch-size and --steps are whole numbers above 0.")
    world = BenchmarkSetup(size, device, tokens, task=task)
    if not 0 < epochs <= 1000:
        raise UserError(f"--epochs must lie between 0 and 1,000, not {epochs:g}.")
    if "whole" in parts and not world.task:
        raise UserError("whole is measured with --size embedded only; leave --size out.")
    rates = [machine_rates(world)]
    found: dict = {"size": size, "task": world.task.name if world.task else "random texts"}
    found |= {"environment": evaluation.environment(), "floor": rates[0]}
    for part in parts:
        if part in ("intermediate", "prediction", "finetune"):
            got = found[part] = training(world, part, steps, batch)
            # a shared machine gives now more, now less: the faster of before and after
            rates.append(machine_rates(world))
            best = {key: max(rate[key] for rate in rates[-2:]) for key in rates[0]}
            add_roofline(world, part, got, best)
            got["floor"] = best
            tell(
                f"{part}: "
                + ", ".join(
                    f"{name} {side['sentences_per_second']:.1f} sentences a second"
                    f" ({side['times_plain']} × plain)"
                    for name, side in got.items()
                    if isinstance(side, dict) and "times_plain" in side
                )
                + ", a step "
                + " and ".join(
                    f"{side['floor']['times_the_floor']}"
                    for side in got.values()
                    if isinstance(side, dict) and "floor" in side
                )
                + " times its floor"
            )
        elif part == "attention":
            found[part] = attention(world)
            length_sorted_batches = ((l, v["times"]) for l, v in found[part].items() if l.isdigit())
            tell(
                "attention loss, maps over Gram: "
                + ", ".join(f"{times} times at {l} tokens" for l, times in length_sorted_batches)
            )
        elif part == "inference":
            found[part] = measure_inference(world)
            for shape, sides in found[part].items():
                tell(
                    f"inference {shape}: "
                    + ", ".join(f"{n} {v['ms']} ms ({v['times']} ×)" for n, v in sides.items())
                )
        elif part == "start":
            found[part] = start()
            tell("start: " + ", ".join(f"{k} {v} s" for k, v in found[part].items()))
        else:
            got = found[part] = full_run(world, epochs, tell)
            tell(
                f"whole: plain {got['plain']['seconds']:.0f} s, ours {got['ours']['seconds']:.0f} "
                f"s: {got['times']} times, final loss {got['loss_difference']:+.2%}"
            )
    return found
