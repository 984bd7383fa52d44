"""The exercises of notebook 09: a ranking, a paired bootstrap, the missing row, a fair comparison."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import combinations

import numpy as np

from tinybert_lite.course.exercises.checking import NOT_TRIED, Result, run, run_numbers, wrong

TEXTS, DRAWS = 800, 1500
RECIPE = {
    **{"student": "nano", "init": "svd", "mapping": "uniform", "steps": "both"},
    **{"labels": "soft", "temperature": 1.0, "texts": "all", "budget": 1},
    "parts": ("attention", "hidden", "embedding"),
}
MEASURED_ALREADY = {"init": "random start", "steps": "no intermediate step"}


def check_ranking(
    order: Iterable[str] | None, lost: Mapping[str, float], noise: float = 1.0
) -> Result:
    """Check a prediction: names of rows, the one that loses most first, against what was lost.

    `lost` in points of accuracy by name; pairs closer than `noise` points count for nothing.
    """
    if isinstance(order, Mapping):
        return wrong("numbers instead of an order", "Give a list of names, the largest loss first.")
    if isinstance(order, set | frozenset):
        return wrong("a set has no order", "Put the names into a list.")
    if order is None or order is ... or isinstance(order, str):
        return NOT_TRIED
    names = list(order)
    if not names or ... in names:
        return NOT_TRIED
    if unknown := [name for name in names if name not in lost]:
        return wrong(f"there is no row {unknown[0]!r}", f"Rank these rows: {'; '.join(lost)}.")
    if len(set(names)) < len(names):
        return wrong("a row is listed twice", "List each row once.")
    if missing := [name for name in lost if name not in names]:
        return wrong(f"{missing[0]!r} is missing", f"Rank all {len(lost)} rows.")
    clear = [
        (a, b) for a, b in combinations(names, 2) if abs(lost[a] - lost[b]) > noise
    ]  # a is said to lose more than b
    right = sum(lost[a] > lost[b] for a, b in clear)
    if len(clear) >= 6 and right <= len(clear) / 10:
        return wrong("the other way round", "Start with the row that loses *most*.")
    close = len(names) * (len(names) - 1) // 2 - len(clear)
    return Result(
        True,
        hint=f"{right} of {len(clear)} pairs are in the measured order; guessing gets half. {close} "
        f"more pairs are too close to rank and do not count.",
    )


def check_bootstrap(candidate: Callable | None) -> Result:
    """Check `my_bootstrap(a, b, times, random)`: (low, high, p) of the difference a − b.

    `a` and `b` are boolean arrays (seeds, texts) of right answers to the same texts; low and high
    are the 95 % interval in points of accuracy, p is two-sided.
    """
    cases, draws = _cases()
    random = np.random.default_rng(0)
    problem, answers = run(candidate, [(a.copy(), b.copy(), DRAWS, random) for a, b in cases])
    if problem:
        return problem
    try:
        got = np.array([[float(x) for x in answer] for answer in answers])  # (cases, 3)
    except (TypeError, ValueError):
        return wrong("not three numbers", "Return low, high and p.")
    if got.shape != (len(cases), 3):
        return wrong("not three numbers", "Return low, high and p.")
    if not np.isfinite(got).all():
        return wrong("not three numbers", "NaN: an empty draw, or a mean over nothing?")
    if (got[:, 0] > got[:, 1]).any():
        return wrong("low lies above high", "Return the lower bound first.")
    right = np.array([_interval(d) for d in draws])
    scale = np.array([d.std() for d in draws])[:, None]
    if _far(got[:, :2], right, scale) < 0.17:
        return _p_value(got[:, 2], draws, cases)
    if (got[:, 1] - got[:, 0] < 1e-9).all():
        if _far(got[:, :2], _points(cases)[:, None], scale) < 1e-6:
            return wrong(
                "every draw is the whole test set",
                "Drawn without replacement, you get the same texts in another order, so the mean "
                "cannot change. random.integers(n, size=n) draws with replacement.",
            )
        return wrong(
            "the same draw every time", "Use the generator that your function is given, and do not "
            "create another one inside the loop."
        )  # fmt: skip
    found = {  # a wide interval is estimated less exactly
        name: _far(got[:, :2], bounds, np.maximum(scale, np.diff(bounds) / 3.92))
        for name, bounds in _known_bounds().items()
    }
    nearest = min(found, key=lambda name: found[name])
    if found[nearest] < 0.17:
        return wrong(*nearest)
    return wrong(
        "another interval",
        f"In the first case it should run from {right[0, 0]:.1f} to {right[0, 1]:.1f} points, but "
        f"yours runs from {got[0, 0]:.1f} to {got[0, 1]:.1f}.",
    )


def check_new_row(row: Mapping | None) -> Result:
    """Check what the missing row changes, {part: value}.

    The question: does the intermediate step also do the work of SVD initialization?
    """
    if row is None or row is ... or (isinstance(row, Mapping) and ... in row.values()):
        return NOT_TRIED
    if not isinstance(row, Mapping):
        return wrong(
            "not a dictionary",
            'Give what the row changes as a dictionary, such as {"labels": "hard"}.',
        )
    if unknown := [key for key in row if key not in RECIPE]:
        return wrong(f"the recipe has no part {unknown[0]!r}", f"It has {', '.join(RECIPE)}.")
    changed = {k: v for k, v in row.items() if _plain(v) != _plain(RECIPE[k])}
    if not changed:
        return wrong("this is the recipe itself", "Change at least one part.")
    if extra := [key for key in changed if key not in MEASURED_ALREADY]:
        return wrong(
            f"{extra[0]} changes as well",
            "If the result differs, you cannot tell which change caused it.",
        )
    if len(changed) == 1:
        (part,) = changed
        return wrong(
            f"a row that changes only {part} is there already",
            f"It is {MEASURED_ALREADY[part]!r}. The table says what each part is worth when the other "
            "is kept. What is it worth when the other is missing too?",
        )
    if changed["init"] != "random":
        return wrong("another question", 'Without SVD initialization, init is "random".')
    if changed["steps"] != "prediction":
        return wrong(
            "another step is switched off", 'Without the intermediate step, steps is "prediction".'
        )
    return Result(True, hint="The row without either part: the fourth corner of the square.")


def check_surplus(candidate: Callable | None) -> Result:
    """Check `my_surplus(both, no_start, no_step, neither)`, four accuracies in percent.

    How many points more SVD initialization is worth without the intermediate step than with it.
    """
    cases = [(85.0, 84.0, 81.5, 73.0), (84.0, 80.5, 83.0, 81.0)]
    problem, got = run_numbers(candidate, cases)
    if problem:
        return problem
    for (mistake, hint), answer in SURPLUS.items():
        if np.allclose(got, [answer(*case) for case in cases], atol=1e-6):
            return wrong(mistake, hint) if mistake else Result(True, hint=hint)
    right = next(iter(SURPLUS.values()))(*cases[0])
    return wrong("another number", f"For {cases[0]} it is {right:g} points, yours is {got[0]:g}.")


def check_comparison(candidate: Callable | None) -> Result:
    """Check `my_comparison(train, change, seeds)`: the full training minus the changed one, per seed.

    `train(seed)` and `train(seed, **change)` return accuracies in percent; the answer is a list
    of the recipe's minus the changed one's, one number for each seed.
    """
    change, seeds, calls = {"labels": "hard"}, [3, 1, 4], []
    luck = {3: 80.0, 1: 86.0, 4: 82.0}
    cost = {3: 1.0, 1: 6.0, 4: 0.5}

    def train(seed, **changed):
        calls.append((seed, dict(changed)))
        return luck.get(seed, 70.0) - (cost.get(seed, 5.0) if changed else 0.0)

    problem, answers = run(candidate, [(train, dict(change), list(seeds))])
    if problem:
        return problem
    recipe = [seed for seed, changed in calls if not changed]
    other = [seed for seed, changed in calls if changed]
    if not calls:
        return wrong("nothing is trained", "Call train(seed) and train(seed, **change).")
    if not recipe or not other:
        return wrong(
            "the same in both arms",
            "train(seed) is the full training, train(seed, **change) changes one thing.",
        )
    if any(changed not in ({}, change) for _, changed in calls):
        return wrong("something else changes too", "Change only what `change` contains.")
    if set(recipe) - set(seeds) or set(other) - set(seeds):
        return wrong("other seeds", "Use the seeds you are given, in both arms.")
    if len(set(recipe)) < len(seeds) or len(set(other)) < len(seeds):
        which = "the recipe" if len(set(recipe)) < len(set(other)) else "one of the arms"
        return wrong(
            f"{which} has fewer seeds",
            "A lucky seed in one arm would look like an effect: use each seed in both arms.",
        )
    if np.ndim(answers[0]) == 0:
        return wrong(
            "one number for all seeds", "Return all differences: how much they vary matters."
        )
    try:
        got = [float(x) for x in answers[0]]
    except (TypeError, ValueError):
        return wrong("not a list of numbers", "One difference for each seed.")
    if len(got) != len(seeds):
        return wrong("not one number for each seed", f"{len(seeds)} seeds, {len(got)} numbers.")
    right = [cost[seed] for seed in seeds]
    if np.allclose(got, right):
        return Result(True, hint="Same seed in both arms, one change, all differences kept.")
    if np.allclose(got, [-x for x in right]):
        return wrong("the sign is reversed", "Subtract the changed training from the full one.")
    first = sorted(luck[seed] for seed in seeds)
    second = sorted(luck[seed] - cost[seed] for seed in seeds)
    if np.allclose(sorted(got), sorted(a - b for a, b in zip(first, second, strict=True))):
        return wrong(
            "sorted before the difference",
            "Best minus best pairs different seeds: keep the order of the seeds.",
        )
    if np.allclose(sorted(got), sorted(right)):
        return wrong("another order", "Keep the order of the seeds.")
    return wrong("pairs of different seeds", "Subtract within each seed, then go to the next.")


# ---- the paired bootstrap, right and wrong

GAPS = [((3, 3), 0.04), ((3, 1), -0.06), ((1, 3), 0.05), ((3, 3), -0.06)]


def _case(seeds: tuple[int, int], gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of two models to the same texts: hard texts are hard for both."""
    random = np.random.default_rng(round(1000 + 100 * gap) + seeds[0])
    ease = random.normal(1.0, 1.0, TEXTS)
    models = []
    for count, shift in zip(seeds, (gap, -gap), strict=True):
        luck = random.permutation(np.linspace(-0.15, 0.15, count)) if count > 1 else [0.0]
        own = 0.4 * random.normal(size=TEXTS) + 0.25 * random.normal(size=(count, TEXTS))
        models.append(ease + own + shift + np.array(luck)[:, None] > 0)
    return models[0], models[1]


