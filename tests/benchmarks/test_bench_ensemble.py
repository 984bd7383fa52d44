"""The measurement of a teacher ensemble: what is on file adds up, and both sides are paired."""

import numpy as np
import pytest

from tests.benchmarks import bench_ensemble
from tests.benchmarks.bench_recipe import read, unpacked
from tests.benchmarks.bench_reviews import bits

RESULTS = read(bench_ensemble.RESULT)


def test_the_texts_that_were_right_add_up_to_the_scores():
    runs = [*RESULTS["teachers"].values()]
    runs += [run for side in RESULTS["runs"].values() for run in side.values()]
    assert len(runs) > 2
    for run in runs:
        right = unpacked(run["right"], RESULTS["test_texts"])
        assert right.mean() == pytest.approx(run["accuracy"])


def test_the_shipped_teacher_is_the_one_that_the_other_results_name():
    recipe = read(bench_ensemble.RESULT.with_name("recipe.json"))["runs"]
    assert RESULTS["teachers"]["teacher 0"]["right"] == recipe["reviews, nano"]["0"]["teacher_right"]


def test_only_seeds_that_both_sides_have_are_compared():
    one, other = np.array([1, 0, 0, 0] * 20), np.array([1, 1, 0, 0] * 20)
    results = {
        "test_texts": 80,
        "runs": {
            "one teacher": {"1": {"right": bits(one > 0)}},
            "ensemble": {"1": {"right": bits(other > 0)}, "2": {"right": bits(one > 0)}},
        },
    }
    assert bench_ensemble.paired(results).difference == pytest.approx(0.25)
    assert bench_ensemble.paired({"test_texts": 80, "runs": {}}) is None
