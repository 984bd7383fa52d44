"""The functions behind the widget of notebook 01, driven without a kernel."""

import pytest
import torch

from tests.notebooks.test_callbacks import functions_of


@pytest.fixture
def scope(root):
    return functions_of(root, "01_the_teacher.ipynb")


@pytest.fixture
def maps():
    """Even shares in 2 layers of 3 heads over 8 tokens, with four heads that have a habit."""
    maps = torch.full((2, 3, 8, 8), 1 / 8)
    eye = torch.eye(8)
    maps[0, 0] = eye
    maps[0, 1] = torch.cat([eye[:1], eye[:-1]])  # the previous token
    maps[1, 0] = torch.cat([eye[1:], eye[-1:]])  # the next token
    maps[1, 2] = 0.0
    maps[1, 2, :, 0] = 1.0  # [CLS]
    return maps


def test_each_habit_is_measured_as_the_share_it_is(scope, maps):
    found = scope["measure"](maps)
    assert found["itself"][0, 0] == found["previous token"][0, 1] == found["next token"][1, 0] == 1
    assert found["[CLS]"][1, 2] == 1
    assert found["[SEP]"][0, 2] == pytest.approx(1 / 8)


def test_entropy_is_nothing_for_a_sharp_head_and_three_bits_for_eight_even_shares(scope, maps):
    bits = scope["measure"](maps)["entropy"]
    assert bits[0, 0] == pytest.approx(0, abs=1e-5)
    assert bits[1, 1] == pytest.approx(3)


@pytest.mark.parametrize(
    ("layer", "head", "says"),
    [
        (1, 1, "most on itself: 100%"),
        (1, 2, "most on previous token: 100%"),
        (2, 1, "most on next token: 100%"),
        (2, 3, "most on [CLS]: 100%"),
        (2, 2, "no single target; as broad as 8.0 tokens"),
    ],
)
def test_layer_and_head_pick_the_map_and_its_line(scope, maps, layer, head, says):
    one, line = scope["describe"](maps, layer, head)
    assert torch.equal(one, maps[layer - 1, head - 1])
    assert line.startswith(f"head {layer}·{head}: ")
    assert says in line
