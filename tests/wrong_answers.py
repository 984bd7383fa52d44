"""Wrong answers to exercises, as learners write them, and what each has to be told."""

from collections.abc import Callable

import pytest

from tinybert_lite.course.exercises import Result


def register() -> tuple[list, Callable]:
    """A list for `parametrize(("check", "says", "answer"), …)`, and the decorator that fills it.

    `@wrong(check, says)`: the check or its name, and words that the mistake's name must hold.
    """
    found: list = []

    def wrong(check: str | Callable, says: str):
        name = check if isinstance(check, str) else check.__name__

        def remember(answer: Callable) -> Callable:
            found.append(pytest.param(check, says, answer, id=f"{name}-{answer.__name__}"))
            return answer

        return remember

    return found, wrong


def assert_told(result: Result, says: str) -> None:
    """The answer was looked at, is wrong, and the learner is told what and how to go on."""
    assert result.tried and not result.passed
    assert says.lower() in result.mistake.lower(), result
    assert result.hint and repr(result).startswith("[not yet]")
