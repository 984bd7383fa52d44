"""The speed harness: both sides do the same work, and what cannot be measured is said."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.toys import toy_teacher
from tinybert_lite import UserError, distillation, students, teacher_cache
from tinybert_lite.benchmark import speed
from tinybert_lite.cli import main
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.models import loading, sizes
from tinybert_lite.training import TrainingConfig

TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"] * 8


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A World of a toy teacher and a toy student; no real weights."""
    toy_teacher(tmp_path / "toy")
    world = object.__new__(speed.BenchmarkSetup)
    world.cuda, world.accelerator = False, Accelerator(cpu=True)
    world.device, world.task, world.padded = torch.device("cpu"), None, 16
    world.teacher, tokenizer = loading.load_classifier(str(tmp_path / "toy"))
    world.teacher.eval()
    monkeypatch.setitem(students.PRESETS, "toy", students.Preset(3, 24, 48))
    world.preset, world.mapping = "toy", [0, 2, 4, 6]
    labels = np.arange(len(TEXTS)) % 2
    world.data = {"train": tokenize(tokenizer, TEXTS, None, labels, 16)}
    return world


def plain(world, data, phase):
    side = speed.ReferenceTrainer(world, data, TrainingConfig(epochs=1, learning_rate=1e-3))
    side.student.eval()
    side.student.train = lambda mode=True: side.student  # no dropout: losses can be compared
    side.student.base_model.train = lambda mode=True: side.student.base_model
    side.begin(side.student, side.projection)
    return getattr(side, phase)


def test_both_sides_have_the_same_intermediate_loss_on_the_same_batch(world):
    data, rows = world.data["train"], np.arange(8)
    got = plain(world, data, "intermediate")(rows)
    student, projection = world.student()
    module = distillation.IntermediateLoss(student, projection, world.mapping).eval()
    inputs = data.batch(rows)
    for form in ("qk", "scores"):
        answers = teacher_cache.TeacherCache(world.teacher, data, world.mapping, form)
        ours = sum(module(inputs, *answers(rows, inputs)).values()).item()
        assert got == pytest.approx(ours, rel=1e-4)


def test_both_sides_have_the_same_prediction_loss_on_the_same_batch(world):
    data, rows = world.data["train"], np.arange(8)
    got = plain(world, data, "prediction")(rows)
    student, _ = world.student()
    inputs = data.batch(rows)
    with torch.no_grad():
        theirs, ours = world.teacher(**inputs).logits, student.eval()(**inputs).logits
    assert got == pytest.approx(speed.soft_cross_entropy(ours, theirs).item(), rel=1e-5)


@pytest.mark.parametrize("phase", ["intermediate", "prediction", "finetune"])
def test_a_phase_is_measured_both_ways_and_leaves_the_teacher_as_it_was(world, phase):
    before = {k: v.clone() for k, v in world.teacher.state_dict().items()}
    found = speed.training(world, phase, steps=1)
    assert found["sentences"] == 32 and found["padded_to"] == 16
    for side in ("plain", "ours"):
        assert found[side]["sentences_per_second"] > 0 and len(found[side]["rounds"]) == 3
    ratio = found["plain"]["seconds"] / found["ours"]["seconds"]
    assert found["times"] == found["ours"]["times_plain"] == pytest.approx(ratio, abs=0.01)
    assert found["plain"]["ours_times_this"] == found["times"]
    assert ("plain, with dropout" in found) == (phase != "finetune")
    share = found["teacher_once_seconds"] / speed.EPOCHS  # ours is one step here, and this
    alone = found["ours"]["seconds"] - found["ours"]["seconds_a_step"]
    assert alone == pytest.approx(share, abs=1e-3)
    assert (share > 0) == (found["teacher_kept_bytes"] > 0) == (phase != "finetune")
    assert all(torch.equal(v, before[k]) for k, v in world.teacher.state_dict().items())


def test_another_batch_size_is_a_side_of_its_own_with_a_floor_of_its_own(world):
    found = speed.training(world, "intermediate", 1, 8)
    speed.add_roofline(world, "intermediate", found, {"float32_flops": 1e9, "bytes": 2e9})
    assert set(found["ours, 8 a step"]) == set(found["ours"]) >= {"floor", "times_plain"}
    few, many = (found[name]["floor"] for name in ("ours, 8 a step", "ours"))
    assert many["operations"] == 4 * few["operations"] and many["bytes"] == few["bytes"]
    once = found["teacher_once_seconds"] / speed.EPOCHS
    # a round is one step of 32, or four of 8
    for name, steps in (("ours", 1), ("ours, 8 a step", 4)):
        side = found[name]
        alone = (side["seconds"] - once) / steps
        floor = side["floor"]["operations"] / 1e9 + side["floor"]["bytes"] / 2e9
        assert side["floor"]["times_the_floor"] == pytest.approx(alone / floor, rel=0.05)


@pytest.mark.parametrize("phase", ["intermediate", "prediction", "finetune"])
def test_every_weight_is_trained_on_both_sides(world, phase, monkeypatch):
    """A teacher that an adapter had frozen was once measured with its classifier alone."""
    trained = {"plain": [], "ours": []}
    begin, fit = speed.ReferenceTrainer.begin, distillation.fit

    def plain_begin(self, *modules):
        begin(self, *modules)
        trained["plain"].append(sum(p.numel() for p in self.trained))

    def ours_fit(name, module, *rest, **options):
        trained["ours"].append(sum(p.numel() for p in module.parameters() if p.requires_grad))
        return fit(name, module, *rest, **options)

    monkeypatch.setattr(speed.ReferenceTrainer, "begin", plain_begin)
    monkeypatch.setattr(distillation, "fit", ours_fit)
    speed.training(world, phase, steps=1)
    student, projection = world.student()
    count = {
        "intermediate": sizes.parameters(student.base_model) + sizes.parameters(projection),
        "prediction": sizes.parameters(student),
        "finetune": sizes.parameters(world.teacher),
    }[phase]
    assert min(trained["plain"]) >= 0.9 * count and min(trained["ours"]) >= 0.9 * count


