"""The functions behind the widget and the pictures of notebook 04, driven without a kernel."""

import math

import pytest
import torch

from tests.notebooks.test_callbacks import functions_of


@pytest.fixture
def scope(root):
    return functions_of(root, "04_soft_labels.ipynb")


LOGITS = torch.tensor([2.0, 1.0, 0.0, -3.0])


def test_at_temperature_one_the_slider_shows_the_softmax(scope):
    p, nats = scope["soften"](LOGITS, 1.0)
    assert torch.allclose(p, LOGITS.softmax(-1))
    assert nats == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 4.0, 100.0])
def test_no_temperature_changes_the_order_of_the_classes_or_their_sum(scope, temperature):
    p, _ = scope["soften"](LOGITS, temperature)
    assert p.sum().item() == pytest.approx(1, rel=1e-5)
    assert p.argsort(descending=True).tolist() == [0, 1, 2, 3]


def test_the_entropy_rises_with_the_temperature_up_to_that_of_an_even_label(scope):
    nats = [scope["soften"](LOGITS, t)[1] for t in (0.1, 0.5, 1.0, 4.0, 100.0)]
    assert nats == sorted(nats)
    assert nats[0] == pytest.approx(0, abs=0.01)
    assert nats[-1] == pytest.approx(math.log(4), abs=0.01)


def test_the_coldest_end_of_the_slider_gives_a_number(scope):
    p, nats = scope["soften"](50 * LOGITS, 0.1)
    assert p.tolist() == [1, 0, 0, 0]
    assert nats == pytest.approx(0, abs=1e-6)


def test_a_reliability_diagram_finds_overconfidence(scope):
    confident = torch.tensor([[0.9, 0.1]] * 10)
    labels = torch.tensor([0] * 5 + [1] * 5)
    confidence, share, weight, gap = scope["reliability"](confident, labels)
    (place,) = weight.nonzero()[:, 0].tolist()
    assert confidence[place].item() == pytest.approx(0.9)
    assert share[place].item() == pytest.approx(0.5)
    assert gap == pytest.approx(0.4)


def test_a_model_right_as_often_as_it_says_has_no_gap_also_when_it_is_certain(scope):
    p = torch.tensor([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 2)
    gold = torch.tensor([0, 0, 0, 1, 0, 0])
    assert scope["reliability"](p, gold)[3] == pytest.approx(0, abs=1e-6)
