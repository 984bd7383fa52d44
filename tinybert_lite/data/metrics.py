"""The numbers a task is scored by; scikit-learn and scipy do the counting."""

import warnings
from collections.abc import Sequence

import numpy as np


def scores(classes: int, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of a classification, or of a regression where `classes` is 0.

    `predictions` and `labels`: (rows,) class indices, or numbers, or (rows, labels) of 0 and 1
    where a text may have several labels. Accuracy, F1, macro F1, Matthews; micro and macro F1 of
    several labels per text; Pearson, Spearman, mean squared error (label units squared). `f1` is that
    of class 1 where there are two classes, else the mean over classes (macro). What is undefined
    for constant predictions (F1, both correlations, Matthews) is 0.
    Raises ValueError when lengths differ, nothing is given, or a number is not finite.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim not in (1, 2) or not len(labels):
        raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} do not pair")
    if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        raise ValueError("a prediction or label is not a finite number")
    if classes == 0:
        return _regression_scores(predictions.astype(float), labels.astype(float))
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if labels.ndim == 2:
        return {
            f"{average}_f1": float(f1_score(labels, predictions, average=average, zero_division=0))
            for average in ("micro", "macro")
        }
    average = "binary" if classes == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score(labels, predictions, average=average, zero_division=0)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predictions)),
    }


def class_scores(
    names: Sequence[str], predictions: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of texts of each class or label; what is undefined is 0.

    `predictions` and `labels` as in `scores`, of a classification or of several labels per text.
    """
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, predictions, labels=range(len(names)), zero_division=0
    )
    keys = ("precision", "recall", "f1", "texts")
    rows = ([*map(float, row[:3]), int(row[3])] for row in zip(*columns, strict=True))
    return {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def confusion(classes: int, predictions: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Number of texts by label (row) and predicted class (column), each (rows,) class indices."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predictions, labels=range(classes)).tolist()


def _regression_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    result = {"pearson": 0.0, "spearman": 0.0, "mse": float(np.mean((predictions - labels) ** 2))}
    if np.ptp(predictions) > 0 and np.ptp(labels) > 0:
        with warnings.catch_warnings():  # scipy warns where numbers are almost constant
            warnings.simplefilter("ignore")
            result["pearson"] = float(np.nan_to_num(pearsonr(predictions, labels).statistic))
            result["spearman"] = float(np.nan_to_num(spearmanr(predictions, labels).statistic))
    return result
