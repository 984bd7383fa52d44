"""Scores of several labels a text, macro F1, and the tables of single classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert_lite.data import metrics


def f1(predicted, true):
    """F1 by its definition: 2·TP / (2·TP + FP + FN), 0 where nothing is there to be found."""
    hits, wrong = (predicted & true).sum(), (predicted ^ true).sum()
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


draws = st.tuples(st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**31))


@settings(max_examples=60, deadline=None)
@given(draws)
def test_micro_and_macro_f1_of_several_labels_are_those_of_the_definitions(draw):
    names, rows, seed = draw
    random = np.random.default_rng(seed)
    predicted, true = random.random((2, rows, names)) < random.random((2, 1, names))
    found = metrics.scores(names, predicted.astype(float), true.astype(float))
    assert list(found) == ["micro_f1", "macro_f1"]
    assert found["micro_f1"] == pytest.approx(f1(predicted, true))
    each = [f1(predicted[:, i], true[:, i]) for i in range(names)]
    assert found["macro_f1"] == pytest.approx(np.mean(each))


@settings(max_examples=60, deadline=None)
@given(draws)
def test_the_confusion_matrix_and_the_class_table_are_counts_of_the_same_texts(draw):
    classes, rows, seed = draw
    random = np.random.default_rng(seed)
    predicted, true = random.integers(classes, size=(2, rows))
    matrix = np.array(metrics.confusion(classes, predicted, true))
    assert matrix.shape == (classes, classes) and matrix.sum() == rows
    table = metrics.class_scores([f"c{i}" for i in range(classes)], predicted, true)
    for i, row in enumerate(table.values()):
        assert row["texts"] == matrix[i].sum() == (true == i).sum()
        assert row["recall"] == pytest.approx(matrix[i, i] / max(1, matrix[i].sum()))
        assert row["precision"] == pytest.approx(matrix[i, i] / max(1, matrix[:, i].sum()))
        assert row["f1"] == pytest.approx(f1(predicted == i, true == i))
    found = metrics.scores(classes, predicted, true)
    assert found["accuracy"] == pytest.approx(np.trace(matrix) / rows)


def test_macro_f1_is_low_where_a_rare_class_is_never_found_and_accuracy_is_high():
    true = np.array([0] * 95 + [1] * 5)
    found = metrics.scores(2, np.zeros(100, int), true)
    assert found["accuracy"] == 0.95
    assert found["macro_f1"] == pytest.approx((2 * 95 / (2 * 95 + 5)) / 2)
    table = metrics.class_scores(["ok", "complaint"], np.zeros(100, int), true)
    assert table["complaint"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "texts": 5}


@settings(max_examples=30, deadline=None)
@given(draws)
def test_the_label_table_of_several_labels_is_that_of_each_label_alone(draw):
    names, rows, seed = draw
    predicted, true = np.random.default_rng(seed).integers(2, size=(2, rows, names))
    table = metrics.class_scores([f"l{i}" for i in range(names)], predicted, true)
    for i, row in enumerate(table.values()):
        alone = metrics.class_scores(["absent", "present"], predicted[:, i], true[:, i])
        assert row == pytest.approx(alone["present"])


def test_arrays_that_do_not_pair_are_refused():
    for predicted, true in ((np.ones((2, 3)), np.ones((3, 2))), (np.ones(3), np.ones((3, 1))),
                            (np.ones((1, 2, 2)), np.ones((1, 2, 2))), (np.ones((0, 3)),) * 2):  # fmt: skip
        with pytest.raises(ValueError, match="do not pair"):
            metrics.scores(3, predicted, true)
