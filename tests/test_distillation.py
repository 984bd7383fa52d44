"""The intermediate loss with relation heads, on toy models."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.toys import toy_teacher
from tinybert_lite import UserError, teacher_cache
from tinybert_lite.data import tokenized
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.distillation import IntermediateLoss, distill_intermediate
from tinybert_lite.models.loading import load_classifier
from tinybert_lite.students import Preset, Projection, build_student, student_preset
from tinybert_lite.teacher_cache import TeacherCache
from tinybert_lite.training import TrainingConfig

MAPPING = [0, 2, 4, 6]
TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"] * 8
LONG = ["the book was bad and the play was poor " * 6, "fine"]  # beyond d_k of both sides


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A teacher of 6 layers, width 48 and 12 heads, and its tokenizer."""
    return load_classifier(str(toy_teacher(tmp_path_factory.mktemp("toy") / "toy")))


def module_of(teacher, preset, **options):
    student = build_student(teacher.config, preset)
    projection = Projection(preset.width, teacher.config.hidden_size)
    return IntermediateLoss(student, projection, MAPPING, **options)


def losses_of(toy, module, texts=TEXTS, what="auto"):
    teacher, tokenizer = toy
    data = tokenize(tokenizer, texts, max_length=64)
    cache, rows = TeacherCache(teacher, data, MAPPING, what), np.arange(len(texts))
    inputs = data.batch(rows)
    return module.eval()(inputs, *cache(rows, inputs))


@pytest.mark.parametrize("keep", [0, 2**30])
def test_padding_as_on_a_gpu_changes_no_loss(toy, keep, monkeypatch):
    teacher, tokenizer = toy
    data = tokenize(tokenizer, TEXTS)
    module, found = module_of(teacher, Preset(3, 24, 48)).eval(), []
    for multiple in (1, 8):
        monkeypatch.setattr(tokenized, "padded_to", lambda device, to=multiple: to)
        monkeypatch.setattr(teacher_cache, "padded_to", lambda device, to=multiple: to)
        cache, rows = TeacherCache(teacher, data, MAPPING, "qk", keep), np.array([0, 2, 3])
        inputs = data.batch(rows)
        found.append((inputs["input_ids"].shape[1], module(inputs, *cache(rows, inputs))))
    (tokens, plain), (more, padded) = found
    assert tokens < more == 8
    for name, loss in plain.items():
        assert padded[name].item() == pytest.approx(loss.item(), rel=1e-5), name


def train(toy, module, folder, epochs=20.0):
    teacher, tokenizer = toy
    data = tokenize(tokenizer, TEXTS)
    settings = TrainingConfig(epochs=epochs, batch_size=8, learning_rate=3e-3)
    cache = TeacherCache(teacher, data, MAPPING, keep_bytes=2**30)
    return distill_intermediate(
        module, cache, data, settings, folder, Accelerator(cpu=True), progress=False
    )


@pytest.mark.parametrize("what", ["qk", "scores"])
def test_as_many_relation_heads_as_both_have_are_equation_7_to_the_last_bit(toy, what):
    plain = losses_of(toy, module_of(toy[0], Preset(3, 24, 48)), what=what)
    split = losses_of(toy, module_of(toy[0], Preset(3, 24, 48), relation_heads=12), what=what)
    assert plain.keys() == split.keys()
    assert all(torch.equal(plain[key], split[key]) for key in plain)


def test_a_student_of_4_heads_learns_from_a_teacher_of_12(toy, tmp_path):
    narrow = module_of(toy[0], Preset(3, 20, 40, heads=4))
    assert narrow.split(12) == 4  # 12 does not divide its width
    module = module_of(toy[0], Preset(3, 24, 48, heads=4))
    assert module.student.config.num_attention_heads == 4 and module.split(12) == 12
    history = train(toy, module, tmp_path)
    first, last = (history.records[i]["losses"] for i in (0, -1))
    assert sum(first.values()) > sum(last.values())
    assert all(last[f"attention.{m}"] < first[f"attention.{m}"] for m in (1, 2, 3))


def test_short_texts_are_compared_by_scores_and_long_ones_by_the_gram_form_alike(toy, monkeypatch):
    for texts in (TEXTS, LONG):
        values = []
        for form in ("scores", "qk"):
            monkeypatch.setattr("tinybert_lite.distillation.attention_form", lambda *_, f=form: f)
            module = module_of(toy[0], Preset(3, 24, 48), relation_heads=2)
            values.append(torch.stack(list(losses_of(toy, module, texts, "qk").values())))
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)


def test_relation_heads_need_queries_and_keys(toy):
    module = module_of(toy[0], Preset(3, 24, 48), relation_heads=4)
    with pytest.raises(ValueError, match="need queries and keys"):
        losses_of(toy, module, what="scores")


def test_relation_heads_that_do_not_divide_both_widths_are_refused_before_training(toy, tmp_path):
    with pytest.raises(UserError, match="16 relation heads do not divide the width 24"):
        train(toy, module_of(toy[0], Preset(3, 24, 48), relation_heads=16), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_preset_is_named_or_given_by_its_size():
    assert student_preset("nano") == Preset(3, 84, 336)
    assert student_preset("3x128", heads=4) == Preset(3, 128, 512, 4)
    assert student_preset("lite", heads=6).heads == 6
    for name in ("tiny", "3x", "0x128", "3x128x2", "-3x128"):
        with pytest.raises(UserError, match="layers and width, such as 3x128"):
            student_preset(name)


def test_heads_that_do_not_divide_the_width_are_refused(toy):
    with pytest.raises(UserError, match="of width 24 cannot have 5 heads; choose width 20 or 25"):
        build_student(toy[0].config, Preset(3, 24, 48, heads=5))
