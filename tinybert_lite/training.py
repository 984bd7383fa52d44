"""One training loop for every phase: it can be killed anywhere and continues to the same weights.

`accelerate` carries it (one CPU, one GPU, several). What the next step does depends only on the
seed, the step number and the weights, so a checkpoint is weights, optimizer moments and a number.
"""

import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from tqdm.auto import tqdm

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import write_text
from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.data.tokenized import length_grouped_batches

LOG_EVERY = 20  # steps between reads of the losses, so that the loop need not wait for the device
BEFORE_CAPTURE = 2  # steps with batches of one shape before a GPU records the third as a graph


@dataclass
class TrainingConfig:
    """How a phase is trained: epochs, sentences per batch, learning rate, and other settings.

    `warmup` is the share of steps with a rising learning rate; it then falls linearly to 0, over the
    last `decay` of the steps (None: all after the warm-up). `clip` is the largest gradient norm; `save_seconds` the time between checkpoints, infinite for none.
    """

    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    decay: float | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    save_seconds: float = 60.0

    def steps(self, per_epoch: int) -> int:
        """Steps of a phase with this many batches an epoch."""
        return max(1, round(self.epochs * per_epoch))


@dataclass
class History:
    """What a phase returns: seconds it took, best validation score, and averages for the curves."""

    seconds: float = 0.0
    best: float | None = None
    records: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class MeanLoss:
    """A scalar loss with the number of terms that it is the mean of.

    `terms(lengths)` is that number for texts with these lengths in tokens. A batch in parts, or on
    several processes, then has the gradients of the whole one. A plain tensor is a mean over texts.
    """

    value: Tensor
    terms: Callable[[np.ndarray], float] = len


Losses = Mapping[str, Tensor | MeanLoss]


class LossNotFinite(UserError):
    """The loss became NaN or infinite."""


def make_accelerator(cpu: bool = False, bf16: bool = False) -> Accelerator:
    """An accelerator for `fit`: on a GPU, where there is one, or with `cpu` always on the CPU.

    A GPU computes in bfloat16 (autocast, weights in float32), a CPU in float32, or with `bf16` in
    bfloat16 too; `check_bf16` tells whether that is of use.
    """
    gpu = torch.cuda.is_available() and not cpu
    precision = "bf16" if gpu or bf16 else "no"
    # accelerate keeps the device and the precision of a process's first run for all later ones
    known, device = AcceleratorState._shared_state, PartialState._shared_state.get("device")
    other = known.get("_mixed_precision", precision) != precision
    other = other or (device is not None and (device.type == "cuda") != gpu)
    if other and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=precision)


def check_bf16(cpu: bool = False) -> None:
    """Raise UserError where `fit` would run on a CPU that is slower in bfloat16 than in float32."""
    if (cpu or not torch.cuda.is_available()) and not has_bf16():
        raise UserError(
            "--bf16 is for processors with instructions for bfloat16 (AVX512-BF16 or AMX); this one "
            "has none and would be slower, so leave --bf16 out."
        )


def has_bf16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 with instructions of its own."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before PyTorch 2.13
        return torch.cpu._is_avx512_bf16_supported()
    names = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86-64, then ARM
    return any(torch.cpu.get_capabilities().get(name) for name in names)