@cache
def _cases() -> tuple[list, list]:
    """The models of all cases, and the right draws of each."""
    cases = [_case(seeds, gap) for seeds, gap in GAPS]
    return cases, [_paired(a, b, np.random.default_rng(1)) for a, b in cases]


@cache
def _known_bounds() -> dict[tuple[str, str], np.ndarray]:
    """Low and high of every case, (cases, 2), as each known mistake gives them."""
    cases, _ = _cases()
    return {
        name: np.array([answer(a, b, np.random.default_rng(2)) for a, b in cases])
        for name, answer in MISTAKES.items()
    }


def _points(cases: list) -> np.ndarray:
    return np.array([100 * (a.mean() - b.mean()) for a, b in cases])


def _interval(draws: np.ndarray, cut: float = 2.5) -> tuple[float, float]:
    low, high = np.percentile(draws, [cut, 100 - cut])
    return float(low), float(high)


def _paired(a, b, random, size: int = TEXTS) -> np.ndarray:
    """Differences in points of DRAWS resamples of the texts."""
    return _means(100 * (a.mean(0) - b.mean(0)), random, size)


def _means(values: np.ndarray, random, size: int | None = None) -> np.ndarray:
    n = len(values)
    return values[random.integers(n, size=(DRAWS, size or n))].mean(1)


