"""The recombination benchmark: a rehearsal on the CPU, and its results on file."""

import json
import subprocess
import sys

import pytest

from tests.benchmarks import bench_recombination


@pytest.mark.slow
def test_a_rehearsal_trains_two_steps_and_writes_a_run(root, tmp_path):
    out = tmp_path / "runs.json"
    out.write_text(json.dumps({"runs": {}, "teacher": 0.87}))
    name = "nano, 60,000 recombined texts"
    command = [sys.executable, bench_recombination.__file__, "--rows", name, "--seeds", "0"]
    rehearsal = ["--texts", "64", "--steps", "2", "--out", str(out)]
    done = subprocess.run([*command, *rehearsal], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())["runs"][name]["0"]
    assert 0.3 < run["accuracy"] < 0.9 and run["row"] == {"student": "nano", "recombined": 60_000}
    assert done.stdout.startswith(f"{name}: accuracy")


def test_the_results_on_file_have_five_seeds_of_both_recipes_and_their_bits():
    results = json.loads(bench_recombination.RESULT.read_text(encoding="utf-8"))
    for name in ("nano, 300,000 recombined texts", "lite, 200,000 recombined texts"):
        runs = results["runs"][name]
        assert sorted(runs) == list("01234")
        for run in runs.values():
            right = bytes.fromhex(run["right"])
            count = sum(byte.bit_count() for byte in right)
            assert count / results["test_texts"] == pytest.approx(run["accuracy"])
    assert "nano, 300,000 recombined texts: accuracy 85.81 ± 0.53 (5 seeds), 98.3 %" in (
        bench_recombination.summary(results)
    )