def fit(
    name: str,
    module: nn.Module,
    loss: Callable[[nn.Module, Any], Losses],
    lengths: np.ndarray,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    score: Callable[[], float] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    progress: bool = True,
    batches: Callable[[int], list[np.ndarray]] | None = None,
    tensors: Callable[[np.ndarray], dict[str, Tensor]] | None = None,
) -> History:
    """Train `module` in place on the sum of the losses, and return its history.

    `loss(module, batch)` gives named scalar losses of one batch, means over texts or `MeanLoss`.
    The batch is what `tensors(rows)` gives for its rows, or without it the rows themselves; with it
    one GPU replays a step as a CUDA graph, so everything that the loss reads must be in these
    tensors or stay where it is. `lengths` (tokens of each text) group the batches, unless
    `batches(epoch)` gives them. `score()` is computed after each epoch, larger is better, and the
    best weights are kept; without it the last ones are. `folder` takes `<name>.safetensors` and
    `log.jsonl`. `on_step(step, losses)` is called every `LOG_EVERY` steps. Raises LossNotFinite,
    naming the step and rows; the checkpoint keeps the last good weights.
    """
    run = _Run(name, module, settings, folder, accelerator, score)
    if batches is None:
        batches = partial(length_grouped_batches, lengths, settings.batch_size, settings.seed)
    per_epoch = len(batches(0))
    total = settings.steps(per_epoch)
    run.restore()
    model = accelerator.prepare_model(module) if accelerator.num_processes > 1 else module
    steps = _Steps(model, loss, tensors, lengths, run)
    pending: list[tuple[np.ndarray, dict[str, Tensor]]] = []
    show = progress and accelerator.is_main_process
    bar = tqdm(total=total, initial=run.step, desc=name, disable=not show, unit="step")
    with bar:
        while run.step < total:
            epoch = run.step // per_epoch
            for rows in batches(epoch)[run.step % per_epoch :]:
                learning_rate = learning_rate_at(run.step, total, settings)
                losses = steps.take(rows, learning_rate)
                run.step += 1
                pending.append((rows, losses))
                bar.update()
                last = run.step == total
                if last or run.step % LOG_EVERY == 0:
                    shown = run.log(pending, learning_rate, epoch)
                    bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
                    if on_step is not None:
                        on_step(run.step, shown)
                    pending = []
                    # at the end of an epoch only after its score, or there would be none
                    if run.due() and run.step % per_epoch and not last:
                        run.save()
                if last:
                    break
            if pending:
                run.log(pending, learning_rate, epoch)
                pending = []
            run.compute_score(epoch)
    if settings.save_seconds < math.inf:
        run.save()  # what turns the result into a model may be killed before it is done
    return run.finish()


def learning_rate_at(step: int, total: int, settings: TrainingConfig) -> float:
    """The learning rate of a step counted from 0: linear warm-up, constant, linear decay to 0."""
    warm = max(1, round(settings.warmup * total))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    decay = total - warm if settings.decay is None else math.ceil(settings.decay * total)
    if total - step > decay:
        return settings.learning_rate
    return settings.learning_rate * (total - step) / max(1, decay)


