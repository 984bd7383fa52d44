"""The function behind the budget game of notebook 10, driven without a kernel."""

import numpy as np
import pytest

from tests.notebooks.test_callbacks import functions_of

MODEL = {
    "bytes": 7_500_000,
    "ms": np.array([5.0] * 18 + [30.0] * 3),
    "score": 0.84,
    "teacher": 0.87,
}


@pytest.mark.parametrize(
    ("limits", "breaks"),
    [
        ((10, 40, 0.95), []),
        ((7, 40, 0.95), ["MB"]),
        ((10, 20, 0.95), ["ms"]),  # the median of 5 ms does not help
        ((10, 40, 0.97), ["score"]),
        ((1, 1, 1.0), ["MB", "ms", "score"]),
    ],
)
def test_the_budget_game_names_the_limits_that_a_model_breaks(root, limits, breaks):
    broken = functions_of(root, "10_ship_it.ipynb")["broken"]
    assert broken(MODEL, *limits) == breaks
