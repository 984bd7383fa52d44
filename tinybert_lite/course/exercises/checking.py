"""How an exercise is checked: the learner's function is run and the mistake it made is named.

A check compares the function's answers on small random inputs with the right ones, and when they
differ with what each known wrong version would answer. It returns a `Result`, never raises for
what the learner wrote, and says so when there is nothing to check yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLOSE: dict[str, Any] = dict(rtol=1e-3, atol=1e-5)


@dataclass(frozen=True)
class Result:
    """What a check found: `passed`, whether there was anything to check, the mistake, a hint."""

    passed: bool
    tried: bool = True
    mistake: str = ""
    hint: str = ""

    def __repr__(self) -> str:
        if not self.tried:
            return f"[not tried] {self.hint}"
        if self.passed:
            return f"[OK] {self.hint}"
        return f"[not yet] {self.mistake}. {self.hint}"


@dataclass(frozen=True)
class Mistake:
    """A known wrong version: its name, the hint to give, and the answers it would produce."""

    name: str
    hint: str
    answer: Callable


PADDING = "Positions without a word count too, so the loss changes with the padding of the batch. "
NOT_TRIED = Result(
    False, False, hint="Nothing written yet: put your answer where the ... is, and run the cell."
)


def wrong(mistake: str, hint: str) -> Result:
    return Result(False, mistake=mistake[0].upper() + mistake[1:], hint=hint)


def run(candidate: Callable | None, cases: list[tuple]) -> tuple[Result | None, list]:
    """The candidate's answers, or the Result that says why there are none."""
    if candidate is None or candidate is ...:
        return NOT_TRIED, []
    if not callable(candidate):
        return wrong("not a function", "Give the function itself, without calling it."), []
    answers = []
    for case in cases:
        try:
            answer = candidate(*case)
        except NotImplementedError:
            return NOT_TRIED, []
        except Exception as error:  # whatever the learner wrote
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no text'}"
            shapes = ", ".join(str(tuple(x.shape)) for x in case if torch.is_tensor(x))
            hint = f"{what.rstrip('.')}. " + (
                f"The inputs have the shapes {shapes}." if shapes else ""
            )
            return wrong("it stopped with an error", hint.strip()), []
        if answer is None or answer is ...:
            return NOT_TRIED, []
        answers.append(answer)
    return None, answers


def run_numbers(
    candidate: Callable | None, cases: list[tuple]
) -> tuple[Result | None, list[float]]:
    """`run` for an exercise whose answers are numbers: what is wrong, if anything, and floats."""
    problem, answers = run(candidate, cases)
    if problem:
        return problem, []
    try:
        return None, [float(answer) for answer in answers]
    except (TypeError, ValueError):
        said = f"Your function returns {type(answers[0]).__name__}."
        return wrong("not a number", said), []


def check_loss(
    candidate: Callable | None,
    solution: Callable,
    mistakes: list[Mistake],
    cases: list[tuple],
    also: Callable[[Callable, tuple], Result | None] = lambda candidate, case: None,
    gradient: bool = True,
) -> Result:
    """Compare a loss with the solution, then with each known mistake, then by its behavior."""
    problem, answers = run(candidate, cases)
    if problem or candidate is None:
        return problem or NOT_TRIED
    for answer in answers:
        if torch.is_tensor(answer) and answer.numel() != 1:
            return wrong(
                "not one number",
                f"Your function returns the shape {tuple(answer.shape)}; a loss is a mean over "
                "all of it.",
            )
    try:
        got = torch.stack([torch.as_tensor(a, dtype=torch.float32).reshape(()) for a in answers])
    except (TypeError, ValueError, RuntimeError):
        return wrong("not a number", f"Your function returns {type(answers[0]).__name__}.")
    truth = values(solution, cases)
    if not got.isfinite().all():
        return wrong(
            "NaN or infinity",
            "A difference with −inf in it, or a mean over nothing: set padded entries to 0 in the "
            "difference instead, and divide by how many real ones there are.",
        )
    if torch.allclose(got, truth, **CLOSE):
        result = also(candidate, cases[0])
        if result is None and gradient and not has_gradient(answers):
            result = wrong(
                "no gradient",
                "The number is right, but nothing could be learned from it: return the tensor, "
                "without .item(), .detach() or torch.no_grad().",
            )
        return result or Result(True, hint="Equal to the reference on all inputs tried.")
    for mistake in mistakes:
        if torch.allclose(got.detach(), values(mistake.answer, cases), **CLOSE):
            return wrong(mistake.name, mistake.hint)
    ratio = (got / truth).detach()
    if torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3):
        return wrong(
            "a constant factor too much",
            f"Your answer is {ratio[0]:.4g} times the right one on every input.",
        )
    first = int((~torch.isclose(got, truth, **CLOSE)).nonzero()[0])
    return wrong(
        "another number",
        f"On input {first + 1} of {len(cases)} yours is {got[first]:.4g}, the right one "
        f"{truth[first]:.4g}. Write the equation out term by term and print the shape after each "
        "line.",
    )


def values(function: Callable, cases: list[tuple]) -> Tensor:
    with torch.no_grad():
        return torch.stack([torch.as_tensor(function(*c)).float().reshape(()) for c in cases])


def has_gradient(answers: list) -> bool:
    return all(torch.is_tensor(a) and a.requires_grad for a in answers)


def mask_of(*lengths: int) -> Tensor:
    return (torch.arange(max(*lengths, 7)) < torch.tensor(lengths)[:, None]).long()


def draw(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)