class _Steps:
    """The optimizer steps of one phase.

    One GPU would wait for Python at every operation of a small student. So a whole step, forward
    pass, gradients, clipping and AdamW, is recorded as a CUDA graph for each shape of a batch, the
    first time after `BEFORE_CAPTURE` ordinary steps with this shape, and replayed from then on.
    """

    def __init__(self, model: nn.Module, loss, tensors, lengths: np.ndarray, run: "_Run"):
        self.model, self.loss, self.tensors = model, loss, tensors
        self.lengths, self.run = lengths, run
        on_one_gpu = run.device.type == "cuda" and run.accelerator.num_processes == 1
        self.record = on_one_gpu and tensors is not None and run.settings.accumulate == 1
        self.stream: Any = torch.cuda.Stream(run.device) if self.record else None
        self.seen: Counter = Counter()
        self.graphs: dict[tuple, tuple] = {}  # by shapes: graph, its inputs, its losses

    def take(self, rows: np.ndarray, learning_rate: float) -> dict[str, Tensor]:
        """One optimizer step; returns this process's part of the losses on the device, unread."""
        # Dropout depends on the step alone, so no state of a generator needs saving.
        torch.manual_seed(self.run.settings.seed * 1_000_003 + self.run.step)
        self.run.set_learning_rate(learning_rate)
        if self.record:
            return self._on_gpu(self.tensors(rows))
        world, rank = self.run.accelerator.num_processes, self.run.accelerator.process_index
        whole = np.resize(rows, max(len(rows), world))
        mine = whole[rank::world]
        parts = np.array_split(mine, min(self.run.settings.accumulate, len(mine)))
        sums: dict[str, Tensor] = {}
        for part in parts:
            batch = part if self.tensors is None else self.tensors(part)
            scaled = partial(_share, part=self.lengths[part], whole=self.lengths[whole])
            self._gradients(batch, sums, scaled)
        self._update()
        return sums

    def _gradients(self, batch, sums: dict[str, Tensor], scaled: Callable[[Any], Tensor]) -> None:
        """Add the gradients of a batch, or of a part of it, and to `sums` its losses."""
        accelerator = self.run.accelerator
        with accelerator.autocast():
            losses = self.loss(self.model, batch)
        values = {key: scaled(x) for key, x in losses.items()}
        total = torch.stack(list(values.values())).sum()
        accelerator.backward(total * accelerator.num_processes)  # which average their gradients
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value.detach()

    def _update(self) -> None:
        if self.run.settings.clip:
            nn.utils.clip_grad_norm_(self.run.trained, self.run.settings.clip)
        self.run.optimizer.step()
        self.run.optimizer.zero_grad(set_to_none=True)

    def _on_gpu(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A step with a whole batch: as usual, then recorded, then replayed."""
        shapes = tuple((name, x.shape) for name, x in batch.items())
        self.seen[shapes] += 1
        if self.seen[shapes] <= BEFORE_CAPTURE:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*capturable=True")  # it is, soon
                losses = self._whole(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if shapes not in self.graphs:
            graph, inputs = torch.cuda.CUDAGraph(), {k: x.clone() for k, x in batch.items()}
            pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                losses = self._whole(inputs)
            self.graphs[shapes] = graph, inputs, losses
        graph, inputs, losses = self.graphs[shapes]
        for name, x in batch.items():
            inputs[name].copy_(x)
        graph.replay()
        return {name: x.clone() for name, x in losses.items()}

    def _whole(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        self._gradients(batch, losses, lambda x: x.value if isinstance(x, MeanLoss) else x)
        self._update()
        return losses


def _share(loss: Tensor | MeanLoss, part: np.ndarray, whole: np.ndarray) -> Tensor:
    """What the loss of a part of a batch adds to the mean over the whole, from the lengths."""
    mean = loss if isinstance(loss, MeanLoss) else MeanLoss(loss)
    return mean.value * (float(mean.terms(part)) / float(mean.terms(whole)))


class _Run:
    """The state of one phase and its files."""

    def __init__(self, name, module, settings, folder, accelerator, score):
        self.name, self.module, self.settings, self.folder = name, module, settings, Path(folder)
        self.accelerator, self.score = accelerator, score
        self.file = self.folder / f"{name}.safetensors"
        self.log_file = self.folder / "log.jsonl"
        self.device = accelerator.device
        self.step, self.history = 0, History()
        self.best: dict[str, Tensor] | None = None
        self.started = self.saved = time.monotonic()
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        decay = [p for _, p in named if p.ndim > 1]
        rest = [p for _, p in named if p.ndim <= 1]
        gpu = self.device.type == "cuda"  # there a graph reads the rate of its step from a tensor
        rate: Any = settings.learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": settings.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=torch.tensor(rate, device=self.device) if gpu else rate,
            fused=True,
            capturable=gpu,
        )

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def log(self, pending, learning_rate: float, epoch: int) -> dict[str, float]:
        """Read the losses of the last steps, stop if one is not finite, write their means."""
        keys = list(pending[0][1])
        table = torch.stack([torch.stack(list(losses.values())) for _, losses in pending]).float()
        if self.accelerator.num_processes > 1:  # each has its part of every loss
            table = self.accelerator.reduce(table, "sum")
        means_of_steps = table.cpu().numpy()
        finite = np.isfinite(means_of_steps).all(1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise LossNotFinite(
                f"The loss of phase {self.name} became {means_of_steps[bad].sum()} at step "
                f"{self.step - len(pending) + bad + 1}, in the batch of texts number "
                f"{', '.join(map(str, pending[bad][0][:8]))}…; use a lower learning rate (now {learning_rate:.1e}) "
                f"and another --out. The last good weights are kept in {self.folder}."
            )
        means = dict(zip(keys, means_of_steps.mean(0).tolist(), strict=True))
        record = {
            "phase": self.name,
            "step": self.step,
            "epoch": epoch,
            "learning_rate": learning_rate,
            "losses": means,
            "seconds": round(self.seconds(), 3),
        }
        self.write(record)
        return means

    def write(self, record: dict) -> None:
        self.history.records.append(record)
        if self.accelerator.is_main_process:
            with self.log_file.open("a", encoding="utf-8") as f:
                f.write(json.dumps(record) + "\n")

    def compute_score(self, epoch: int) -> None:
        if self.score is None:
            return
        self.module.eval()
        score = float(self.score())
        self.module.train()
        self.write({"phase": self.name, "step": self.step, "epoch": epoch, "score": score})
        if self.history.best is None or score > self.history.best:
            self.history.best = score
            self.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        if self.due():
            self.save()

    def seconds(self) -> float:
        return self.history.seconds + time.monotonic() - self.started

    def due(self) -> bool:
        return time.monotonic() - self.saved >= self.settings.save_seconds

    def save(self) -> None:
        """Write the checkpoint beside the old one and move it into place."""
        self.saved = time.monotonic()
        # A finite loss can have an infinite gradient: such weights must not replace good ones.
        if not all(torch.isfinite(p).all() for p in self.trained):
            raise LossNotFinite(
                f"The weights of phase {self.name} became NaN or infinite before step "
                f"{self.step + 1}; use a lower learning rate and another --out. The last good weights are "
                f"kept in {self.folder}."
            )
        if not self.accelerator.is_main_process:
            return
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        for i, p in enumerate(self.trained):
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{i}.{key}"] = value
        facts = {"step": self.step, "seconds": self.seconds(), "best": self.history.best}
        save_tensors(tensors, self.file, {"facts": json.dumps(facts)})

    def restore(self) -> None:
        """Load the checkpoint if there is one, and drop the log's lines after it."""
        if self.file.is_file():
            tensors, metadata = load_tensors(self.file)
            if "facts" not in metadata:
                raise UserError(f"{self.file} is not a checkpoint of this program; remove it.")
            facts = json.loads(metadata["facts"])
            self.step, self.history.best = facts["step"], facts["best"]
            self.history.seconds = facts["seconds"]
            own = {k[7:]: v for k, v in tensors.items() if k.startswith("module.")}
            try:
                self.module.load_state_dict(own)
            except RuntimeError as error:
                raise UserError(
                    f"The checkpoint {self.file} belongs to another model; remove it and run the command "
                    "again: the phase will start over."
                ) from error
            best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
            self.best = best or None
            for i, p in enumerate(self.trained):
                state = {
                    k.split(".", 2)[2]: v
                    for k, v in tensors.items()
                    if k.startswith(f"optimizer.{i}.")
                }
                if state:
                    self.optimizer.state[p] = {k: v.to(p.device) for k, v in state.items()}
        self._trim_log()

    def _trim_log(self) -> None:
        if not self.log_file.is_file() or not self.accelerator.is_main_process:
            return
        kept = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line cut short by a kill
            if record.get("phase") != self.name:
                kept.append(line)
            elif record["step"] <= self.step:
                kept.append(line)
                self.history.records.append(record)
        write_text(self.log_file, "".join(line + "\n" for line in kept))

    def finish(self) -> History:
        if self.best is not None:
            self.module.load_state_dict(self.best)
        self.module.eval()
        self.history.seconds = self.seconds()
        return self.history
