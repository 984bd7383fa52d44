"""Two models on the same texts: how their scores differ, and what chance could explain."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

DRAWS = 5000


@dataclass(frozen=True)
class PairedComparison:
    """Model A minus model B on the same texts and seeds, as shares of the texts.

    `low` and `high` are the 95 % interval over other texts; `only_a` and `only_b` count the
    predictions that only one of the two gets right, over all seeds; `p_value` is two-sided.
    """

    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float
    texts: int
    seeds: int

    def __str__(self) -> str:
        gap, low, high = (f"{100 * x:+.1f}" for x in (self.difference, self.low, self.high))
        return (
            f"{gap} points ({low} to {high}, 95 %), p = {self.p_value:.2g}; only one right: "
            f"{self.only_a} and {self.only_b}; texts: {self.texts}, seeds: {self.seeds}"
        )


def paired_comparison(right_a: np.ndarray, right_b: np.ndarray) -> PairedComparison:
    """Compare two models by which texts each gets right, boolean (texts,) or (seeds, texts).

    The interval is a paired bootstrap over texts, the seeds of a text kept together; the p-value
    is McNemar's exact test for one seed and a sign-flip permutation test over texts for several.
    Raises ValueError for shapes that do not match.
    """
    a, b = (np.atleast_2d(np.asarray(x, dtype=bool)) for x in (right_a, right_b))
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"{a.shape} and {b.shape} are not the same texts and seeds")
    seeds, n = a.shape
    steps, counts = np.unique(a.sum(0, dtype=int) - b.sum(0, dtype=int), return_counts=True)
    gaps = steps / seeds  # the distinct differences of a text, and how many texts have each
    random = np.random.default_rng(0)
    draws = random.multinomial(n, counts / n, size=DRAWS) @ gaps / n
    low, high = np.percentile(draws, [2.5, 97.5])
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    if seeds == 1:
        p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    else:  # the sign of each text's difference is a coin toss if the models are alike
        flipped = (2 * random.binomial(counts, 0.5, (DRAWS, len(counts))) - counts) @ gaps
        p_value = (1 + (np.abs(flipped) >= abs(counts @ gaps) - 1e-9).sum()) / (1 + DRAWS)
    return PairedComparison(
        float(counts @ gaps / n), float(low), float(high), only_a, only_b, float(p_value), n, seeds
    )