def test_dropout_of_the_plain_side_is_in_student_and_teacher_and_nowhere_else(world):
    data, rows = world.data["train"], np.arange(8)
    sides = [speed.ReferenceTrainer(world, data, TrainingConfig(epochs=1), p) for p in (0.0, 0.1)]
    for side in sides:
        with torch.no_grad():
            answers = [side.teacher(**side.inputs(rows)).logits for _ in "ab"]
        assert torch.equal(*answers) == (side is sides[0])
        dropouts = [m.p for m in side.student.modules() if isinstance(m, torch.nn.Dropout)]
        assert dropouts and set(dropouts) == {0.0 if side is sides[0] else 0.1}
    assert not world.teacher.training


def test_the_plain_side_takes_as_many_steps_as_its_epochs_have(world):
    world.data["train"].offsets = world.data["train"].offsets[:-1]  # 31 texts: a batch is short
    side, rows = speed.ReferenceTrainer(world, world.data["train"], TrainingConfig(epochs=3)), []

    def step(batch):
        rows.extend(batch)
        side.step_number += 1

    side.train(step)
    whole = len(world.data["train"])
    assert side.step_number == side.total == 3  # as many as `fit` takes
    assert sorted(rows[:whole]) == list(range(whole)) and rows[:whole] != rows[whole : 2 * whole]


def test_padding_costs_the_plain_side_and_a_teachers_share_costs_ours(world):
    side = speed.ReferenceTrainer(world, world.data["train"], TrainingConfig(epochs=1))
    assert side.inputs(np.arange(2))["input_ids"].shape == (2, 16)
    assert (
        side.inputs(np.arange(2))["attention_mask"].sum() == world.data["train"].lengths[:2].sum()
    )
    assert speed.training(world, "intermediate", steps=1)["teacher_once_seconds"] > 0


def test_sides_take_turns_and_the_first_round_is_dropped():
    called, seconds = [], iter([9.0, 9.0, 1.0, 2.0, 3.0, 2.0, 2.0, 5.0])
    world = type("W", (), {"cuda": False})()

    def side(name):
        return lambda: called.append(name) or next(seconds)

    got = speed.in_turn(world, {"a": side("a"), "b": side("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert got["a"]["seconds"] == 2.0 and got["b"]["seconds"] == 2.0
    assert got["a"]["rounds"] == [1.0, 3.0, 2.0]


def test_the_floor_of_a_step_grows_with_its_tokens(world):
    few, many = (speed.step_roofline(world, "intermediate", n) for n in (8, 16))
    assert many["operations"] > 1.9 * few["operations"] and many["bytes"] == few["bytes"] > 0


def test_students_are_timed_beside_their_teacher_in_torch_and_in_onnx(world, monkeypatch):
    monkeypatch.setitem(students.PRESETS, "tinybert4", students.PRESETS["toy"])
    asked, got = [], {"teacher": 6.0, "tinybert4": 2.0}
    monkeypatch.setattr(speed.inference, "latency", lambda sides, *a: asked.append(a) or dict(got))
    export = pytest.importorskip("tinybert_lite.deploy.onnx_export")
    milliseconds = {"teacher in ONNX Runtime": [4.0, 4.0], "tinybert4 in ONNX Runtime": [1.0, 0.0]}
    monkeypatch.setattr(
        export, "latencies", lambda ways, *a: {n: milliseconds.get(n) for n in ways}
    )
    found = speed.measure_inference(world, 3)
    assert len(found) == 9 and asked[-1] == (32, 128, 3)
    assert {name: side["times"] for name, side in found["1 x 16"].items()} == {
        "teacher": 1.0, "tinybert4": 3.0,
        "teacher in ONNX Runtime": 1.0, "tinybert4 in ONNX Runtime": 8.0,
    }  # fmt: skip


def test_the_import_is_measured_in_a_fresh_process_and_without_torch():
    found = speed.start(repeats=1)
    assert 0 < found["python alone"] < found["help"] < 10 and found["import"] > 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["nonsense"], "There is nothing called 'nonsense' to measure"),
        (["start", "--size", "huge"], "--size is embedded or bert-base"),
        (["start", "--task", "review-ratings"], "The teacher here knows two answers"),
        (["start", "--size", "bert-base", "--task", "reviews"], "with --size embedded only"),
        (["start", "--test", "a.csv"], "Name either a task"),
        (["start", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["start", "--device", "cuda"], "There is no CUDA device here"),
        (["start", "--out", "no/such/folder/b.json"], "does not exist; make it"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(arguments, says, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["bench", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_command_writes_what_it_measured_with_the_machine(tmp_path, monkeypatch, world):
    monkeypatch.setattr(speed, "BenchmarkSetup", lambda *a, **k: world)
    out = tmp_path / "b.json"
    assert main(["bench", "start", "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["environment"]["torch"] and found["floor"]["float32_flops"] > 1e8
    assert found["command"].startswith("python -m tinybert_lite bench start")
    with pytest.raises(UserError, match="embedded only"):
        speed.run(["whole"])
