"""The functions behind the comparisons and the widget of notebook 09, driven without a kernel."""

import numpy as np
import pytest

from tests.notebooks.test_callbacks import functions_of

TEXTS = 600


@pytest.fixture
def scope(root, monkeypatch):
    """Made-up rows: "a" is right oftener than "b" on the same texts; "c" is "a" with three seeds."""
    found = functions_of(root, "09_what_mattered.ipynb")
    random = np.random.default_rng(0)
    ease = random.normal(1, 1, TEXTS)
    own = random.normal(0, 0.3, (3, TEXTS))
    found["TEXTS"] = TEXTS
    found["right"] = {
        "a": (ease > 0)[None],
        "b": (ease + own[0] > 0.2)[None],
        "c": ease + own > 0,
        "worse": (ease > 1)[None],
        "d": np.roll(ease + own > 0, 1, axis=0),  # the seeds of "c" in another order
        "fixed": (ease > 0.1)[None],  # no student: has no seed of its own
    }
    found["rows"] = {name: {"student": "nano"} for name in found["right"] if name != "fixed"}
    monkeypatch.setattr(found["plt"], "show", lambda: found["plt"].close("all"))
    return found


def test_a_difference_is_in_points_and_lies_inside_its_interval(scope):
    gap, low, high, draws = scope["difference"]("a", "b")
    right = scope["right"]
    assert gap == pytest.approx(100 * (right["a"].mean() - right["b"].mean()))
    assert low < gap < high and len(draws) == 5000
    assert draws.mean() == pytest.approx(gap, abs=0.2)


def test_the_same_texts_are_drawn_for_both_rows(scope):
    """√k of the texts that only one of them got right, not the error of two test sets."""
    _, low, high, _ = scope["difference"]("a", "b")
    right = scope["right"]
    k = (right["a"] != right["b"]).sum()
    assert high - low == pytest.approx(2 * 1.96 * 100 * k**0.5 / TEXTS, rel=0.15)


def test_a_row_minus_itself_and_turned_around(scope):
    assert scope["difference"]("a", "a")[:3] == (0, 0, 0)
    there, back = scope["difference"]("c", "b"), scope["difference"]("b", "c")
    assert there[0] == pytest.approx(-back[0])
    assert there[1] == pytest.approx(-back[2], abs=1e-9)


def test_rows_are_compared_over_the_seeds_that_both_have(scope):
    right = scope["right"]
    gap, low, high, _ = scope["difference"]("c", "worse")
    assert low <= gap <= high and low > 0
    assert gap == pytest.approx(100 * (right["c"][0].mean() - right["worse"].mean()))
    gap = scope["difference"]("c", "fixed")[0]
    assert gap == pytest.approx(100 * (right["c"].mean() - right["fixed"].mean()))
    assert [scope["in_common"]("c", x) for x in ("a", "d", "fixed")] == [1, 3, 3]


def test_single_seeds_have_no_scatter_and_three_have_theirs(scope):
    value, free = scope["seed_scatter"](["a", "b", "worse"])
    assert np.isnan(value) and free == 0
    value, free = scope["seed_scatter"](["a", "c"])
    assert free == 2
    assert value == pytest.approx(100 * scope["right"]["c"].mean(1).std(ddof=1))


def test_the_bar_with_seeds_is_wider_and_shrinks_with_more_seeds(scope):
    _, low, high, draws = scope["difference"]("a", "b")
    one = scope["half_width"]("a", "b", draws, 0.9, 8)
    three = scope["half_width"]("c", "d", draws, 0.9, 8)
    assert one > three > (high - low) / 2
    assert np.isnan(scope["half_width"]("a", "b", draws, float("nan"), 0))


def test_the_widget_says_whether_nothing_could_explain_the_difference(scope, capsys):
    scope["show_pair"]("a", "worse")
    said = capsys.readouterr().out
    assert "0 lies outside" in said and "seeds used: 1;" in said
    scope["show_pair"]("c", "c")
    assert "twice the same row" in capsys.readouterr().out


def test_the_widget_counts_nothing_as_clear_that_is_not(scope, capsys):
    scope["show_pair"]("c", "d")
    said = capsys.readouterr().out
    assert "0 lies inside" in said and "seeds used: 3;" in said
