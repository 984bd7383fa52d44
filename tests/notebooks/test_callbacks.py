"""The plain functions behind the widgets, taken from the notebooks and driven without a kernel.

A notebook tags its import cell "imports" and the cells of such functions "callback".
"""

import json

import numpy as np
import pytest
import torch

from tinybert_lite import UserError


def functions_of(root, notebook: str) -> dict:
    """What the tagged cells of a notebook define."""
    cells = json.loads((root / "notebooks" / notebook).read_text(encoding="utf-8"))["cells"]
    scope = {}
    for tag in ("imports", "callback"):
        found = [c for c in cells if tag in c["metadata"].get("tags", [])]
        assert found, f"no cell of {notebook} is tagged {tag}"
        for cell in found:
            exec("".join(cell["source"]), scope)  # our own notebook's text
    return scope


@pytest.fixture
def head_view(root):
    """`view` of notebook 02 on a sentence of 3 tokens padded to 5."""
    scope = functions_of(root, "02_attention_maps.ipynb")
    normal = torch.Generator().manual_seed(0)
    draw = [torch.randn(3, 12, 5, 5, generator=normal) for _ in range(3)]
    scope |= {"PLACES": 5, "tokens": list("abc"), "teacher_maps": draw[0]}
    scope["frames"] = {0: draw[1], 10: draw[2]}
    return scope["view"], scope


def test_the_step_slider_layer_and_head_pick_the_map(head_view):
    view, scope = head_view
    for step in (0, 10):
        for layer in (1, 3):
            ours, theirs, loss = view("scores", False, step, layer, 12)
            assert torch.equal(ours, scope["frames"][step][layer - 1, 11])
            assert torch.equal(theirs, scope["teacher_maps"][layer - 1, 11])
            assert loss == pytest.approx((ours - theirs).square().mean().item())


def test_with_the_mask_on_the_loss_counts_real_tokens_only(head_view):
    view, scope = head_view
    ours, theirs, loss = view("scores", True, 0, 1, 1)
    assert ours.isnan().sum() == theirs.isnan().sum() == 25 - 9
    real = (scope["frames"][0] - scope["teacher_maps"])[0, 0, :3, :3]
    assert loss == pytest.approx(real.square().mean().item())


def test_masked_keys_have_no_probability_and_unmasked_ones_do(head_view):
    view, _ = head_view
    masked = view("probabilities", True, 10, 2, 5)[0]
    assert torch.allclose(masked[:3, :3].sum(-1), torch.ones(3))
    unmasked = view("probabilities", False, 10, 2, 5)[0]
    assert torch.allclose(unmasked.sum(-1), torch.ones(5))
    assert (unmasked[:3, :3].sum(-1) < 1).all()


@pytest.fixture
def edited(root):
    """`edited` of notebook 03 on outputs that are the less alike the further apart."""
    scope = functions_of(root, "03_hidden_states.ipynb")
    n = np.arange(7)
    scope["alike"] = 1 - np.abs(n[:, None] - n) / 10
    return scope["edited"]


@pytest.mark.parametrize(
    ("layers", "bridges"),
    [((2, 4, 6), [0.2, 0.2, 0.2]), ((4, 5, 6), [0.4, 0.1, 0.1]), ((6, 1, 1), [0.6, 0.5, 0.0])],
)
def test_the_mapping_editor_says_how_far_each_layer_has_to_go(edited, layers, bridges):
    mapping, found = edited(*layers)
    assert mapping == [0, *layers]
    assert found == pytest.approx(bridges)


def test_the_mapping_editor_refuses_a_layer_that_does_not_exist(edited):
    with pytest.raises(UserError, match="no layer 7"):
        edited(2, 4, 7)
