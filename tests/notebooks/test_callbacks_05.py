"""The functions behind the widgets of notebook 05, called without a kernel."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from tests.notebooks.test_callbacks import functions_of


@pytest.fixture
def scope(root):
    matplotlib.use("agg")
    found = functions_of(root, "05_general_distillation.ipynb")
    table = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.9, 0.3], [-1.0, 0.0], [9.0, 0.0]])
    found["vocabulary"] = {"film": 0, "movie": 1, "actor": 2, "king": 3, "##s": 4}
    found["tables"] = {"teacher": table, "general": table[[0, 2, 1, 3, 4]]}
    yield found
    plt.close("all")


def test_the_nearest_words_come_by_cosine_and_neither_pieces_nor_the_word_itself(scope):
    near = scope["nearest"](scope["tables"]["teacher"], "film", scope["vocabulary"])
    assert near == ["movie", "actor", "king"]
    assert scope["nearest"](scope["tables"]["teacher"], "film", scope["vocabulary"], 1) == ["movie"]


def test_a_typed_word_is_looked_up_in_both_tables_whatever_its_case(scope, capsys):
    scope["show_nearest"]("Film")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["teacher", "movie,", "actor,", "king"]
    assert second.split() == ["general", "actor,", "movie,", "king"]


def test_a_word_of_several_pieces_is_said_to_be_one(scope, capsys):
    scope["show_nearest"]("cinematography")
    assert capsys.readouterr().out.count("is not a single token") == 2


@pytest.mark.parametrize("head", [1, 12])
def test_the_slider_draws_the_head_it_names_of_all_six(scope, head, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    normal = torch.Generator().manual_seed(0)
    names = ["teacher", "random", "random + slice", "SVD", "SVD + slice", "general"]
    scope["maps"] = {name: torch.randn(12, 3, 3, generator=normal) for name in names}
    scope["tokens"] = list("abc")
    scope["draw_heads"](head)
    axes = plt.gcf().axes[:6]  # the color bar comes last
    assert [ax.get_title() for ax in axes] == names
    for ax, scores in zip(axes, scope["maps"].values(), strict=True):
        drawn = torch.as_tensor(ax.images[0].get_array().data)
        assert torch.equal(drawn, scores[head - 1])
    assert f"Head {head}:" in plt.gcf()._suptitle.get_text()
