"""The script that compares the accuracy of the fast path with the plain one's."""

import json

from tests.benchmarks.bench_paths import merge


def test_runs_of_several_processes_are_kept_and_compared_seed_by_seed(tmp_path):
    out = tmp_path / "paths.json"
    for side, seed, accuracy in (
        ("plain", 0, 0.80),
        ("fast", 0, 0.81),
        ("plain", 1, 0.84),
        ("fast", 2, 0.83),
    ):
        merge(out, side, seed, {"accuracy": accuracy})
    found = json.loads(out.read_text())
    assert found == merge(out)
    assert found["summary"]["fast"]["seeds"] == 2 and found["runs"]["fast"].keys() == {"0", "2"}
    plain = found["summary"]["plain"]
    assert round(plain["mean"], 4) == 0.82 and round(plain["spread"], 4) == 0.0283
    assert plain["fast_minus_this"] == {"0": 0.01}  # of the seeds that both have
