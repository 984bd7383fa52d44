"""Paired comparisons of two models on the same texts."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tinybert_lite.data.statistics import paired_comparison


@pytest.fixture
def models():
    random = np.random.default_rng(0)
    ease = random.normal(1, 1, 800)
    return [ease + random.normal(0, 0.4, (3, 800)) > shift for shift in (0.0, 0.25)]


def test_the_interval_has_the_width_of_the_disagreements_not_of_two_test_sets(models):
    a, b = (m[0] for m in models)
    c = paired_comparison(a, b)
    k = (a != b).sum()
    assert c.difference == pytest.approx(a.mean() - b.mean())
    assert c.high - c.low == pytest.approx(2 * 1.96 * k**0.5 / 800, rel=0.1)
    assert c.only_a + c.only_b == k and (c.texts, c.seeds) == (800, 1)


def test_one_seed_has_mcnemars_exact_p_value(models):
    a, b = (m[0] for m in models)
    c = paired_comparison(a, b)
    assert c.p_value == pytest.approx(binomtest(c.only_a, c.only_a + c.only_b).pvalue)


def test_seeds_are_paired_and_kept_together(models):
    a, b = models
    c = paired_comparison(a, b)
    assert c.seeds == 3 and c.low < c.difference < c.high
    assert c.difference == pytest.approx((a.mean(1) - b.mean(1)).mean())
    repeated = paired_comparison(a[[0, 0, 0]], b[[0, 0, 0]])  # a repeated seed is no new evidence
    one = paired_comparison(a[0], b[0])
    assert (repeated.low, repeated.high) == pytest.approx((one.low, one.high))


def test_equal_models_differ_by_nothing(models):
    for a in (models[0], models[0][0]):
        c = paired_comparison(a, a)
        assert (c.difference, c.low, c.high, c.p_value) == (0, 0, 0, 1)


def test_swapping_the_models_turns_the_sign(models):
    there, back = paired_comparison(*models), paired_comparison(*models[::-1])
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.003)
    assert (there.only_a, there.only_b) == (back.only_b, back.only_a)


def test_of_models_that_differ_by_chance_one_in_twenty_looks_different():
    random = np.random.default_rng(1)
    found = [paired_comparison(*random.random((2, 2, 200)) < 0.8) for _ in range(200)]
    assert np.mean([c.p_value < 0.05 for c in found]) == pytest.approx(0.05, abs=0.04)
    assert np.mean([c.low > 0 or c.high < 0 for c in found]) == pytest.approx(0.05, abs=0.04)


def test_other_texts_are_refused(models):
    with pytest.raises(ValueError, match="same texts"):
        paired_comparison(models[0], models[1][:, :-1])


def test_the_text_is_one_line_in_points(models):
    said = str(paired_comparison(*models))
    assert "points" in said and "texts: 800, seeds: 3" in said and "\n" not in said
