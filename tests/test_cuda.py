"""On a GPU the same numbers as on a CPU: float32 to five digits, bfloat16 to two."""

import copy
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.toys import toy_csv, toy_teacher
from tinybert_lite import distillation, losses, students, teacher_cache, training
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.models import loading
from tinybert_lite.pipeline import pipeline
from tinybert_lite.pipeline.config import DistillationConfig, RuntimeConfig
from tinybert_lite.training import TrainingConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one state a process: another test's precision would be in the way."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"] * 8


def parts(folder, device, dtype=None):
    """Losses and one gradient of equations 7 to 9 on one batch of a toy teacher and student."""
    teacher, tokenizer = loading.load_classifier(str(folder))
    student = students.build_student(teacher.config, students.Preset(3, 24, 48), 0)
    projection = students.Projection(24, teacher.config.hidden_size, "paper", 0)
    data, mapping = tokenize(tokenizer, TEXTS), [0, 2, 4, 6]
    module = distillation.IntermediateLoss(student, projection, mapping).to(device).eval()
    answers = teacher_cache.TeacherCache(teacher.to(device), data, mapping, "qk", 2**30)
    rows = np.arange(12)
    inputs = data.batch(rows, device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        found = module(inputs, *answers(rows, inputs))
    sum(found.values()).backward()
    gradient = student.base_model.encoder.layer[0].attention.self.query.weight.grad
    return {k: v.item() for k, v in found.items()}, gradient.float().cpu(), answers


def apart(a, b) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype, close", [(None, 1e-4), (torch.bfloat16, 3e-2)])
def test_losses_and_gradients_are_those_of_a_cpu(tmp_path, dtype, close):
    folder = toy_teacher(tmp_path / "toy")
    expected, slope, _ = parts(folder, "cpu")
    got, slope_there, answers = parts(folder, "cuda", dtype)
    assert answers.store.device.type == "cuda"  # kept where they are used
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=close), name
    assert apart(slope_there, slope) < 3 * close


