"""The check on metrics.json of notebook 11, driven without a kernel."""

import pytest

from tests.notebooks.test_callbacks import functions_of

GOOD = {"teacher": 0.87, "majority": 0.5, "test_size": 2000, "retained_above_majority": 0.95}
FALLING, FLAT = [1.0, 0.5, 0.3], [1.0, 0.99, 0.98]


@pytest.mark.parametrize(
    ("metrics", "losses", "says"),
    [
        (GOOD, FALLING, ["Nothing stands out"]),
        (GOOD | {"teacher": 0.51}, FALLING, ["improve the teacher"]),
        (GOOD, FLAT, ["hardly fell"]),
        (GOOD | {"retained_above_majority": 0.8}, FALLING, ["more text"]),
        (GOOD | {"retained_above_majority": None}, FALLING, ["more text"]),
        (GOOD | {"test_size": 240}, FALLING, ["Few test texts"]),
        (GOOD | {"teacher": 0.5, "test_size": 100}, FLAT, ["teacher", "fell", "Few test"]),
    ],
)
def test_the_advice_names_what_the_metrics_show_most_urgent_first(root, metrics, losses, says):
    advice = functions_of(root, "11_your_own.ipynb")["advice"](metrics, losses)
    assert len(advice) == len(says)
    assert all(part in line for part, line in zip(says, advice))
