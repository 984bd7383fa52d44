"""The teacher's outputs for a run's texts: computed once, kept where they fit."""

import contextlib
import logging
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.data.tokenized import TokenizedDataset
from tinybert_lite.models import inference
from tinybert_lite.pipeline.config import RuntimeConfig
from tinybert_lite.teacher_cache import TeacherCache

logger = logging.getLogger(__name__)
GIB = 2**30


class TeacherOutputs:
    """Where a run keeps its teacher's outputs: a cache for the layers, a file for the logits.

    They are computed in float32, or with `bf16` in bfloat16. `seconds` is the time the latest of
    them took to compute.
    """

    def __init__(
        self, state: Path, runtime: RuntimeConfig, accelerator: Accelerator, bf16: bool = False
    ):
        self.state, self.runtime, self.accelerator = state, runtime, accelerator
        self.precision = accelerator.autocast if bf16 else contextlib.nullcontext
        self.seconds = 0.0
        self.logits_file = state / "teacher_logits.safetensors"

    def cache(
        self, teacher: PreTrainedModel, texts: TokenizedDataset, mapping: list[int], epochs: float
    ) -> TeacherCache:
        """Hidden outputs and attention for the intermediate step, kept in memory or on disk."""
        need = TeacherCache.bytes_needed(teacher.config.hidden_size, texts, mapping)
        limits = self.runtime.keep_gib, self.runtime.keep_disk_gib
        memory, disk = (int(gib * GIB) if epochs > 1 else 0 for gib in limits)
        file = None
        if epochs <= 1:
            how = "computed at every step, as each text is read once"
        elif need <= memory:
            how = "computed once and kept in memory"
        elif need <= disk:
            how = "computed once and kept on disk"
            file = self.state / f"teacher_outputs-{self.accelerator.process_index}"
        else:
            how = "computed at every step (--keep-gib and --keep-disk-gib allow less)"
        logger.info("teacher outputs: %.2f GiB, %s", need / GIB, how)
        teacher.to(self.accelerator.device)
        started, limit = time.monotonic(), max(memory, disk)
        with self.precision():
            cache = TeacherCache(teacher, texts, mapping, "auto", limit, self._bar, file)
        self.seconds = time.monotonic() - started
        return cache

    def logits(
        self, teacher: PreTrainedModel, texts: TokenizedDataset, more: TokenizedDataset | None
    ) -> Tensor:
        """Logits (texts, classes) for the prediction step, of `texts` and then of `more`.

        What the intermediate step has computed for `texts`, or this step before it was stopped,
        is not computed again.
        """
        started, self.seconds = time.monotonic(), 0.0
        known = self.logits_file.is_file()
        self.accelerator.wait_for_everyone()  # all have looked before it is written
        logits = load_tensors(self.logits_file)[0]["teacher_logits"] if known else None
        total = len(texts) + len(more or ())
        if logits is not None and len(logits) == total:
            return logits
        teacher.to(self.accelerator.device).eval()
        with self.precision():
            if logits is None or len(logits) != len(texts):
                logits = torch.from_numpy(inference.predict(teacher, texts))
            if more is not None:
                logits = torch.cat([logits, torch.from_numpy(inference.predict(teacher, more))])
        self.keep(logits)
        self.seconds = time.monotonic() - started
        return logits

    def keep(self, logits: Tensor) -> None:
        """Save logits for the prediction step."""
        if self.accelerator.is_main_process:
            save_tensors({"teacher_logits": logits}, self.logits_file, {})

    def _bar(self, batches: list) -> list:
        show = self.runtime.progress and self.accelerator.is_main_process
        return tqdm(batches, desc="teacher outputs", disable=not show)
