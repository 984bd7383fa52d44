"""The models, texts and device of one measurement, and the clock."""

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tinybert_lite import UserError, students
from tinybert_lite.benchmark.config import BenchmarkConfig
from tinybert_lite.data import tasks
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import loading
from tinybert_lite.training import check_bf16, make_accelerator

PADDED = 64  # tokens that the baseline pads every text of a task to
ROUNDS = 3


class BenchmarkSetup:
    """Teacher, student's size, texts and device of one measurement."""

    def __init__(self, config: BenchmarkConfig, task: tasks.Task | None = None, texts: int = 2048):
        self.cuda = config.device.startswith("cuda")
        if self.cuda and not torch.cuda.is_available():
            raise UserError("There is no CUDA device here; leave --device out.")
        if config.bf16:
            check_bf16(cpu=not self.cuda)
        self.accelerator = make_accelerator(cpu=not self.cuda, bf16=config.bf16)
        # in which the optimized side runs the teacher, as the pipeline does
        self.precision = self.accelerator.autocast if config.bf16 else contextlib.nullcontext
        self.bf16 = self.cuda or config.bf16
        self.device = self.accelerator.device
        self.task: tasks.Task | None = None
        self.data: dict[str, TokenizedDataset]
        if config.size == "embedded":
            self._load_task(task or tasks.load_task("reviews"))
        elif task is not None:
            raise UserError("A task is measured with --size embedded only; leave --size out.")
        else:
            self._random(config.tokens, texts)
        self.teacher.to(self.device).eval()
        layers = students.PRESETS[self.preset].layers
        self.mapping = layer_mapping(self.teacher.config.num_hidden_layers, layers)

    def _load_task(self, task: tasks.Task) -> None:
        if task.kind != "classification" or len(task.label_names) != 2:
            raise UserError("The embedded teacher has two classes; choose a task with two.")
        self.task = task
        self.teacher, tokenizer = loading.load_classifier("reviews-teacher")
        self.preset, self.padded = "lite", PADDED
        self.data = {
            name: tokenize(tokenizer, split.texts, split.pairs, split.labels, PADDED)
            for name, split in task.splits.items()
        }

    def _random(self, tokens: int, texts: int) -> None:
        torch.manual_seed(0)
        self.teacher = BertForSequenceClassification(BertConfig())
        self.preset, self.padded = "tinybert4", tokens
        ids = np.random.default_rng(0).integers(1000, 30000, texts * tokens).astype(np.int32)
        offsets = np.arange(texts + 1, dtype=np.int64) * tokens
        self.data = {"train": TokenizedDataset(ids, None, offsets, np.arange(texts) % 2, 0)}

    def student(self, seed: int = 0) -> tuple[PreTrainedModel, students.Projection]:
        """A fresh student and its projection; both sides begin with the same weights."""
        student = students.build_student(self.teacher.config, self.preset, seed)
        projection = students.Projection(
            student.config.hidden_size, self.teacher.config.hidden_size, "paper", seed
        )
        students.svd_init(student, projection, self.teacher)
        return student.to(self.device), projection.to(self.device)

    def slice(self, count: int) -> TokenizedDataset:
        """The first `count` training texts of a shuffle."""
        train = self.data["train"]
        order = np.random.default_rng(0).permutation(len(train))[:count]
        offsets = np.concatenate([[0], np.cumsum(train.lengths[order])]).astype(np.int64)

        def gather(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array[train.offsets[i] : train.offsets[i + 1]] for i in order])

        types = None if train.types is None else gather(train.types)
        labels = None if train.labels is None else train.labels[order]
        return TokenizedDataset(gather(train.tokens), types, offsets, labels, train.pad)

    def timed(self, function: Callable[[], object]) -> float:
        """Seconds of one call, the device's work included."""
        self.wait()
        started = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.cuda:
            torch.cuda.synchronize()

    def interleaved(
        self, sides: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
    ) -> dict[str, dict]:
        """Call the sides in turn; median seconds of each, and on a GPU the bytes it needs to run.

        A side returns the seconds it wants counted. The first round warms up and is dropped. The
        bytes are the peak above what was allocated before: models and cached teacher outputs.
        """
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        peak: dict[str, int] = {}
        for turn in range(rounds + 1):
            for name, side in sides.items():
                if self.cuda:
                    torch.cuda.reset_peak_memory_stats()
                    resting = torch.cuda.memory_allocated()
                elapsed = side()
                if turn:
                    seconds[name].append(elapsed)
                if self.cuda:
                    peak[name] = torch.cuda.max_memory_allocated() - resting
        return {
            name: {
                "seconds": statistics.median(s),
                "rounds": [round(x, 4) for x in s],
                **({"peak_bytes": peak[name]} if peak else {}),
            }
            for name, s in seconds.items()
        }
