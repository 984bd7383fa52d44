"""The course: guesses, exercise checks and the environment check."""

from collections.abc import Sequence


def check() -> None:
    """Print one line: the versions in use, or what is missing and how to fix it."""
    import torch
    import transformers

    from tinybert_lite.course import environment
    from tinybert_lite.models.loading import quiet_libraries

    quiet_libraries()
    failed = [c for c in environment.report(forward=False) if c.state == "fail"]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    problems = "; ".join(f"{c.name}: {c.detail} ({c.fix})" for c in failed)
    print(f"{versions}: {problems or 'everything is here'}")


def guess(question: str, options: Sequence[str], answer: str, why: str) -> None:
    """Ask the reader to choose before anything is shown; see `guessing.guess`."""
    from tinybert_lite.course import guessing

    guessing.guess(question, options, answer, why)
