"""The functions behind the comparisons and the widget of notebook 09, driven without a kernel."""

import numpy as np
import pytest

from tests.notebooks.test_callbacks import functions_of

TEXTS = 600


@pytest.fixture
def scope(root, monkeypatch):
    """Made-up rows: "a" is right more often than "b"; "nano" and "d" have three seeds each."""
    found = functions_of(root, "09_what_mattered.ipynb")
    random = np.random.default_rng(0)
    ease = random.normal(1, 1, TEXTS)
    own = random.normal(0, 0.3, (3, TEXTS))
    right = {
        "a": (ease > 0)[None],
        "b": (ease + own[0] > 0.2)[None],
        "nano": ease + own > 0,
        "worse": (ease > 1)[None],
        "d": np.roll(ease + own > 0, 1, axis=0),  # the seeds of "nano" in another order
        "teacher": (ease > 0.1)[None],  # has no seeds
    }
    found |= {"TEXTS": TEXTS, "right": right, "recipe": lambda name: "nano"}
    found["runs"] = {name: {} for name in right if name != "teacher"}
    found["KINDS"] = {
        "accuracy": right,
        "fidelity": {name: r == right["teacher"] for name, r in right.items()},
    }
    found["luck"] = {"accuracy": (0.3, 8), "fidelity": (0.3, 8)}
    monkeypatch.setattr(found["plt"], "show", lambda: found["plt"].close("all"))
    yield found
    found["plt"].close("all")


def test_a_difference_lies_inside_its_interval(scope):
    c = scope["compare"]("a", "b", scope["right"])
    right = scope["right"]
    assert c.difference == pytest.approx(right["a"].mean() - right["b"].mean())
    assert c.low < c.difference < c.high


def test_the_same_texts_are_drawn_for_both_rows(scope):
    """√k of the texts that only one of them got right, not the error of two test sets."""
    c = scope["compare"]("a", "b", scope["right"])
    k = (scope["right"]["a"] != scope["right"]["b"]).sum()
    assert c.high - c.low == pytest.approx(2 * 1.96 * k**0.5 / TEXTS, rel=0.15)


def test_a_row_minus_itself_and_turned_around(scope):
    assert scope["compare"]("a", "a", scope["right"]).difference == 0
    there = scope["compare"]("nano", "b", scope["right"])
    back = scope["compare"]("b", "nano", scope["right"])
    assert there.difference == pytest.approx(-back.difference)


def test_rows_are_compared_over_the_seeds_that_both_have(scope):
    right, same_seeds = scope["right"], scope["same_seeds"]
    for a, b, seeds in (("nano", "a", 1), ("nano", "d", 3), ("nano", "teacher", 3)):
        ours, theirs = same_seeds(a, b, right)
        assert ours.shape == theirs.shape == (seeds, TEXTS)
        assert (ours == right[a][:seeds]).all()
    assert (same_seeds("nano", "teacher", right)[1] == right["teacher"]).all()
    assert same_seeds("teacher", "teacher", right)[0].shape == (1, TEXTS)


def test_single_seeds_have_no_scatter_between_seeds(scope):
    assert np.isnan(scope["seed_scatter"](["a", "b"], scope["right"])[0])


def test_seeds_that_only_flip_sentences_are_not_counted_twice(scope):
    """Independent flips scatter the seed means; all of that is explained, and little is left."""
    random, right = np.random.default_rng(1), scope["right"]
    scope["runs"] |= {f"flips {i}": {} for i in range(30)}
    for i in range(30):
        right[f"flips {i}"] = right["nano"] ^ (random.random((3, TEXTS)) < 0.1)
    names = [f"flips {i}" for i in range(30)]
    left, free = scope["seed_scatter"](names, right)
    gaps = [right["nano"].mean(1) - right[name].mean(1) for name in names]
    plain = 100 * np.mean([gap.var(ddof=1) for gap in gaps]) ** 0.5
    assert free == 60 and left < 0.6 * plain


def test_what_moves_a_whole_seed_is_found(scope):
    random, right = np.random.default_rng(1), scope["right"]
    right["shifted"] = right["nano"].copy()
    for seed, share in enumerate((0.0, 0.1, 0.2)):  # seed 2 loses a fifth of what was right
        right["shifted"][seed] &= random.random(TEXTS) >= share
    scope["runs"]["shifted"] = {}
    assert scope["seed_scatter"](["shifted"], right)[0] > 5


def test_the_bar_with_seeds_is_wider_and_shrinks_with_more_seeds(scope):
    one = scope["compare"]("a", "b", scope["right"])
    three = scope["compare"]("nano", "d", scope["right"])
    half = scope["half_width"]
    assert half(one, 0.9, 8) > 100 * (one.high - one.low) / 2
    added = [half(c, 0.9, 8) ** 2 - half(c, 0, 8) ** 2 for c in (one, three)]
    assert added[0] == pytest.approx(3 * added[1])


def test_the_widget_says_whether_a_difference_could_be_noise(scope, capsys):
    scope["show_pair"]("a", "worse")
    said = capsys.readouterr().out
    assert "accuracy" in said and "fidelity" in said and "beyond noise" in said
    scope["show_pair"]("nano", "d")
    said = capsys.readouterr().out
    assert "could be noise" in said and "seeds: 3" in said and "beyond noise" not in said


def test_the_widget_takes_an_unfinished_name_and_one_row_twice(scope, capsys):
    scope["show_pair"]("na", "d")
    assert "Pick two names" in capsys.readouterr().out
    scope["show_pair"]("nano", "nano")
    assert "same row" in capsys.readouterr().out


def test_the_picture_has_accuracy_and_fidelity_of_every_row(scope):
    scope["forest"](["a", "d"], "two rows")
    figure = scope["plt"].gcf()
    assert [ax.get_xlabel() for ax in figure.axes] == ["points of accuracy", "points of fidelity"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "d"]
