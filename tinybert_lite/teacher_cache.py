"""The teacher's outputs, computed once and kept where there is room."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tinybert_lite import UserError
from tinybert_lite.attention import capture
from tinybert_lite.data.tokenized import (
    TokenizedDataset,
    length_sorted_batches,
    padded_to,
    to_device,
)

SHORT = 64  # tokens, up to which a CPU compares maps faster than Gram products


def attention_form(what: str, attention_mask: Tensor) -> str:
    """The form in which a batch's attention is compared: `what`, or for "auto" the faster one.

    attention_mask is (batch, l). On a CPU the l × l maps of a short text are cheaper than the
    d_k × d_k products of the Gram form, those of a long one slower: `python -m tinybert_lite bench
    attention` measures it. A GPU takes the Gram form.
    """
    if what != "auto":
        return what
    short = attention_mask.shape[1] <= SHORT and attention_mask.device.type == "cpu"
    return "scores" if short else "qk"


class TeacherCache:
    """The teacher's outputs for each text: hidden outputs g(0…M), attention of layers g(1…M).

    The teacher is in evaluation mode and without gradients. Its outputs do not change from epoch
    to epoch: they are computed once and kept in half precision when they fit into `keep_bytes`,
    else computed again at every step. With a `file` they are kept in it, mapped into memory,
    instead of in memory itself; the file's name is removed at once, its space with the process.
    `what` is "scores", "qk", or "auto": the faster form for each batch (`attention_form`).

    Raises UserError when the file cannot be written.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: TokenizedDataset,
        mapping: list[int],
        what: str = "auto",
        keep_bytes: int = 0,
        progress: Callable[[list], list] = lambda batches: batches,
        file: Path | None = None,
    ):
        self.teacher, self.data, self.mapping, self.what = teacher.eval(), data, mapping, what
        self.store: Any = None  # (tokens, 3M + 1, d) in float16 where the outputs are kept
        self.file = file
        self.teacher_logits: Tensor | None = None  # (texts, classes), from the same pass
        self.device = next(teacher.parameters()).device
        if 0 < self.bytes_needed(teacher.config.hidden_size, data, mapping) <= keep_bytes:
            self._keep(progress)

    @staticmethod
    def bytes_needed(width: int, data: TokenizedDataset, mapping: list[int]) -> int:
        """Memory for all outputs in half precision: M + 1 hidden states, M queries and keys."""
        return 2 * width * (3 * len(mapping) - 2) * int(data.offsets[-1])

    @torch.no_grad()
    def _compute(self, inputs: dict[str, Tensor], what: str) -> tuple[list[Tensor], list]:
        outputs = capture(self.teacher, inputs, what)
        self._logits = outputs.logits
        hidden = [outputs.hidden[g] for g in self.mapping]
        return hidden, [outputs.attention[g - 1] for g in self.mapping[1:]]

    def _keep(self, progress) -> None:
        """Compute and keep the outputs of all texts, token by token: (tokens, 3M + 1, d) in float16."""
        config = self.teacher.config
        self.heads = config.num_attention_heads
        parts = 3 * len(self.mapping) - 2
        shape = (int(self.data.offsets[-1]), parts, config.hidden_size)
        if self.file is None:
            self.store = torch.empty(shape, dtype=torch.float16, device=self._home(shape))
        else:
            self.store = _mapped(self.file, shape)
        for rows in progress(length_sorted_batches(self.data.lengths, 64)):
            inputs = self.data.batch(rows, self.device)
            hidden, attention = self._compute(inputs, "qk")
            flat = [t.transpose(1, 2).flatten(2) for qk in attention for t in qk]
            at, real = self.data.positions(rows, padded_to(self.device))
            together = torch.stack(hidden + flat, dim=2)[torch.from_numpy(real)]
            # float16 ends at 65504; a hidden state beyond it would become infinite.
            where = torch.from_numpy(at[real]).to(self.store.device)
            self.store[where] = together.clamp(-6e4, 6e4).half().to(self.store.device)
            if self._logits is not None:
                if self.teacher_logits is None:
                    self.teacher_logits = torch.empty(len(self.data), self._logits.shape[1])
                self.teacher_logits[torch.from_numpy(rows)] = self._logits.float().cpu()

    def _home(self, shape: tuple[int, ...]) -> torch.device:
        """The teacher's device where half of its free memory is enough, else the CPU."""
        need, gpu = 2 * math.prod(shape), self.device.type == "cuda"
        fits = gpu and need < torch.cuda.mem_get_info(self.device)[0] / 2
        return self.device if fits else torch.device("cpu")

    def __call__(
        self, rows: np.ndarray, inputs: dict[str, Tensor], what: str | None = None
    ) -> tuple[list[Tensor], list]:
        """Targets of one batch: hidden (batch, l, d) each, attention as `what` or the cache says."""
        return self.targets(inputs, self.kept(rows), what)

    def kept(self, rows: np.ndarray) -> Tensor | None:
        """What is kept of a batch, (batch, l, 3M + 1, d) in float16; None where nothing is."""
        if self.store is None:
            return None
        at, _ = self.data.positions(rows, padded_to(self.device))
        return self.store[to_device(torch.from_numpy(at), self.store.device)].to(self.device)

    def targets(
        self, inputs: dict[str, Tensor], kept: Tensor | None, what: str | None = None
    ) -> tuple[list[Tensor], list]:
        """The targets from what is `kept` of the batch, else from the teacher."""
        what = attention_form(what or self.what, inputs["attention_mask"])
        if kept is None:
            return self._compute(inputs, what)
        kept = kept.float()
        count = len(self.mapping)
        hidden = [kept[:, :, i] for i in range(count)]
        flat = [
            kept[:, :, i].unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for i in range(count, kept.shape[2])
        ]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if what == "qk":
            return hidden, pairs
        return hidden, [q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 for q, k in pairs]


def _mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    """Room for half-precision values in a file that is removed when it is no longer in use."""
    left, block = 2 * math.prod(shape), bytes(2**24)
    try:
        with file.open("wb") as f:
            while left:  # writing into a hole of a full disk would kill the process later
                left -= f.write(block[: min(left, len(block))])
        store = torch.from_file(str(file), True, math.prod(shape), dtype=torch.float16).view(shape)
    except (OSError, RuntimeError) as error:
        file.unlink(missing_ok=True)
        raise UserError(
            f"The teacher's outputs could not be written to {file} ({error}); free some space, or "
            "leave --keep-disk-gib out: then they are computed at every step."
        ) from error
    with contextlib.suppress(OSError):  # Windows keeps the name while the file is in use
        file.unlink()
    return store
