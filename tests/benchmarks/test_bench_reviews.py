"""The script of the ablation table: results of several workers, claims, and the page."""

import json

from tests.benchmarks import bench_reviews
from tests.benchmarks.bench_reviews import claim, merge, table


def test_results_of_several_workers_are_all_kept_in_the_tables_order(tmp_path):
    file = tmp_path / "r.json"
    merge(file, {"runs": {"nano": {"1": {"accuracy": 0.8}}}})
    merge(file, {"runs": {"lite": {"0": {"accuracy": 0.9}}}, "test_texts": 10})
    merge(file, {"runs": {"nano": {"0": {"accuracy": 0.7}}}})
    known = json.loads(file.read_text())
    assert known["test_texts"] == 10
    assert list(known["runs"]) == ["lite", "nano"]
    assert known["runs"]["nano"] == {"1": {"accuracy": 0.8}, "0": {"accuracy": 0.7}}


def test_a_job_is_one_workers_until_that_worker_lets_go(tmp_path):
    file = tmp_path / f"{tmp_path.name}.json"
    with claim(file, 0, "nano") as first, claim(file, 0, "nano") as second:
        assert first and not second
        with claim(file, 1, "nano") as another:
            assert another
    with claim(file, 0, "nano") as again:
        assert again


def test_the_page_has_mean_spread_and_share_of_the_teacher_and_says_what_is_missing():
    where = {"processor": "P", "threads": 1, "gpu": "none", "torch": "T", "transformers": "F"}
    fixed = {"teacher": 0.9, "TF-IDF, logistic regression": 0.72, "majority": 0.45}
    runs = {"nano": {"0": {"accuracy": 0.80}, "1": {"accuracy": 0.82}}}
    page = table({"fixed": fixed, "test_texts": 1000, "runs": runs, "environment": where})
    assert "| nano | the recipe | 81.0 ± 1.4 | 2 | 90.0 % |" in page
    assert "| lite | the recipe | not measured yet | 0 | |" in page
    assert page.count("not measured yet") == len(bench_reviews.ROWS) - 1
