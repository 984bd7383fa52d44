"""The results of the default recipe on file: what they hold, and that the shipped cards agree."""

import json

import pytest

from tests.benchmarks import bench_recipe
from tinybert_lite.models import catalog

RESULTS = bench_recipe.read(bench_recipe.RESULT)


@pytest.mark.parametrize("name", ["nano", "lite"])
def test_the_shipped_student_is_the_run_on_file(name):
    run = RESULTS["runs"][f"reviews, {name}"]["0"]
    card = json.loads((catalog.FOLDER / f"reviews-{name}" / "card.json").read_text("utf-8"))
    assert card["facts"]["student"] == run["student"]
    assert card["facts"]["texts"] is not None and run["recombined"] == 144_240


def test_the_texts_that_were_right_add_up_to_the_scores():
    for runs in RESULTS["runs"].values():
        for run in runs.values():
            for who in ("right", "teacher_right") if run["metric"] == "accuracy" else ():
                right = bench_recipe.unpacked(run[who], run["test_texts"])
                score = run["student" if who == "right" else "teacher"]
                assert right.mean() == pytest.approx(score)


def test_the_summary_gives_score_seeds_and_share_of_the_teacher():
    lines = bench_recipe.summary(RESULTS).splitlines()
    assert lines[0].startswith("reviews, nano: accuracy 85.25 (1 seed), 97.7% of the teacher")
    assert lines[0].endswith("46 minutes on 1 thread")
    rating = next(line for line in lines if line.startswith("review ratings, nano: pearson 0.793 "))
    assert "98.6% of the teacher" in rating and "agreement" not in rating


def test_each_row_names_a_task_or_files_of_its_own():
    for name, config in bench_recipe.ROWS.items():
        files = name.startswith(("news topics", "SST-2", "RTE"))
        assert (config.task is None) == files and config.student in name