def _apart(a, b, random) -> np.ndarray:
    return 100 * (_means(a.mean(0), random) - _means(b.mean(0), random))


def _sorted(a, b, random) -> np.ndarray:
    return _means(100 * (np.sort(a.mean(0)) - np.sort(b.mean(0))), random)


def _by_seed(a, b, random) -> np.ndarray:
    return 100 * (_means(a.mean(1), random) - _means(b.mean(1), random))


def _pile(a, b, random) -> np.ndarray:
    return _means(100 * (a.astype(float) - b).ravel(), random)


def _seeds_too(a, b, random) -> np.ndarray:
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        texts = random.integers(TEXTS, size=TEXTS)
        ours, theirs = (x[random.integers(len(x), size=len(x))].mean(0)[texts] for x in (a, b))
        draws[i] = 100 * (ours - theirs).mean()
    return draws


def _texts_spread(a, b, random) -> tuple[float, float]:
    each = 100 * (a.mean(0) - b.mean(0))
    return each.mean() - 1.96 * each.std(), each.mean() + 1.96 * each.std()


def _scaled(a, b, random, factor: float) -> tuple[float, float]:
    low, high = _interval(factor * _paired(a, b, random))
    return low, high


MISTAKES: dict[tuple[str, str], Callable] = {
    (
        "the two models are resampled separately",
        "Use the same texts for both in each draw, so that what makes a text hard for both cancels.",
    ): lambda *c: _interval(_apart(*c)),
    (
        "sorted before the difference",
        "Sorting pairs one text of the first model with another text of the second.",
    ): lambda *c: _interval(_sorted(*c)),
    (
        "seeds are resampled instead of texts",
        "Three seeds can be drawn in only 27 ways, and the question is what other *texts* would show. "
        "Draw columns, not rows.",
    ): lambda *c: _interval(_by_seed(*c)),
    (
        "seeds and texts in one pile",
        "A text predicted with three seeds is one text, not three: take the mean over seeds first.",
    ): lambda *c: _interval(_pile(*c)),
    (
        "seeds are drawn as well",
        "One to three seeds are too few to resample. Keep them all, and draw texts.",
    ): lambda *c: _interval(_seeds_too(*c)),
    (
        "only the first seed",
        "Take the mean over all seeds of a text before anything else.",
    ): lambda a, b, random: _interval(_paired(a[:1], b[:1], random)),
    ("the sign is reversed", "Compute a minus b."): lambda a, b, random: _interval(
        _paired(b, a, random)
    ),
    (
        "shares, not points",
        "Multiply by 100 to get points of accuracy.",
    ): lambda a, b, random: _scaled(a, b, random, 0.01),
    (
        "10 % are left out, not 5",
        "For a 95 % interval, leave out 2.5 % on each side.",
    ): lambda *c: _interval(_paired(*c), 5),
    (
        "one standard error, not a 95 % interval",
        "Return the percentiles 2.5 and 97.5 of the draws (about two standard errors on each side).",
    ): lambda *c: _interval(_paired(*c), 15.87),
    (
        "the spread of texts, not of their mean",
        "The mean of n texts varies √n times less than a single text: resample, and take the mean "
        "of each draw.",
    ): _texts_spread,
    (
        "too few texts in each draw",
        "Draw as many texts as the test set has: a smaller test set is less certain.",
    ): lambda a, b, random: _interval(_paired(a, b, random, TEXTS // 2)),
}


def _far(got: np.ndarray, right: np.ndarray, scale: np.ndarray) -> float:
    """Mean distance of the bounds, in standard errors of the difference."""
    return float(np.abs((got - right) / scale).mean())


def _p_value(got: np.ndarray, draws: list[np.ndarray], cases: list) -> Result:
    """What is wrong with the p-values, once the intervals are right."""
    below = np.array([(d <= 0).mean() for d in draws])
    above = np.array([(d >= 0).mean() for d in draws])
    right = np.minimum(1, 2 * np.minimum(below, above))
    if ((got < 0) | (got > 1)).any():
        return wrong("p is not a probability", "Double a share of the draws, and return at most 1.")
    known = {
        "one-sided": (
            np.minimum(below, above),
            "Before looking, either model could have been the better one: double the share.",
        ),
        "one side only, whichever it is": (
            below,
            "Where b is better this is near 1. Double the smaller of the two shares.",
        ),
        "p is the share on the wrong side": (above, "Double the smaller of the two shares."),
        "1 − p": (1 - right, "p is small when nearly all draws lie on one side of 0."),
        "the draws are compared with the difference itself": (
            np.full(len(draws), 0.5),
            "About half of the draws are always above the difference. Count the draws on the other "
            "side of 0.",
        ),
    }
    if np.abs(got - right).mean() < 0.2 * right.mean():
        return Result(
            True, hint="The same texts for both, drawn with replacement, and a two-sided p."
        )
    distances = {name: np.abs(got - values).mean() for name, (values, _) in known.items()}
    nearest = min(distances, key=lambda name: distances[name])
    if distances[nearest] < 0.05:
        return wrong(nearest, known[nearest][1])
    return wrong(
        "another p",
        f"The interval is right. In the first case p should be {right[0]:.2f}, yours is "
        f"{got[0]:.2f}: twice the smaller of the shares of draws ≤ 0 and ≥ 0.",
    )


SURPLUS: dict[tuple[str, str], Callable] = {
    (
        "",
        "Above 0: the two parts do some of the same work. Below 0: they need each other.",
    ): lambda both, no_start, no_step, neither: (no_step - neither) - (both - no_start),
    (
        "the sign is reversed",
        "Take the value of SVD initialization without the intermediate step, minus its value with it.",
    ): lambda both, no_start, no_step, neither: (both - no_start) - (no_step - neither),
    (
        "what both are worth together",
        "That compares two corners only. Use all four: what SVD initialization is worth in each row of the square.",
    ): lambda both, no_start, no_step, neither: both - neither,
    (
        "only without the step",
        "Now subtract what SVD initialization is worth with the step.",
    ): lambda both, no_start, no_step, neither: no_step - neither,
    (
        "only with the step",
        "This is what SVD initialization is worth with the step. Subtract it from its value without the step.",
    ): lambda both, no_start, no_step, neither: both - no_start,
    (
        "what the step is worth, not the start",
        "Compare corners that differ in the initialization: `both` and `no_step` have SVD.",
    ): lambda both, no_start, no_step, neither: no_start - neither,
    (
        "what the step is worth, with the start there",
        "Compare corners that differ in the initialization: `both` and `no_step` have SVD.",
    ): lambda both, no_start, no_step, neither: both - no_step,
    (
        "two corners are missing",
        "This compares the two rows with one part each; you need all four.",
    ): lambda both, no_start, no_step, neither: no_start - no_step,
    (
        "what adding up would predict",
        "Now subtract what was measured: `neither`.",
    ): lambda both, no_start, no_step, neither: no_start + no_step - both,
    (
        "the mean of both effects",
        "The mean is what SVD initialization is worth on average. The difference shows whether that "
        "depends on the step.",
    ): lambda both, no_start, no_step, neither: (no_step - neither + both - no_start) / 2,
}


def _plain(value) -> object:
    """Sets and lists of parts are the same whatever their order."""
    return frozenset(value) if isinstance(value, list | tuple | set) else value
