"""The speed harness: both sides do the same work, and what cannot be measured is said."""

import contextlib
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.toys import toy_teacher
from tinybert_lite import UserError, distillation, students, teacher_cache
from tinybert_lite.benchmark import roofline, speed
from tinybert_lite.benchmark.config import CACHE_EPOCHS, BenchmarkConfig
from tinybert_lite.benchmark.reference import ReferenceTrainer
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.benchmark.training_speed import measure_training
from tinybert_lite.cli import main
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.losses import soft_cross_entropy
from tinybert_lite.models import loading, sizes
from tinybert_lite.training import TrainingConfig

TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"] * 8


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """A setup of a toy teacher and a toy student; no real weights."""
    toy_teacher(tmp_path / "toy")
    setup = object.__new__(BenchmarkSetup)
    setup.cuda, setup.accelerator = False, Accelerator(cpu=True)
    setup.bf16, setup.precision = False, contextlib.nullcontext
    setup.device, setup.task, setup.padded = torch.device("cpu"), None, 16
    setup.teacher, tokenizer = loading.load_classifier(str(tmp_path / "toy"))
    setup.teacher.eval()
    monkeypatch.setitem(students.PRESETS, "toy", students.Preset(3, 24, 48))
    setup.preset, setup.mapping = "toy", [0, 2, 4, 6]
    labels = np.arange(len(TEXTS)) % 2
    setup.data = {"train": tokenize(tokenizer, TEXTS, None, labels, 16)}
    return setup


def baseline_step(setup, data, phase):
    side = ReferenceTrainer(setup, data, TrainingConfig(epochs=1, learning_rate=1e-3))
    side.student.eval()
    side.student.train = lambda mode=True: side.student  # no dropout: losses can be compared
    side.student.base_model.train = lambda mode=True: side.student.base_model
    side.begin(side.student, side.projection)
    return getattr(side, phase)


def test_both_sides_have_the_same_intermediate_loss_on_the_same_batch(setup):
    data, rows = setup.data["train"], np.arange(8)
    got = baseline_step(setup, data, "intermediate")(rows)
    student, projection = setup.student()
    module = distillation.IntermediateLoss(student, projection, setup.mapping).eval()
    inputs = data.batch(rows)
    for form in ("qk", "scores"):
        cache = teacher_cache.TeacherCache(setup.teacher, data, setup.mapping, form)
        expected = sum(module(inputs, *cache(rows, inputs)).values()).item()
        assert got == pytest.approx(expected, rel=1e-4)


def test_both_sides_have_the_same_prediction_loss_on_the_same_batch(setup):
    data, rows = setup.data["train"], np.arange(8)
    got = baseline_step(setup, data, "prediction")(rows)
    student, _ = setup.student()
    inputs = data.batch(rows)
    with torch.no_grad():
        teacher, student_logits = setup.teacher(**inputs).logits, student.eval()(**inputs).logits
    assert got == pytest.approx(soft_cross_entropy(student_logits, teacher).item(), rel=1e-5)


@pytest.mark.parametrize("phase", ["intermediate", "prediction", "finetune"])
def test_a_phase_is_measured_both_ways_and_leaves_the_teacher_as_it_was(setup, phase):
    before = {k: v.clone() for k, v in setup.teacher.state_dict().items()}
    found = measure_training(setup, phase, steps=1)
    assert found["texts"] == 32 and found["padded_to"] == 16
    for side in ("baseline", "optimized"):
        assert found[side]["texts_per_second"] > 0 and len(found[side]["rounds"]) == 3
    ratio = found["baseline"]["seconds"] / found["optimized"]["seconds"]
    assert found["speedup"] == found["optimized"]["speedup"] == pytest.approx(ratio, abs=0.01)
    assert found["baseline"]["optimized_speedup"] == found["speedup"]
    assert ("baseline with dropout" in found) == (phase != "finetune")
    share = found["teacher_pass_seconds"] / CACHE_EPOCHS  # of one optimized step here
    alone = found["optimized"]["seconds"] - found["optimized"]["seconds_per_step"]
    assert alone == pytest.approx(share, abs=1e-3)
    assert (share > 0) == (found["teacher_cache_bytes"] > 0) == (phase != "finetune")
    assert all(torch.equal(v, before[k]) for k, v in setup.teacher.state_dict().items())


