"""One training loop for every phase: it can be killed anywhere and continues to the same weights.

`accelerate` carries it (one CPU, one GPU, several). What the next step does depends only on the
seed, the step number and the weights, so a checkpoint is weights, optimizer moments and a number.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import write_text
from tinybert_lite.data.storage import load_tensors, save_tensors
from tinybert_lite.data.tokenized import length_grouped_batches

LOG_EVERY = 20  # steps between reads of the losses, so that the loop need not wait for the device


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


class LossNotFinite(UserError):
    """The loss became NaN or infinite."""


def fit(
    name: str,
    module: nn.Module,
    loss: Callable[[nn.Module, np.ndarray], Mapping[str, Tensor | MeanLoss]],
    lengths: np.ndarray,
    settings: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    score: Callable[[], float] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    progress: bool = True,
    batches: Callable[[int], list[np.ndarray]] | None = None,
) -> History:
    """Train `module` in place on the sum of the losses, and return its history.

    `loss(module, rows)` gives named scalar losses of the rows of one batch, means over texts or
    `MeanLoss`; `lengths` (tokens of each text) group the batches, unless `batches(epoch)` gives
    them. `score()` is computed after each epoch, larger is better, and the best weights are kept;
    without it the last ones are. `folder` takes `<name>.safetensors` and `log.jsonl`.
    `on_step(step, losses)` is called every `LOG_EVERY` steps. Raises
    LossNotFinite, naming the step and rows; the checkpoint keeps the last good weights.
    """
    run = _Run(name, module, settings, folder, accelerator, score)
    if batches is None:
        batches = partial(length_grouped_batches, lengths, settings.batch_size, settings.seed)
    per_epoch = len(batches(0))
    total = max(1, round(settings.epochs * per_epoch))
    run.restore()
    model = accelerator.prepare_model(module) if accelerator.num_processes > 1 else module
    pending: list[tuple[np.ndarray, dict[str, Tensor]]] = []
    show = progress and accelerator.is_main_process
    bar = tqdm(total=total, initial=run.step, desc=name, disable=not show, unit="step")
    with bar:
        while run.step < total:
            epoch = run.step // per_epoch
            for rows in batches(epoch)[run.step % per_epoch :]:
                learning_rate = learning_rate_at(run.step, total, settings)
                losses = _step(model, loss, rows, lengths, learning_rate, run)
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


def _step(
    model: nn.Module, loss, rows: np.ndarray, lengths: np.ndarray, learning_rate: float, run: "_Run"
) -> dict[str, Tensor]:
    """One optimizer step; returns this process's part of the losses on the device, unread."""
    accelerator, settings = run.accelerator, run.settings
    # Dropout depends on the step alone, so no state of a generator needs saving.
    torch.manual_seed(settings.seed * 1_000_003 + run.step)
    world, rank = accelerator.num_processes, accelerator.process_index
    whole = np.resize(rows, max(len(rows), world))
    mine = whole[rank::world]
    parts = np.array_split(mine, min(settings.accumulate, len(mine)))
    sums: dict[str, Tensor] = {}
    for part in parts:
        with accelerator.autocast():
            losses = loss(model, part)
        scaled = {key: _share(x, lengths[part], lengths[whole]) for key, x in losses.items()}
        total = torch.stack(list(scaled.values())).sum()
        accelerator.backward(total * world)  # several processes average their gradients
        for key, value in scaled.items():
            sums[key] = sums.get(key, 0.0) + value.detach()
    if settings.clip:
        nn.utils.clip_grad_norm_(run.trained, settings.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return sums


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
        self.step, self.history = 0, History()
        self.best: dict[str, Tensor] | None = None
        self.started = self.saved = time.monotonic()
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        decay = [p for _, p in named if p.ndim > 1]
        rest = [p for _, p in named if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": settings.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            fused=True,
        )

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
                    self.optimizer.state[p] = {
                        k: v if k == "step" else v.to(p.device) for k, v in state.items()
                    }
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
