"""Checks of notebook 07: the loss of the first step, rates, a teacher in training mode, checkpoints."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinybert_lite.attention import ForwardOutputs
from tinybert_lite.course.exercises.checking import (
    Mistake,
    Result,
    check_loss,
    draw,
    mask_of,
    run,
    run_numbers,
    wrong,
)
from tinybert_lite.losses import attention_loss, hidden_loss
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.students import Projection
from tinybert_lite.training import TrainingConfig, learning_rate_at

RATES = {
    "intermediate": DistillationConfig.intermediate_learning_rate,
    "prediction": 3e-4,
}


def check_intermediate_loss(candidate: Callable | None) -> Result:
    """Check `candidate(student, teacher, mapping, projection, attention_mask)`: equation 11.

    student and teacher are what `capture` returns: `hidden` (M + 1 or N + 1 tensors) and
    `attention` (M or N tensors of scores); `projection(m)` projects student output m. The answer
    is a scalar, the sum over layers of the attention and hidden losses and of the embedding loss.
    """
    cases = _layer_cases()
    problem, _ = run(candidate, cases)
    if problem and "IndexError" in problem.hint:
        return wrong(
            "off by one: a layer that does not exist was asked for",
            "hidden has one element more than attention: hidden[0] is the embedding output, so "
            "layer n is hidden[n] but attention[n - 1].",
        )
    if problem and "Boolean value of Tensor" in problem.hint:  # hidden states given as m
        return wrong("projection without its m", "Pass projection(m), the projection of output m.")
    return check_loss(candidate, _intermediate, INTERMEDIATE_MISTAKES, cases)


def check_rate(candidate: Callable | None) -> Result:
    """Check `candidate(phase, step, total)`: the learning rate of a step counted from 0.

    `phase` is "intermediate" (largest rate 1e-3) or "prediction" (3e-4); it rises evenly over the
    first tenth of the steps, then falls evenly to what would be 0 at step `total`.
    """
    problem, got = run_numbers(candidate, RATE_CASES)
    if problem:
        return problem
    if _same(got, _rate):
        return Result(True, hint="The same as `training.learning_rate_at`, in both phases.")
    for mistake in RATE_MISTAKES:
        if _same(got, mistake.answer):
            return wrong(mistake.name, mistake.hint)
    right = np.array([_rate(*case) for case in RATE_CASES])
    first = int(np.argmin(np.isclose(got, right, rtol=1e-3, atol=1e-9)))
    phase, step, total = RATE_CASES[first]
    return wrong(
        "another rate",
        f"For phase {phase!r}, step {step} and total {total}, yours is {got[first]:.3g}, the right one "
        f"{right[first]:.3g}. Plot your rates over the updates.",
    )


def check_suspect(candidate: Callable | None) -> Result:
    """Check `candidate(curves)`: the name of the run whose teacher was left in training mode.

    `curves` has a dict for each run, by name; one of them is called "healthy". Each has an array
    of losses (points,) for "embedding", "hidden.1" … and "attention.1" … .
    """
    problem, answers = run(candidate, [(dict(recording),) for recording in RECORDINGS])
    if problem:
        return problem
    for answer, recording in zip(answers, RECORDINGS, strict=True):
        if not isinstance(answer, str) or answer not in recording:
            if isinstance(answer, str) and len(set(answers)) == 1 and len(answer) == 1:
                return wrong(
                    "the same name for every recording",
                    f"{answer!r} was found by eye in one picture; the runs of other "
                    "recordings have other names. Turn what you did by eye into code.",
                )
            return wrong(
                "not the name of a run", f"Return one of {', '.join(recording)}, not {answer!r}."
            )
    if answers == TRUTH:
        return Result(True, hint="Found in every recording, under any names.")
    places = {list(r).index(a) for r, a in zip(RECORDINGS, answers, strict=True)}
    if len(places) == 1 and places != {0}:
        return wrong("chosen by its position", "The order of the runs differs between recordings.")
    at = next(i for i, (a, b) in enumerate(zip(answers, TRUTH, strict=True)) if a != b)
    name, hint = SUSPECTS[KINDS[at][answers[at]]]
    where = "" if at == 0 else f" in recording {at + 1}"
    return wrong(f"you chose {name}{where}", hint)


def check_checkpoint(candidate: Callable | None) -> Result:
    """Check `candidate(model, optimizer, step)`: all that continuing to the same weights needs.

    The answer is a dict with "model" and "optimizer" (their state dicts) and "step" (steps done).
    It is taken in the middle of a run, which goes on; a second run starts from it.
    """
    model, optimizer = _toy(seed=0)
    _toy_steps(model, optimizer, 0, 5)
    problem, answers = run(candidate, [(model, optimizer, 5)])
    if problem:
        return problem
    saved = answers[0]
    if incomplete := _incomplete(saved):
        return incomplete
    _toy_steps(model, optimizer, 5, 10)  # goes on, and is what the continued run must equal
    fresh, other = _toy(seed=1)
    try:
        fresh.load_state_dict(saved["model"])
        other.load_state_dict(saved["optimizer"])
        start = int(saved["step"])
    except Exception as error:  # whatever the learner saved
        return wrong("it cannot be loaded", f"{type(error).__name__}: {str(error)[:150]}")
    if all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True)):
        return wrong(
            "references instead of copies",
            "state_dict() returns the tensors that training continues to change: what you saved "
            "after 5 updates now holds the weights after 10. Copy them with copy.deepcopy.",
        )
    if start != 5:
        return wrong(
            "off by one in the number of updates"
            if abs(start - 5) == 1
            else "another number of updates",
            f"5 updates were done; you saved {start}. The resumed run would repeat or leave out "
            "batches.",
        )
    moments = {int(s["step"]) for s in other.state.values()}
    if moments != {5}:
        return wrong(
            "moments of the optimizer shared, not copied",
            "The weights are a copy, but the optimizer's moments are still those of the run that "
            "continued, or there are none: apply copy.deepcopy to the whole dict.",
        )
    _toy_steps(fresh, other, start, 10)
    pairs = zip(fresh.parameters(), model.parameters(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        return wrong(
            "other weights at the end",
            "The resumed run does not end with the weights of the first one: did you round or "
            "change something before you saved it?",
        )
    return Result(True, hint="The resumed run ends with the same weights, bit for bit.")


def _incomplete(saved: object) -> Result | None:
    """What is missing in a checkpoint, or not a copy at all; None where every part is there."""
    if not isinstance(saved, dict):
        return wrong("not a dict", 'Return {"model": …, "optimizer": …, "step": …}.')
    missing = {"model", "optimizer", "step"} - set(saved)
    if "optimizer" in missing:
        return wrong(
            "moments of the optimizer forgotten",
            "AdamW scales each update by running means of the gradients and their squares; without "
            "them, the next updates differ. Save optimizer.state_dict() too.",
        )
    if "step" in missing:
        return wrong(
            "step forgotten",
            "The learning rate and the next batch depend on the update number: without it, the "
            "resumed run starts again with the warm-up and the first batch.",
        )
    if missing:
        return wrong("weights forgotten", 'Save model.state_dict() under the key "model".')
    if any(hasattr(saved[part], "state_dict") for part in ("model", "optimizer")):
        return wrong(
            "the objects instead of their tensors",
            "The run continues and changes them. Save copies of their state_dict().",
        )
    return None


# ---- equation 11


def _layer_cases() -> list[tuple]:
    cases = []
    for seed, (N, mapping), lengths in (
        (0, (6, [0, 2, 4, 6]), (3, 7, 5)),
        (1, (5, [0, 3, 5]), (7,)),
    ):
        normal, mask = draw(seed), mask_of(*lengths)
        batch, l = mask.shape

        def outputs(layers: int, width: int, normal=normal, batch=batch, l=l) -> ForwardOutputs:
            # Every layer has a size of its own, so that no two pairings cost the same.
            hidden = tuple((1 + 0.3 * i) * normal(batch, l, width) for i in range(layers + 1))
            scores = tuple((1 + 0.4 * i) * normal(batch, 2, l, l) for i in range(layers))
            return ForwardOutputs(None, hidden, scores)

        student = outputs(len(mapping) - 1, 4)
        for x in (*student.hidden, *student.attention):
            x.requires_grad_()
        projection = Projection(4, 6, seed=seed)
        cases.append((student, outputs(N, 6), mapping, projection, mask))
    return cases


def _terms(student, teacher, mapping, projection, mask, attention, hidden) -> tuple[list, list]:
    """Attention terms of layers 1…M and hidden terms of outputs 0…M.

    `attention(m)` and `hidden(m)` give the teacher layer and output (from 0: embeddings).
    """
    M = len(mapping) - 1
    first = [
        attention_loss(student.attention[m - 1], teacher.attention[attention(m) - 1], mask)
        for m in range(1, M + 1)
    ]
    second = [
        hidden_loss(student.hidden[m], teacher.hidden[hidden(m)], projection(m), mask)
        for m in range(M + 1)
    ]
    return first, second


def _parts(s, t, g, p, mask) -> Any:
    return _terms(s, t, g, p, mask, lambda m: g[m], lambda m: g[m])


def _intermediate(s, t, g, p, mask) -> Tensor:
    first, second = _parts(s, t, g, p, mask)
    return sum(first) + sum(second)


def _remapped(attention: Callable, hidden: Callable) -> Callable:
    """The loss with other teacher layers: `attention(g, m)` and `hidden(g, m)`."""

    def answer(s, t, g, p, mask):
        parts = _terms(s, t, g, p, mask, lambda m: attention(g, m), lambda m: hidden(g, m))
        return sum(map(sum, parts))

    return answer


def _after_softmax(s, t, g, p, mask) -> Tensor:
    def probabilities(outputs, ours):
        keys = mask[:, None, None, :] == 0 if ours else torch.zeros(1, dtype=torch.bool)
        maps = tuple(a.masked_fill(keys, -1e9).softmax(-1) for a in outputs.attention)
        return ForwardOutputs(None, outputs.hidden, maps)

    return _intermediate(probabilities(s, False), probabilities(t, False), g, p, mask)


NO_MAPPING = "Student layer m learns from teacher layer g(m) = mapping[m], not from layer m. "

INTERMEDIATE_MISTAKES = [
    Mistake(
        "embedding loss forgotten",
        "The sum begins at m = 0: hidden[0] is the embedding output, and its loss is equation 9.",
        lambda s, t, g, p, k: (lambda a, h: sum(a) + sum(h[1:]))(*_parts(s, t, g, p, k)),
    ),
    Mistake(
        "attention loss forgotten",
        "For m = 1, …, M, equation 11 has an attention term as well as a hidden one.",
        lambda s, t, g, p, k: sum(_parts(s, t, g, p, k)[1]),
    ),
    Mistake(
        "hidden loss forgotten",
        "Your sum has only the attention terms; equation 11 also has a hidden term for every layer, "
        "and equation 9 at m = 0.",
        lambda s, t, g, p, k: sum(_parts(s, t, g, p, k)[0]),
    ),
    Mistake(
        "hidden losses of the layers forgotten",
        "Attention and embeddings are in your sum, but equation 8 for m = 1, …, M is missing.",
        lambda s, t, g, p, k: (lambda a, h: sum(a) + h[0])(*_parts(s, t, g, p, k)),
    ),
    Mistake(
        "mapping forgotten",
        NO_MAPPING + "zip() pairs layer 1 with layer 1, and no shape tells you that this is wrong.",
        _remapped(lambda g, m: m, lambda g, m: m),
    ),
    Mistake(
        "mapping forgotten in the attention",
        NO_MAPPING + "Your hidden states use it, your attention does not.",
        _remapped(lambda g, m: m, lambda g, m: g[m]),
    ),
    Mistake(
        "mapping forgotten in the hidden states",
        NO_MAPPING + "Your attention uses it, your hidden states do not.",
        _remapped(lambda g, m: g[m], lambda g, m: m),
    ),
    Mistake(
        "off by one in the attention",
        "attention[0] is layer 1. Your student layer m is compared with layer g(m − 1) + 1: use "
        "attention[m - 1] and attention[g(m) - 1].",
        _remapped(lambda g, m: g[m - 1] + 1, lambda g, m: g[m]),
    ),
    Mistake(
        "off by one in the hidden states",
        "hidden[0] is the embedding output, so layer n is hidden[n], not hidden[n - 1].",
        _remapped(lambda g, m: g[m], lambda g, m: max(g[m] - 1, 0)),
    ),
    Mistake(
        "off by one: teacher layers counted from 0 throughout",
        "g(m) counts from 1: its hidden output is hidden[g(m)], its attention is "
        "attention[g(m) - 1].",
        _remapped(lambda g, m: max(g[m] - 1, 1), lambda g, m: max(g[m] - 1, 0)),
    ),
    Mistake(
        "W_h used for the embeddings",
        "In the paper, output 0 has a projection of its own, W_e: projection(m) picks the right one.",
        lambda s, t, g, p, k: _intermediate(s, t, g, lambda m: p(1), k),
    ),
    Mistake(
        "W_e used for the layers",
        "W_e is for output 0 only, W_h for the layers: projection(m) picks the right one.",
        lambda s, t, g, p, k: _intermediate(s, t, g, lambda m: p(0), k),
    ),
    Mistake(
        "mean instead of sum over the layers",
        "Equation 6 is a sum over m, not a mean.",
        lambda s, t, g, p, k: _intermediate(s, t, g, p, k) / (len(g) - 1),
    ),
    Mistake(
        "mean instead of sum over the layers",
        "Equation 6 is a sum over m, not a mean.",
        lambda s, t, g, p, k: _intermediate(s, t, g, p, k) / len(g),
    ),
    Mistake(
        "mean instead of sum over the terms",
        "Equation 6 is a sum over m, not a mean.",
        lambda s, t, g, p, k: _intermediate(s, t, g, p, k) / (2 * len(g) - 1),
    ),
    Mistake(
        "mean instead of sum, over attention and hidden states each",
        "Equation 6 is a sum over m: sum both, then add.",
        lambda s, t, g, p, k: sum(sum(x) / len(x) for x in _parts(s, t, g, p, k)),
    ),
    Mistake(
        "mask forgotten",
        "Padded positions count too: pass the mask to both losses.",
        lambda s, t, g, p, k: _intermediate(s, t, g, p, None),
    ),
    Mistake(
        "mask forgotten in the attention",
        "Padded positions count in the attention terms: pass the mask to both losses.",
        lambda s, t, g, p, k: sum(_parts(s, t, g, p, None)[0]) + sum(_parts(s, t, g, p, k)[1]),
    ),
    Mistake(
        "mask forgotten in the hidden states",
        "Padded positions count in the hidden terms: pass the mask to both losses.",
        lambda s, t, g, p, k: sum(_parts(s, t, g, p, k)[0]) + sum(_parts(s, t, g, p, None)[1]),
    ),
    Mistake(
        "softmax before the difference",
        "`attention` holds scores, and scores are what equation 7 compares.",
        _after_softmax,
    ),
]


# ---- the rate


RATE_CASES = [
    (p, s, n) for p in ("intermediate", "prediction") for n in (40, 100) for s in range(n)
]


def _rate(phase: str, step: int, total: int) -> float:
    return learning_rate_at(step, total, TrainingConfig(learning_rate=RATES[phase]))


def _same(got: Sequence[float], answer: Callable) -> bool:
    return np.allclose(got, [answer(*case) for case in RATE_CASES], rtol=1e-3, atol=1e-9)


def _one_rate(name: str) -> Callable:
    return lambda phase, step, total: _rate(name, step, total)


OTHER = {"intermediate": "prediction", "prediction": "intermediate"}

RATE_MISTAKES = [
    Mistake(
        "the two rates swapped",
        "The intermediate step moves the whole student a long way: 1e-3. The prediction step should "
        "not undo that: 3e-4.",
        lambda p, s, n: _rate(OTHER[p], s, n),
    ),
    Mistake(
        "the larger rate for both steps",
        "1e-3 is for the intermediate step; in the prediction step it is more than three times "
        "too high.",
        _one_rate("intermediate"),
    ),
    Mistake(
        "the smaller rate for both steps",
        "The peak of the intermediate step is 1e-3; 3e-4 is for the prediction step.",
        _one_rate("prediction"),
    ),
    Mistake(
        "no warm-up and no decay",
        "Your rate never changes: let it rise over the first tenth and then fall toward 0.",
        lambda p, s, n: RATES[p],
    ),
    Mistake(
        "no warm-up",
        "Let the rate rise over the first tenth of the updates: at first, AdamW has seen too few "
        "gradients to scale its updates well.",
        lambda p, s, n: RATES[p] * (n - s) / n,
    ),
    Mistake(
        "no warm-up",
        "The decay is right, but the rate is constant over the first tenth: let it rise there.",
        lambda p, s, n: RATES[p] if s < n / 10 else _rate(p, s, n),
    ),
    Mistake(
        "no decay",
        "After the warm-up your rate stays at its peak: let it fall linearly toward 0.",
        lambda p, s, n: RATES[p] * min(1, (s + 1) / (n / 10)),
    ),
    Mistake(
        "a first update with a rate of 0",
        "step / warm is 0 at step 0. Because step is counted from 0, use (step + 1) / warm.",
        lambda p, s, n: RATES[p] * s / (n / 10) if s < n / 10 else _rate(p, s, n),
    ),
    Mistake(
        "a first update with a rate of 0, and no decay",
        "step / warm is 0 at step 0: use (step + 1) / warm. After the warm-up, let the rate fall.",
        lambda p, s, n: RATES[p] * min(1, s / (n / 10)),
    ),
    Mistake(
        "the decay counted from the beginning",
        "Your rate drops at the end of the warm-up: from there, (total − step) of (total − warm) "
        "updates are left.",
        lambda p, s, n: RATES[p] * ((s + 1) / (n / 10) if s < n / 10 else (n - s) / n),
    ),
    Mistake(
        "warm-up and decay multiplied",
        "Your rate never reaches its peak: use the warm-up first, and the decay only after it.",
        lambda p, s, n: RATES[p] * min(1, (s + 1) / (n / 10)) * (n - s) / n,
    ),
    Mistake(
        "the warm-up never ends",
        "Your rate rises over all updates: only the first tenth is warm-up.",
        lambda p, s, n: RATES[p] * (s + 1) / n,
    ),
    Mistake(
        "a cosine instead of a line",
        "A cosine is common too; this exercise asks for a straight line.",
        lambda p, s, n: (
            _rate(p, s, n)
            if s < n / 10
            else RATES[p] * (1 + np.cos(np.pi * (s - n / 10) / (n - n / 10))) / 2
        ),
    ),
    Mistake(
        "ten times too high",
        "Section 6 shows what that does to the curves.",
        lambda p, s, n: 10 * _rate(p, s, n),
    ),
    Mistake(
        "ten times too low",
        "Section 6 shows what that does to the curves.",
        lambda p, s, n: _rate(p, s, n) / 10,
    ),
    Mistake(
        "the peak left out",
        "Multiply by the peak, 1e-3 or 3e-4.",
        lambda p, s, n: _rate(p, s, n) / RATES[p],
    ),
]


# ---- the teacher in training mode


# Each recording is of real runs of notebook 07's first step, with one seed and one slice of text:
# their kinds by the letters they go by, in an order that says nothing.
KINDS = (
    dict(healthy="healthy", A="mapping", B="training", C="fast", D="slow"),
    dict(healthy="healthy", E="slow", G="fast", F="same", A="mapping", C="training"),
    dict(healthy="healthy", F="training", D="slow", E="mapping"),
)


def _recordings() -> list[dict[str, dict[str, np.ndarray]]]:
    """The runs of `KINDS`, each a dict of losses by term (points,), means of ten updates."""
    file = Path(__file__).with_name("recordings.json")
    runs = json.loads(file.read_text(encoding="utf-8"))["first step"]

    def of(seed: int, kind: str) -> dict[str, np.ndarray]:
        name = f"{seed % 3 + 1} healthy" if kind == "same" else f"{seed} {kind}"
        return {term: np.array(values) for term, values in runs[name].items()}

    return [
        {name: of(seed, kind) for name, kind in kinds.items()}
        for seed, kinds in enumerate(KINDS, start=1)
    ]


RECORDINGS = _recordings()
TRUTH = [next(n for n, kind in kinds.items() if kind == "training") for kinds in KINDS]

CONSTANT = (
    "Dropout in the teacher raises the embedding loss by a constant, the variance it adds to the "
    "target, from the first update to the last; the attention losses hardly change."
)
SUSPECTS = {
    "healthy": ("the healthy run", "Compare each of the other runs with it, term by term."),
    "same": ("another healthy run", "Only its seed differs. " + CONSTANT),
    "slow": (
        "the run with the rate ten times too low",
        "In the run you chose, every loss stays high: it starts like the healthy run and falls more "
        "slowly. " + CONSTANT,
    ),
    "fast": (
        "the run with the rate ten times too high",
        "In the run you chose, the hidden losses stay high. " + CONSTANT,
    ),
    "mapping": (
        "the run with the mapping off by one",
        "The run you chose imitates other teacher layers, whose scores have a different size; its "
        "embedding loss equals the healthy run's. " + CONSTANT,
    ),
}


# ---- what a checkpoint holds


def _toy(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(4, 3)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def _toy_steps(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, end: int) -> None:
    """Steps start + 1 … end, each with the batch and the rate of its number."""
    for step in range(start, end):
        normal = draw(step)
        optimizer.param_groups[0]["lr"] = 0.1 * (10 - step) / 10
        (model(normal(8, 4)) - normal(8, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