def test_another_batch_size_is_a_side_of_its_own_with_its_own_roofline(setup):
    found = measure_training(setup, "intermediate", 1, 8)
    roofline.add_roofline(setup, "intermediate", found, {"float32_flops": 1e9, "bytes": 2e9})
    assert set(found["optimized, batch 8"]) == set(found["optimized"]) >= {"roofline", "speedup"}
    few, many = (found[name]["roofline"] for name in ("optimized, batch 8", "optimized"))
    assert many["operations"] == 4 * few["operations"] and many["bytes"] == few["bytes"]
    once = found["teacher_pass_seconds"] / CACHE_EPOCHS
    # a round is one step of 32, or four of 8
    for name, steps in (("optimized", 1), ("optimized, batch 8", 4)):
        side = found[name]
        alone = (side["seconds"] - once) / steps
        least = side["roofline"]["operations"] / 1e9 + side["roofline"]["bytes"] / 2e9
        assert side["roofline"]["measured_over_roofline"] == pytest.approx(alone / least, rel=0.05)


@pytest.mark.parametrize("phase", ["intermediate", "prediction", "finetune"])
def test_every_weight_is_trained_on_both_sides(setup, phase, monkeypatch):
    """A teacher that an adapter had frozen was once measured with its classifier alone."""
    trained = {"baseline": [], "optimized": []}
    begin, fit = ReferenceTrainer.begin, distillation.fit

    def baseline_begin(self, *modules):
        begin(self, *modules)
        trained["baseline"].append(sum(p.numel() for p in self.trained))

    def optimized_fit(name, module, *rest, **options):
        trained["optimized"].append(sum(p.numel() for p in module.parameters() if p.requires_grad))
        return fit(name, module, *rest, **options)

    monkeypatch.setattr(ReferenceTrainer, "begin", baseline_begin)
    monkeypatch.setattr(distillation, "fit", optimized_fit)
    measure_training(setup, phase, steps=1)
    student, projection = setup.student()
    count = {
        "intermediate": sizes.parameters(student.base_model) + sizes.parameters(projection),
        "prediction": sizes.parameters(student),
        "finetune": sizes.parameters(setup.teacher),
    }[phase]
    assert min(trained["baseline"]) >= 0.9 * count and min(trained["optimized"]) >= 0.9 * count


def test_dropout_of_the_baseline_is_in_student_and_teacher_and_nowhere_else(setup):
    data, rows = setup.data["train"], np.arange(8)
    sides = [ReferenceTrainer(setup, data, TrainingConfig(epochs=1), p) for p in (0.0, 0.1)]
    for side in sides:
        with torch.no_grad():
            answers = [side.teacher(**side.inputs(rows)).logits for _ in "ab"]
        assert torch.equal(*answers) == (side is sides[0])
        dropouts = [m.p for m in side.student.modules() if isinstance(m, torch.nn.Dropout)]
        assert dropouts and set(dropouts) == {0.0 if side is sides[0] else 0.1}
    assert not setup.teacher.training


def test_the_baseline_takes_as_many_steps_as_its_epochs_have(setup):
    setup.data["train"].offsets = setup.data["train"].offsets[:-1]  # 31 texts: a batch is short
    side, rows = ReferenceTrainer(setup, setup.data["train"], TrainingConfig(epochs=3)), []

    def step(batch):
        rows.extend(batch)
        side.step_number += 1

    side.train(step)
    whole = len(setup.data["train"])
    assert side.step_number == side.total == 3  # as many as `fit` takes
    assert sorted(rows[:whole]) == list(range(whole)) and rows[:whole] != rows[whole : 2 * whole]


