"""The script that compares the accuracy of the optimized and the baseline loop."""

from tests.benchmarks.bench_paths import lines


def test_each_side_is_printed_seed_by_seed_with_mean_spread_and_seconds():
    def run(accuracy, seconds):
        return {"accuracy": accuracy, "seconds": seconds}

    runs = {
        "baseline": {"2": run(0.84, 30), "0": run(0.80, 10)},
        "optimized": {"1": run(0.8125, 7)},
    }
    assert lines(runs) == [
        "baseline: seed 0 80.00, seed 2 84.00; mean 82.00 ± 2.83; 20.0 s",
        "optimized: seed 1 81.25; mean 81.25; 7 s",
    ]
