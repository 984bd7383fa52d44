"""The functions behind the widgets of notebook 07, taken from it and driven without a kernel."""

import pytest
import torch

from tests.notebooks.test_callbacks import functions_of


@pytest.fixture
def scope(root):
    return functions_of(root, "07_task_distillation.ipynb")


@pytest.fixture
def film(scope):
    """Frames of 3 layers and 12 heads at two steps, and the teacher's maps."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 12, 5, 5, generator=generator) for _ in range(3)]
    scope |= {"frames": {0: maps[0], 80: maps[1]}, "goal": maps[2]}
    return scope


@pytest.mark.parametrize("step", [0, 80])
@pytest.mark.parametrize(("layer", "number"), [(1, 1), (1, 12), (3, 1), (3, 12)])
def test_step_layer_and_head_pick_the_maps(film, step, layer, number):
    ours, theirs, loss = film["head_at"](step, layer, number)
    assert torch.equal(ours, film["frames"][step][layer - 1, number - 1])
    assert torch.equal(theirs, film["goal"][layer - 1, number - 1])
    assert loss == pytest.approx((ours - theirs).square().mean().item())


def test_a_head_equal_to_its_teacher_has_no_loss(film):
    film["frames"][90] = film["goal"].clone()
    assert film["head_at"](90, 2, 7)[2] == 0


def test_a_step_that_was_not_recorded_is_no_frame(film):
    with pytest.raises(KeyError):
        film["head_at"](85, 1, 1)


@pytest.fixture
def recorded(scope):
    """Two terms of a healthy run, and of one that ends twice and half as high."""
    first, last = {"embedding": 0.4, "attention.1": 6.0}, {"embedding": 0.2, "attention.1": 3.0}
    healthy = [first] * 10 + [last] * 10  # an entry for each update
    odd = [first] * 10 + [{"embedding": 0.4, "attention.1": 1.5}] * 10
    scope["curves"] = {"healthy": healthy, "odd": odd}
    return scope["beside"]


def test_a_mistake_is_shown_as_a_multiple_of_the_healthy_end(recorded):
    assert recorded("odd") == {"embedding": pytest.approx(2), "attention.1": pytest.approx(0.5)}


def test_the_healthy_run_beside_itself_is_one_everywhere(recorded):
    assert set(recorded("healthy").values()) == {1.0}
