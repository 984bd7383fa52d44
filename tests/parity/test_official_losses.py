"""Parity with the numbers of the paper authors' own implementation (official_losses.safetensors, README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from tinybert_lite.attention import capture
from tinybert_lite.losses import (
    attention_loss,
    attention_loss_gram,
    hidden_loss,
    soft_cross_entropy,
)
from tinybert_lite.mapping import layer_mapping

REFERENCE = Path(__file__).with_name("official_losses.safetensors")


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


class WithoutPadding:
    """Scores of real keys: the reference carries the mask (-10000) in its padded columns."""

    def __init__(self, mask):
        self.keep = mask[:, None, None, :].bool()

    def __call__(self, scores):
        return scores.masked_fill(~self.keep, 0.0)


def build(tensors, side, layers, width):
    config = BertConfig(
        vocab_size=199,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        max_position_embeddings=32,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    own = {k.removeprefix(f"{side}."): v for k, v in tensors.items() if k.startswith(f"{side}.")}
    fit_dense = {k: own.pop(k) for k in list(own) if k.startswith("fit_dense.")}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and all("position_ids" in k for k in missing)
    return model, fit_dense


@pytest.fixture(scope="module")
def reference():
    with safe_open(REFERENCE, "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    teacher, _ = build(tensors, "teacher", 6, 48)
    student, fit_dense = build(tensors, "student", 3, 24)
    projection = nn.Linear(24, 48)
    projection.load_state_dict({k.removeprefix("fit_dense."): v for k, v in fit_dense.items()})
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {k: tensors[k].long() for k in names}
    return tensors, teacher, student, projection, inputs


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_scores_equal_the_authors(reference, side):
    tensors, teacher, student, _, inputs = reference
    captured = capture(teacher if side == "teacher" else student, inputs)
    real = WithoutPadding(inputs["attention_mask"])
    assert len(captured.attention) == sum(k.startswith(f"{side}_scores.") for k in tensors)
    for i, scores in enumerate(captured.attention):
        assert relative_error(real(scores), real(tensors[f"{side}_scores.{i}"])) < 1e-5


@pytest.mark.parametrize("what", ["scores", "qk"])
def test_hidden_states_equal_the_authors_padding_included(reference, what):
    tensors, teacher, _, _, inputs = reference  # the file holds no student hidden states
    captured = capture(teacher, inputs, what)
    assert len(captured.hidden) == 7
    for i, hidden in enumerate(captured.hidden):
        assert relative_error(hidden, tensors[f"teacher_hidden.{i}"]) < 1e-5


def all_losses(reference, what):
    tensors, teacher, student, projection, inputs = reference
    mask = inputs["attention_mask"]
    with torch.no_grad():
        target = capture(teacher, inputs, what)
    ours = capture(student, inputs, what)
    mapping = layer_mapping(6, 3)
    loss = attention_loss if what == "scores" else attention_loss_gram
    attention = [
        loss(ours.attention[m - 1], target.attention[mapping[m] - 1], mask, "padded")
        for m in range(1, 4)
    ]
    hidden = [
        hidden_loss(ours.hidden[m], target.hidden[mapping[m]], projection, mask, "padded")
        for m in range(4)
    ]
    return torch.stack(attention), torch.stack(hidden)


@pytest.mark.parametrize("what", ["scores", "qk"])
def test_losses_equal_the_authors(reference, what):
    tensors = reference[0]
    attention, hidden = all_losses(reference, what)
    assert relative_error(attention, tensors["attention_losses"]) < 1e-5
    assert relative_error(hidden, tensors["hidden_losses"]) < 1e-5


@pytest.mark.parametrize("what", ["scores", "qk"])
def test_gradients_equal_the_authors(reference, what):
    tensors, _, student, projection, _ = reference
    student.zero_grad()
    projection.zero_grad()
    attention, hidden = all_losses(reference, what)
    (attention.sum() + hidden.sum()).backward()
    layer0 = student.bert.encoder.layer[0].attention.self
    ours = {
        "grad_projection_weight": projection.weight,
        "grad_student_layer0_query_weight": layer0.query.weight,
        "grad_student_word_embeddings": student.bert.embeddings.word_embeddings.weight,
    }
    assert ours.keys() == {name for name in tensors if name.startswith("grad_")}
    for name, parameter in ours.items():
        assert relative_error(parameter.grad, tensors[name]) < 1e-5, name


def test_soft_cross_entropy_equals_the_authors_times_classes(reference):
    tensors, teacher, student, _, inputs = reference
    theirs = tensors["soft_cross_entropy_t1.5_mean_over_batch_and_classes"]
    ours = soft_cross_entropy(tensors["student_logits"], tensors["teacher_logits"], 1.5)
    assert relative_error(ours / 3, theirs) < 1e-5


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_logits_equal_the_authors_with_their_relu_on_the_pooled_output(reference, side):
    tensors, teacher, student, _, inputs = reference
    model = teacher if side == "teacher" else student
    pooled = model.bert(**inputs).pooler_output
    assert relative_error(model.classifier(pooled.relu()), tensors[f"{side}_logits"]) < 1e-5
