"""The exercises of notebook 05: a training step, the log of a real run, a control for a probe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinybert_lite.course.exercises.checking import NOT_TRIED, Result, draw, run, wrong

RECORDED = Path(__file__).with_name("recordings.json")
CAUSES = {
    "log 1": "projection frozen",
    "log 2": "healthy",
    "log 3": "mapping reversed",
    "log 4": "learning rate ten times too low",
}
HINTS = {
    "projection frozen": "A frozen projection slows every loss that it is part of, embedding and "
    "hidden, and does not affect the attention losses.",
    "healthy": "In a healthy run every loss falls, and the embedding loss by about as much as the "
    "hidden ones.",
    "mapping reversed": "Look at the first values: which student layer has the loss that other logs "
    "have at the other end of the student?",
    "learning rate ten times too low": "All seven losses lag behind, from the first ten updates on.",
    "mapping shifted": "Other teacher layers have scores of another size: the attention losses would "
    "start far higher than in any of these logs.",
}
SHIFTED = "mapping shifted"
TEXTS = ("the plot is thin but the cast is fine", "a film", "good good", "slow and dull and long")


def real_logs() -> dict[str, dict[str, list[float]]]:
    """Losses of four runs of stage 1, each a mean of ten updates, recorded for exercise 2."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))["stage 1"]


def check_training_step(candidate: Callable | None) -> Result:
    """Check `candidate(student, projection, teacher, mapping, x, optimizer)`: one update of stage 1.

    `student(x)` and `teacher(x)` return lists of outputs; the answer is the loss as a float. The
    teacher comes in training mode, and gradients of another batch are still there.
    """
    if candidate is None or candidate is ... or not callable(candidate):
        return run(candidate, [])[0] or NOT_TRIED
    problem, answers = run(lambda: _after(candidate), [()])
    if problem:
        return problem
    got, right = answers[0], _after(_step)
    if got["teacher moved"]:
        return wrong(
            "the teacher was trained",
            "Only the student and the projection may change: use torch.no_grad() for the teacher.",
        )
    if got["teacher gradient"]:
        return wrong(
            "gradients in the teacher",
            "Compute the teacher's outputs inside torch.no_grad(): the teacher is not trained.",
        )
    if torch.allclose(got["weights"], right["weights"], atol=1e-6):
        if not isinstance(got["loss"], float):
            return wrong("the loss is not a float", "Return loss.item().")
        if abs(got["loss"] - right["loss"]) > 1e-5:
            if abs(3 * got["loss"] - right["loss"]) < 1e-4:  # the clipped gradients are the same
                return wrong(*_named("the mean instead of the sum over outputs"))
            return wrong("another loss returned", "Return the sum that backward() was called on.")
        return Result(True, hint="The same weights as the reference after two updates.")
    if torch.equal(got["weights"], got["start"]):
        return wrong("nothing changed", "optimizer.step() makes the update, after backward().")
    for name, (change, hint) in STEP_MISTAKES.items():
        if torch.allclose(got["weights"], _after(_step, **change)["weights"], atol=1e-6):
            return wrong(name, hint)
    return wrong(
        "other weights", "Compare line by line with `distill` in section 2: the order matters."
    )


def check_diagnosis(answer: dict | None) -> Result:
    """Check the causes of the four logs of `real_logs`, {log: cause}."""
    if not isinstance(answer, dict) or all(v is ... or v is None for v in answer.values()):
        return Result(False, False, hint="Put one of the causes in place of each ...")
    given = {log: str(answer.get(log, "")).strip().lower() for log in CAUSES}
    for log, cause in given.items():
        if not any(cause and known.startswith(cause) for known in HINTS):
            return wrong(f"{log} has no known cause", f"Take one of: {'; '.join(HINTS)}.")
    given = {log: next(k for k in HINTS if k.startswith(cause)) for log, cause in given.items()}
    missed = [log for log, cause in CAUSES.items() if given[log] != cause]
    if not missed:
        return Result(True, hint="All four. The shifted mapping does not occur.")
    found = len(CAUSES) - len(missed)
    return wrong(f"{found} of 4 are right, {missed[0]} is not", HINTS[given[missed[0]]])


def check_control(candidate: Callable | None) -> Result:
    """Check `candidate(texts, random)`: for each text its words in another, random order."""
    texts = list(TEXTS) * 10
    given = list(texts)
    problem, answers = run(candidate, [(given, np.random.default_rng(s)) for s in (0, 1)])
    if problem:
        return problem
    if given != texts:
        return wrong("texts was changed in place", "Build a new list and leave the old one alone.")
    for new in answers:
        if isinstance(new, str) or len(new) != len(texts) or not all(type(t) is str for t in new):
            return wrong("not a list of as many texts", "Give one new text for each of the old.")
        for text, copy in zip(texts, new, strict=True):
            if sorted(copy.split()) != sorted(text.split()):
                if sorted(copy) == sorted(text):
                    return wrong("letters shuffled", "Shuffle words, not letters: text.split().")
                return wrong(
                    "other words",
                    f"{text!r} became {copy!r}: a bag of words could tell the two apart.",
                )
    if answers[0] == texts:
        return wrong("nothing was shuffled", "random.permutation(len(words)) gives a new order.")
    pairs = [p for new in answers for p in zip(texts, new, strict=True)]
    if any(text == copy for text, copy in pairs if len(set(text.split())) > 1):
        return wrong(
            "some copies equal their originals",
            "A random order of a short text is often the old one: draw again until it differs.",
        )
    long = [(text, copy) for text, copy in pairs if len(text.split()) > 4]
    if len({copy for _, copy in long}) <= len({text for text, _ in long}):
        return wrong(
            "always the same new order",
            "A probe could learn a fixed rule, such as reversing, instead of order in general: draw "
            "at random.",
        )
    return Result(
        True, hint="The same words, another random order: only order can tell them apart."
    )


