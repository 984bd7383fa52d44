"""Every check of notebook 09 passes its solution and meets each known wrong answer with its hint.

The wrong answers are written the way a learner writes them, not taken from the checks.
"""

import numpy as np
import pytest

from tests.wrong_answers import assert_told, register
from tinybert_lite.course.exercises.what_mattered import (
    check_bootstrap,
    check_comparison,
    check_new_row,
    check_ranking,
    check_surplus,
)

WRONG, wrong = register()


# Rank before looking

LOST = {"hard labels": 6.0, "no start": 9.0, "no step": 3.0, "top": 0.4, "bottom": 0.2}
ORDER = sorted(LOST, key=LOST.get, reverse=True)


def test_a_ranking_is_told_how_many_of_the_clear_pairs_were_measured_so():
    said = check_ranking(ORDER, LOST)
    assert said.passed and "9 of 9 pairs" in said.hint and "1 more" in said.hint


def test_pairs_within_the_noise_count_for_nothing():
    swapped = [*ORDER[:3], ORDER[4], ORDER[3]]
    assert check_ranking(swapped, LOST) == check_ranking(ORDER, LOST)
    assert check_ranking(swapped, LOST, 0.1) != check_ranking(ORDER, LOST, 0.1)


def test_a_wrong_guess_is_no_failure_but_is_counted():
    guess = ["top", *(name for name in ORDER if name != "top")]
    assert check_ranking(guess, LOST).passed
    assert "6 of 9" in check_ranking(guess, LOST).hint


@pytest.mark.parametrize("nothing", [None, ..., [], [...], ""])
def test_a_ranking_not_yet_made_is_no_failure(nothing):
    assert not check_ranking(nothing, LOST).tried


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (ORDER[::-1], "other way round"),
        (ORDER[1:], "is missing"),
        ([*ORDER, "top"], "twice"),
        ([*ORDER[:4], "Bottom"], "no row 'Bottom'"),
        (LOST, "numbers"),
        (set(ORDER), "no order"),
    ],
)
def test_what_is_no_ranking_is_named(order, says):
    assert_told(check_ranking(order, LOST), says)


# The paired bootstrap


def resampled(a, b, times, random):
    """Differences (times,) in points."""
    each = 100 * (a.mean(axis=0) - b.mean(axis=0))
    n = len(each)
    return np.array([each[random.integers(n, size=n)].mean() for _ in range(times)])


def two_sided(draws):
    return min(1, 2 * min(np.mean(draws <= 0), np.mean(draws >= 0)))


def ends(draws):
    return *np.percentile(draws, [2.5, 97.5]), two_sided(draws)


def bootstrap(a, b, times, random):
    return ends(resampled(a, b, times, random))


def at_once(a, b, times, random):
    n = a.shape[1]
    texts = random.integers(n, size=(times, n))
    difference = a.mean(0) - b.mean(0)
    return ends(100 * difference[texts].mean(1))


def sorted_draws(a, b, times, random):
    draws = np.sort(resampled(a, b, times, random))
    return draws[int(0.025 * times)], draws[int(0.975 * times)], two_sided(draws)


def own_generator(a, b, times, random):
    return bootstrap(a, b, times, np.random.default_rng(7))