@pytest.mark.parametrize("l", [16, 128, 512])
def test_the_gram_form_keeps_its_digits_under_autocast(l):
    generator = torch.Generator().manual_seed(l)
    (qs, ks), (qt, kt) = (
        tuple(torch.randn(4, 12, l, d, generator=generator) for _ in "qk") for d in (16, 32)
    )
    mask = torch.ones(4, l)
    mask[1, l // 2 :] = 0
    maps = (qs @ ks.mT * 16**-0.5).double(), (qt @ kt.mT * 32**-0.5).double()
    both = mask[:, None, :, None] * mask[:, None, None, :]
    expected = ((maps[0] - maps[1]).square() * both).sum() / (12 * mask.sum(-1).square().sum())
    with torch.autocast("cuda", torch.bfloat16):
        ours = (qs.cuda(), ks.cuda()), (qt.cuda(), kt.cuda()), mask.cuda()
        got = losses.attention_loss_gram(*ours)
    assert got.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_step_in_bfloat16_brings_the_loss_down_as_on_a_cpu(tmp_path):
    folder = toy_teacher(tmp_path / "toy")
    ends = {}
    for device in ("cpu", "cuda"):  # in one process, as two runs of a notebook would be
        accelerator = training.make_accelerator(cpu=device == "cpu")
        assert accelerator.device.type == device
        assert accelerator.mixed_precision == ("bf16" if device == "cuda" else "no")
        teacher, tokenizer = loading.load_classifier(str(folder))
        student = students.build_student(teacher.config, students.Preset(3, 24, 48), 0)
        module = distillation.IntermediateLoss(
            student, students.Projection(24, 48, "paper", 0), [0, 2, 4, 6]
        )
        data = tokenize(tokenizer, TEXTS)
        answers = teacher_cache.TeacherCache(teacher.to(device), data, [0, 2, 4, 6])
        work = tmp_path / device
        work.mkdir()
        settings = TrainingConfig(epochs=60, learning_rate=3e-3)
        history = distillation.distill_intermediate(
            copy.deepcopy(module), answers, data, settings, work, accelerator, progress=False
        )
        ends[device] = sum(history.records[-1]["losses"].values())
    assert ends["cuda"] == pytest.approx(ends["cpu"], rel=0.1)


def trained(
    folder, work, phase, steps_before_capture, monkeypatch, epochs=12.0, keep=2**30, batch_size=8,
    save_seconds=60.0, on_step=None,
):  # fmt: skip
    """Weights after a phase on the GPU, and how many graphs it recorded."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="no")
    monkeypatch.setattr(training, "BEFORE_CAPTURE", steps_before_capture)
    graphs = []
    make = torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(make()) or graphs[-1])
    teacher, tokenizer = loading.load_classifier(str(folder))
    teacher.to("cuda")
    data = tokenize(tokenizer, TEXTS, None, np.arange(len(TEXTS)) % 2)
    student = students.build_student(teacher.config, students.Preset(3, 24, 48), 0)
    work.mkdir(exist_ok=True)
    how = TrainingConfig(
        epochs, batch_size=batch_size, learning_rate=1e-3, save_seconds=save_seconds
    )
    rest = how, work, accelerator
    if phase == "intermediate":
        module = distillation.IntermediateLoss(
            student, students.Projection(24, 48, "paper", 0), [0, 2, 4, 6]
        )
        cache = teacher_cache.TeacherCache(teacher, data, [0, 2, 4, 6], keep_bytes=keep)
        distillation.distill_intermediate(module, cache, data, *rest, progress=False)
    elif phase == "prediction":
        distillation.distill_prediction(
            student, teacher, data, *rest, progress=False, on_step=on_step
        )
    else:
        student.config.hidden_dropout_prob = 0.1
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        distillation.finetune(student, data, *rest, progress=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    return {k: v.cpu() for k, v in student.state_dict().items()}, len(graphs)


def all_apart(weights: dict, expected: dict) -> float:
    """How far two models are apart; a key's bias, whose gradient is rounding, does not count."""
    names = [n for n in expected if not n.endswith("key.bias") and expected[n].is_floating_point()]
    return apart(*(torch.cat([side[n].flatten() for n in names]) for side in (weights, expected)))


@pytest.mark.parametrize(
    "phase, keep",
    [("intermediate", 2**30), ("intermediate", 0), ("prediction", 0), ("finetune", 0)],
)
def test_replayed_steps_end_at_the_weights_of_ordinary_ones(tmp_path, phase, keep, monkeypatch):
    folder = toy_teacher(tmp_path / "toy")
    ordinary, none = trained(folder, tmp_path / "a", phase, 10**9, monkeypatch, keep=keep)
    replayed, graphs = trained(folder, tmp_path / "b", phase, 2, monkeypatch, keep=keep)
    assert none == 0 and 1 <= graphs <= 4  # texts of 3 to 11 tokens are padded to 8 and 11
    assert all_apart(replayed, ordinary) < 1e-3


def test_a_phase_that_was_stopped_on_a_gpu_ends_at_the_weights_of_one_that_was_not(
    tmp_path, monkeypatch
):
    def stop(step: int, losses: dict) -> None:
        if step == 40:
            raise InterruptedError

    folder = toy_teacher(tmp_path / "toy")
    how = {"epochs": 16.0, "batch_size": 12, "save_seconds": 0.0}  # saved after step 20
    whole, _ = trained(folder, tmp_path / "a", "prediction", 2, monkeypatch, **how)
    with pytest.raises(InterruptedError):
        trained(folder, tmp_path / "b", "prediction", 2, monkeypatch, on_step=stop, **how)
    assert (tmp_path / "b" / "prediction.safetensors").is_file()
    ends, graphs = trained(folder, tmp_path / "b", "prediction", 2, monkeypatch, **how)
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "log.jsonl").open()]
    assert graphs >= 1 and 20 in steps and steps == sorted(set(steps)) and steps[-1] == 48
    assert all_apart(ends, whole) < 1e-3


def test_a_whole_run_on_a_gpu_leaves_a_student_that_a_cpu_loads(tmp_path):
    toy_teacher(tmp_path / "toy")
    toy_csv(tmp_path / "a.csv")
    options = DistillationConfig(
        train=str(tmp_path / "a.csv"), text="text", label="label", teacher=str(tmp_path / "toy"),
        student="lite", lora_rank=0, finetune_epochs=2, intermediate_epochs=2, prediction_epochs=2,
    )  # fmt: skip
    metrics = pipeline.run(options, tmp_path / "out", RuntimeConfig(progress=False))
    assert metrics["environment"]["gpu"] != "none"
    student, _ = loading.load_classifier(str(tmp_path / "out" / "model"))
    assert next(student.parameters()).device.type == "cpu"
