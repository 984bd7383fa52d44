"""The measurement of a teacher ensemble, rehearsed with toys: what it writes adds up."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks import bench_ensemble, bench_recipe
from tests.benchmarks.bench_recipe import read, unpacked
from tests.benchmarks.bench_reviews import bits
from tests.toys import toy_csv, toy_teacher
from tinybert_lite import distillation
from tinybert_lite.pipeline.config import DistillationConfig, RuntimeConfig


def measure(folder):
    given = ["--teachers", "1", "--seeds", "0", "--work", str(folder / "work")]
    bench_ensemble.measure(
        bench_ensemble.build_parser().parse_args([*given, "--out", str(folder / "out.json")])
    )
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def test_it_is_rehearsed_with_toys_and_continues(tmp_path, monkeypatch):
    own = {"train": str(toy_csv(tmp_path / "toy.csv", 120)), "text": "text", "label": "label"}
    teacher = DistillationConfig(teacher=str(toy_teacher(tmp_path / "toy")), **own)
    monkeypatch.setattr(bench_ensemble, "TEACHER", replace(teacher, finetune_epochs=1))
    shipped = bench_ensemble.teacher_folder(0, tmp_path, RuntimeConfig(cpu=True, progress=False))
    monkeypatch.setattr(
        bench_ensemble, "STUDENT", replace(
            teacher, teacher=str(shipped), student="nano", recombine=40, intermediate_epochs=1,
            prediction_epochs=1,
        ),
    )  # fmt: skip
    results = measure(tmp_path)
    assert list(results["teachers"]) == ["teacher 0", "teacher 1", "ensemble"]
    runs = [*results["teachers"].values()]
    runs += [run for side in results["runs"].values() for run in side.values()]
    assert len(runs) == 5 and list(results["runs"]) == list(bench_ensemble.SIDES)
    for run in runs:
        right = unpacked(run["right"], results["test_texts"])
        assert right.mean() == pytest.approx(run["accuracy"])
    logits = [np.load(tmp_path / "work" / f"logits-{seed}-train.npy") for seed in (0, 1)]
    one, ensemble = (
        (tmp_path / "work" / f"student-0-{side}" / "model" / "model.safetensors").read_bytes()
        for side in ("one", "ensemble")
    )
    assert len(logits[0]) == results["texts"]["number"] and (logits[0] != logits[1]).any()
    assert one != ensemble
    monkeypatch.setattr(distillation, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert measure(tmp_path)["runs"] == results["runs"]


def test_the_teachers_on_file_add_up_and_the_first_is_the_shipped_one():
    results = read(bench_ensemble.RESULT)
    recipe = read(bench_recipe.RESULT)["runs"]["reviews, nano"]["0"]
    teachers = results["teachers"]
    assert teachers["teacher 0"]["right"] == recipe["teacher_right"]
    for name, run in teachers.items():
        right = unpacked(run["right"], results["test_texts"])
        assert right.mean() == pytest.approx(run["accuracy"]), name
    assert "single teachers on test: 86." in bench_ensemble.summary(results)


def test_only_seeds_that_both_sides_have_are_compared():
    one, other = np.array([1, 0, 0, 0] * 20), np.array([1, 1, 0, 0] * 20)
    results = {
        "test_texts": 80,
        "runs": {
            "one teacher": {"1": {"right": bits(one > 0)}},
            "ensemble": {"1": {"right": bits(other > 0)}, "2": {"right": bits(one > 0)}},
        },
    }
    assert bench_ensemble.paired(results).difference == pytest.approx(0.25)
    assert bench_ensemble.paired({"test_texts": 80, "runs": {}}) is None