def around_zero(a, b, times, random):
    """p from draws moved to the null hypothesis, as many textbooks do it."""
    draws = resampled(a, b, times, random)
    observed = 100 * (a.mean() - b.mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    return low, high, np.mean(np.abs(draws - observed) >= abs(observed))


@pytest.mark.parametrize("solution", [bootstrap, at_once, sorted_draws, own_generator, around_zero])
def test_every_right_way_of_the_bootstrap_passes(solution):
    assert check_bootstrap(solution).passed, check_bootstrap(solution)


@wrong(check_bootstrap, "resampled separately")
def separately(a, b, times, random):
    n = a.shape[1]
    draws = []
    for _ in range(times):
        ours = a[:, random.integers(n, size=n)].mean()
        theirs = b[:, random.integers(n, size=n)].mean()
        draws.append(100 * (ours - theirs))
    return ends(np.array(draws))


@wrong(check_bootstrap, "sorted before the difference")
def sorted_scores(a, b, times, random):
    return bootstrap(np.sort(a), np.sort(b), times, random)


@wrong(check_bootstrap, "seeds are resampled")
def seeds(a, b, times, random):
    draws = []
    for _ in range(times):
        ours = a[random.integers(len(a), size=len(a))].mean()
        theirs = b[random.integers(len(b), size=len(b))].mean()
        draws.append(100 * (ours - theirs))
    return ends(np.array(draws))


@wrong(check_bootstrap, "one pile")
def pile(a, b, times, random):
    difference = (a.astype(float) - b.astype(float)).reshape(1, -1)
    return bootstrap(difference, np.zeros_like(difference), times, random)


@wrong(check_bootstrap, "seeds are drawn as well")
def seeds_and_texts(a, b, times, random):
    draws, n = [], a.shape[1]
    for _ in range(times):
        texts = random.integers(n, size=n)
        ours = a[random.integers(len(a), size=len(a))][:, texts].mean()
        theirs = b[random.integers(len(b), size=len(b))][:, texts].mean()
        draws.append(100 * (ours - theirs))
    return ends(np.array(draws))


@wrong(check_bootstrap, "only the first seed")
def first_seed(a, b, times, random):
    return bootstrap(a[:1], b[:1], times, random)


@wrong(check_bootstrap, "sign")
def b_minus_a(a, b, times, random):
    return bootstrap(b, a, times, random)


@wrong(check_bootstrap, "shares")
def not_in_points(a, b, times, random):
    draws = resampled(a, b, times, random) / 100
    return ends(draws)


@wrong(check_bootstrap, "10 %")
def five_on_each_side(a, b, times, random):
    draws = resampled(a, b, times, random)
    return *np.percentile(draws, [5, 95]), two_sided(draws)


@wrong(check_bootstrap, "one standard error")
def mean_and_error(a, b, times, random):
    draws = resampled(a, b, times, random)
    return draws.mean() - draws.std(), draws.mean() + draws.std(), two_sided(draws)


@wrong(check_bootstrap, "the spread of texts")
def of_texts(a, b, times, random):
    each = 100 * (a.mean(0) - b.mean(0))
    return *np.array([-1.96, 1.96]) * each.std() + each.mean(), 0.5


@wrong(check_bootstrap, "too few texts")
def half(a, b, times, random):
    each, n = 100 * (a.mean(0) - b.mean(0)), a.shape[1]
    return ends(np.array([each[random.integers(n, size=n // 2)].mean() for _ in range(times)]))


@wrong(check_bootstrap, "every draw is the whole test set")
def without_putting_back(a, b, times, random):
    each = 100 * (a.mean(0) - b.mean(0))
    return ends(np.array([random.permutation(each).mean() for _ in range(times)]))


@wrong(check_bootstrap, "the same draw every time")
def seeded_in_the_loop(a, b, times, random):
    each, draws = 100 * (a.mean(0) - b.mean(0)), []
    for _ in range(times):
        random = np.random.default_rng(0)
        draws.append(each[random.integers(len(each), size=len(each))].mean())
    return ends(np.array(draws))


@wrong(check_bootstrap, "one-sided")
def one_tail(a, b, times, random):
    low, high, p = bootstrap(a, b, times, random)
    return low, high, p / 2


@wrong(check_bootstrap, "one side only")
def share_below(a, b, times, random):
    draws = resampled(a, b, times, random)
    return *np.percentile(draws, [2.5, 97.5]), np.mean(draws <= 0)


@wrong(check_bootstrap, "wrong side")
def share_above(a, b, times, random):
    draws = resampled(a, b, times, random)
    return *np.percentile(draws, [2.5, 97.5]), np.mean(draws > 0)


@wrong(check_bootstrap, "1 − p")
def confidence(a, b, times, random):
    low, high, p = bootstrap(a, b, times, random)
    return low, high, 1 - p


@wrong(check_bootstrap, "with the difference itself")
def not_centred(a, b, times, random):
    draws = resampled(a, b, times, random)
    observed = 100 * (a.mean() - b.mean())
    return *np.percentile(draws, [2.5, 97.5]), np.mean(np.abs(draws) >= abs(observed))


@wrong(check_bootstrap, "not a probability")
def doubled_twice(a, b, times, random):
    low, high, p = bootstrap(a, b, times, random)
    return low, high, 4 * p


@wrong(check_bootstrap, "low lies above high")
def backwards(a, b, times, random):
    low, high, p = bootstrap(a, b, times, random)
    return high, low, p


@wrong(check_bootstrap, "not three numbers")
def only_the_interval(a, b, times, random):
    return bootstrap(a, b, times, random)[:2]


@wrong(check_bootstrap, "error")
def column_by_column(a, b, times, random):
    return bootstrap(a[:, None], b + None, times, random)


# The missing row


@pytest.mark.parametrize(
    "row",
    [
        {"init": "random", "steps": "prediction"},
        {"steps": "prediction", "init": "random", "labels": "soft"},
        {"init": "random", "steps": "prediction", "parts": ["hidden", "attention", "embedding"]},
    ],
)
def test_the_fourth_corner_is_the_missing_row(row):
    assert check_new_row(row).passed


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "the recipe itself"),
        ({"init": "svd"}, "the recipe itself"),
        ({"init": "random"}, "there already"),
        ({"steps": "prediction"}, "there already"),
        ({"init": "random", "steps": "prediction", "labels": "hard"}, "labels changes as well"),
        ({"init": "random", "steps": "prediction", "student": "lite"}, "student changes as well"),
        ({"init": "general-lite", "steps": "prediction"}, "another question"),
        ({"init": "random", "steps": "joint"}, "another step"),
        ({"init": "random", "step": "prediction"}, "no part 'step'"),
        (["random", "prediction"], "not a dictionary"),
    ],
)
def test_another_row_is_told_why_it_is_not_the_missing_one(row, says):
    assert_told(check_new_row(row), says)


@pytest.mark.parametrize("nothing", [None, ..., {"init": ...}])
def test_a_row_not_yet_written_is_no_failure(nothing):
    assert not check_new_row(nothing).tried


# What the four corners say


def surplus(both, no_start, no_step, neither):
    return (no_step - neither) - (both - no_start)


def test_the_surplus_is_the_same_from_either_side_of_the_square():
    assert check_surplus(lambda b, s, t, n: (s - n) - (b - t)).passed


@wrong(check_surplus, "sign")
def turned(both, no_start, no_step, neither):
    return both - no_step - no_start + neither


@wrong(check_surplus, "together")
def in_all(both, no_start, no_step, neither):
    return both - neither


@wrong(check_surplus, "only without")
def simple_effect(both, no_start, no_step, neither):
    return no_step - neither


@wrong(check_surplus, "only with the step")
def ablation(both, no_start, no_step, neither):
    return both - no_start


@wrong(check_surplus, "not the start")
def other_part(both, no_start, no_step, neither):
    return no_start - neither


@wrong(check_surplus, "with the start there")
def other_ablation(both, no_start, no_step, neither):
    return both - no_step


@wrong(check_surplus, "two corners")
def two_rows(both, no_start, no_step, neither):
    return no_start - no_step


@wrong(check_surplus, "adding up")
def expected(both, no_start, no_step, neither):
    return both - (both - no_start) - (both - no_step)


@wrong(check_surplus, "mean of both")
def main_effect(both, no_start, no_step, neither):
    return np.mean([no_step - neither, both - no_start])


@wrong(check_surplus, "not a number")
def two_numbers(both, no_start, no_step, neither):
    return [no_start - neither, both - no_step]


# One change, the same seeds


def comparison(train, change, seeds):
    return [train(seed) - train(seed, **change) for seed in seeds]


@wrong(check_comparison, "sign")
def minus_recipe(train, change, seeds):
    return [train(seed, **change) - train(seed) for seed in seeds]


@wrong(check_comparison, "the recipe has fewer seeds")
def recipe_once(train, change, seeds):
    recipe = train(seeds[0])
    return [recipe - train(seed, **change) for seed in seeds]


@wrong(check_comparison, "fewer seeds")
def first_seed_only(train, change, seeds):
    return [train(seeds[0]) - train(seeds[0], **change)] * len(seeds)


@wrong(check_comparison, "other seeds")
def numbered(train, change, seeds):
    return [train(i) - train(i, **change) for i in range(len(seeds))]


@wrong(check_comparison, "other seeds")
def shifted(train, change, seeds):
    return [train(seed) - train(seed + 1, **change) for seed in seeds]


@wrong(check_comparison, "same in both arms")
def change_in_both(train, change, seeds):
    return [train(seed, **change) - train(seed, **change) for seed in seeds]


@wrong(check_comparison, "same in both arms")
def change_forgotten(train, change, seeds):
    return [train(seed) - train(seed) for seed in seeds]


@wrong(check_comparison, "something else")
def two_changes(train, change, seeds):
    return [train(seed) - train(seed, **change, steps="joint") for seed in seeds]


@wrong(check_comparison, "one number")
def mean_of_seeds(train, change, seeds):
    return np.mean([train(seed) - train(seed, **change) for seed in seeds])


@wrong(check_comparison, "sorted")
def best_minus_best(train, change, seeds):
    ours, theirs = sorted(map(train, seeds)), sorted(train(seed, **change) for seed in seeds)
    return [a - b for a, b in zip(ours, theirs)]


@wrong(check_comparison, "different seeds")
def crossed(train, change, seeds):
    return [train(a) - train(b, **change) for a, b in zip(seeds, [*seeds[1:], seeds[0]])]


@wrong(check_comparison, "another order")
def by_seed(train, change, seeds):
    return comparison(train, change, sorted(seeds))


@wrong(check_comparison, "error")
def by_place(train, change, seeds):
    return [train(seed) - train(seed, change) for seed in seeds]


@wrong(check_comparison, "nothing is trained")
def guessed(train, change, seeds):
    return [1.0 for _ in seeds]


@wrong(check_comparison, "not one number for each seed")
def both_arms(train, change, seeds):
    return [*map(train, seeds), *(train(seed, **change) for seed in seeds)]


SOLUTIONS = [
    (check_bootstrap, bootstrap),
    (check_surplus, surplus),
    (check_comparison, comparison),
]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_the_solution_passes(check, solution):
    assert check(solution).passed, check(solution)


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_nothing_yet_is_no_failure(check, solution):
    for nothing in (None, ..., lambda *case: ...):
        assert not check(nothing).tried


@pytest.mark.parametrize(("check", "says", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_own_hint(check, says, answer):
    assert_told(check(answer), says)