# ---- the training step


class _Encoder(nn.Module):
    """A toy encoder: a list of outputs, with dropout as BERT has it."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, width)])
        self.layers.extend(nn.Linear(width, width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.layers:
            x = self.dropout(torch.tanh(layer(x)))
            outputs.append(x)
        return outputs


def _step(student, projection, teacher, mapping, x, optimizer, **change) -> float:
    """The right update, or one with a change: what a known mistake does instead."""
    teacher.train(change.get("dropout", False))
    with torch.no_grad():
        targets = teacher(x)
    if change.get("identity"):
        mapping = range(len(mapping))
    pairs = [(projection(s), targets[g]) for s, g in zip(student(x), mapping, strict=True)]
    terms = [F.mse_loss(ours, theirs) for ours, theirs in pairs[change.get("first", 0) :]]
    loss: Tensor = torch.stack(terms).sum() / (len(terms) if change.get("mean") else 1)
    if change.get("last"):
        loss = terms[-1]
    if not change.get("keep"):
        optimizer.zero_grad()
    loss.backward()
    parameters = [*student.parameters(), *projection.parameters()]
    if change.get("separate"):
        nn.utils.clip_grad_norm_(list(student.parameters()), 1.0)
        nn.utils.clip_grad_norm_(list(projection.parameters()), 1.0)
    elif not change.get("unclipped"):
        clipped = list(student.parameters()) if change.get("half") else parameters
        nn.utils.clip_grad_norm_(clipped, change.get("norm", 1.0))
    optimizer.step()
    return loss.item()


STEP_MISTAKES: dict[str, tuple[dict, str]] = {
    "old gradients were not cleared": (
        {"keep": True},
        "backward() adds to the gradients that are there: optimizer.zero_grad() before it.",
    ),
    "gradients were not clipped": (
        {"unclipped": True},
        "clip_grad_norm_ between backward() and step(); after step() it has no effect.",
    ),
    "student and projection were clipped separately": (
        {"separate": True},
        "Clip them together: one call of clip_grad_norm_ with the parameters of both.",
    ),
    "the projection was left out of the clipping": (
        {"half": True},
        "Clip the gradients of student and projection together: one norm for both.",
    ),
    "the teacher was in training mode": (
        {"dropout": True},
        "Its dropout puts noise into the targets: teacher.eval() first.",
    ),
    "the mapping was forgotten": (
        {"identity": True},
        "Student output m imitates teacher output mapping[m], not output m.",
    ),
    "the mean instead of the sum over outputs": (
        {"mean": True},
        "The losses of the outputs are added up (section 2); a mean makes every gradient smaller.",
    ),
    "the embedding output was forgotten": (
        {"first": 1},
        "Output 0 has a loss too, equation 9.",
    ),
    "only the last output was imitated": (
        {"last": True},
        "Every output has a loss: sum over all of them.",
    ),
}


def _named(mistake: str) -> tuple[str, str]:
    return mistake, STEP_MISTAKES[mistake][1]


def _after(step: Callable, **change) -> Any:
    """What two updates of a toy student leave; None for a step that returns nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = _Encoder(3, 2, 0.0), _Encoder(4, 4, 0.3)
        projection = nn.Linear(3, 4, bias=False)
        teacher.train()
        trained = [*student.parameters(), *projection.parameters()]
        optimizer = torch.optim.SGD(trained, lr=0.5)
        with torch.no_grad():
            for p in teacher.parameters():
                p.mul_(4)
            projection.weight.mul_(6)
        start = torch.cat([p.detach().flatten().clone() for p in trained])
        before = torch.cat([p.detach().flatten().clone() for p in teacher.parameters()])
        for p in trained:
            p.grad = 0.1 * torch.ones_like(p)  # of an earlier batch
        loss = None
        for seed in (0, 1):
            torch.manual_seed(seed)
            x = draw(seed)(6, 5)
            loss = step(student, projection, teacher, [0, 2, 4], x, optimizer, **change)
            if loss is None or loss is ...:
                return None
        after = torch.cat([p.detach().flatten() for p in teacher.parameters()])
        return {
            "weights": torch.cat([p.detach().flatten() for p in trained]),
            "start": start,
            "loss": loss,
            "teacher moved": not torch.equal(before, after),
            "teacher gradient": any(p.grad is not None for p in teacher.parameters()),
        }
