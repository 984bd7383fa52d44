"""The README is short, its links work, and its numbers are those in data/results."""

import re

from tests.benchmarks import bench_latency, bench_recipe
from tinybert_lite.data import paths

TEXT = (paths.ROOT / "README.md").read_text(encoding="utf-8")


def test_it_has_at_most_800_words():
    assert len(TEXT.split()) <= 800


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert len(links) > 15
    assert [link for link in links if not (paths.ROOT / link).exists()] == []


def test_its_table_is_the_one_that_the_results_give():
    assert bench_recipe.readme_table() in TEXT


def test_its_accuracies_of_the_shipped_students_are_those_on_file():
    assert bench_recipe.readme_shipped() in " ".join(TEXT.split())


def test_its_accuracies_of_other_teachers_are_those_on_file():
    assert bench_recipe.readme_teachers() in " ".join(TEXT.split())


def test_its_finding_is_the_one_that_the_results_give():
    assert bench_recipe.readme_finding() in " ".join(TEXT.split())


def test_the_page_on_own_data_says_what_to_expect():
    page = (paths.ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    assert bench_recipe.own_data_table() in page


def test_the_page_on_speed_has_the_same_times():
    results = bench_recipe.read(bench_latency.RESULT)
    assert bench_latency.summary(results) in bench_latency.RESULT.with_name("speed.md").read_text()