def test_padding_costs_the_baseline_and_the_teachers_pass_costs_the_optimized_side(setup):
    side = ReferenceTrainer(setup, setup.data["train"], TrainingConfig(epochs=1))
    assert side.inputs(np.arange(2))["input_ids"].shape == (2, 16)
    assert (
        side.inputs(np.arange(2))["attention_mask"].sum() == setup.data["train"].lengths[:2].sum()
    )
    assert measure_training(setup, "intermediate", steps=1)["teacher_pass_seconds"] > 0


def test_sides_take_turns_and_the_first_round_is_dropped():
    called, seconds = [], iter([9.0, 9.0, 1.0, 2.0, 3.0, 2.0, 2.0, 5.0])
    setup = type("W", (), {"cuda": False})()

    def side(name):
        return lambda: called.append(name) or next(seconds)

    got = BenchmarkSetup.interleaved(setup, {"a": side("a"), "b": side("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert got["a"]["seconds"] == 2.0 and got["b"]["seconds"] == 2.0
    assert got["a"]["rounds"] == [1.0, 3.0, 2.0]


def test_the_roofline_of_a_step_grows_with_its_tokens(setup):
    few, many = (roofline.step_roofline(setup, "intermediate", n) for n in (8, 16))
    assert many["operations"] > 1.9 * few["operations"] and many["bytes"] == few["bytes"] > 0


def test_students_are_timed_beside_their_teacher_in_torch_and_in_onnx(setup, monkeypatch):
    monkeypatch.setitem(students.PRESETS, "tinybert4", students.PRESETS["toy"])
    calls, seconds = [], {"teacher": 6.0, "tinybert4": 2.0}
    pytest.importorskip("tinybert_lite.deploy.onnx_export")
    seconds |= {"teacher in ONNX Runtime": 4.0, "tinybert4 in ONNX Runtime": 0.5}

    def latencies(models, *shape):
        calls.append(shape)
        return {name: np.array([seconds[name]] * 2) for name in models}

    monkeypatch.setattr(speed.inference, "latencies", latencies)
    found = speed.measure_inference(setup, 3)
    assert len(found) == 9 and calls[-1] == (32, 128, 3)
    assert {name: side["speedup"] for name, side in found["1 x 16"].items()} == {
        "teacher": 1.0, "tinybert4": 3.0,
        "teacher in ONNX Runtime": 1.0, "tinybert4 in ONNX Runtime": 8.0,
    }  # fmt: skip


def test_the_import_is_measured_in_a_fresh_process_and_without_torch():
    found = speed.measure_startup(repeats=1)
    assert 0 < found["python alone"] < found["help"] < 10 and found["import"] > 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["nonsense"], "There is no part 'nonsense'"),
        (["startup", "--size", "huge"], "--size is embedded or bert-base"),
        (["startup", "--task", "review-ratings"], "The embedded teacher has two classes"),
        (["startup", "--size", "bert-base", "--task", "reviews"], "with --size embedded only"),
        (["startup", "--test", "a.csv"], "Give either a task"),
        (["startup", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["startup", "--device", "cuda"], "There is no CUDA device here"),
        (["startup", "--out", "no/such/folder/b.json"], "does not exist; make it"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(arguments, says, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["bench", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_command_writes_what_it_measured_with_the_machine(tmp_path, monkeypatch, setup):
    monkeypatch.setattr(speed, "BenchmarkSetup", lambda *a, **k: setup)
    out = tmp_path / "b.json"
    assert main(["bench", "startup", "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["environment"]["torch"] and found["machine_rates"]["float32_flops"] > 1e8
    assert found["command"].startswith("python -m tinybert_lite bench startup")
    with pytest.raises(UserError, match="embedded only"):
        speed.run(BenchmarkConfig(parts=["full"], size="bert-base"))
