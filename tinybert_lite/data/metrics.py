"""The numbers a task is scored by; scikit-learn and scipy do the counting."""

import warnings

import numpy as np


def scores(classes: int, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of a classification, or of a regression where `classes` is 0.

    `predictions` and `labels`: (rows,) class indices, or numbers. Accuracy, F1, Matthews; Pearson,
    Spearman, mean squared error (label units squared). `f1` is that of class 1 where there are two
    classes, else the mean over classes (macro). What is undefined for constant predictions (F1,
    both correlations, Matthews) is 0.
    Raises ValueError when lengths differ, nothing is given, or a number is not finite.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} do not pair")
    if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        raise ValueError("a prediction or label is not a finite number")
    if classes == 0:
        return _regression_scores(predictions.astype(float), labels.astype(float))
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    average = "binary" if classes == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score(labels, predictions, average=average, zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predictions)),
    }


def _regression_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    result = {"pearson": 0.0, "spearman": 0.0, "mse": float(np.mean((predictions - labels) ** 2))}
    if np.ptp(predictions) > 0 and np.ptp(labels) > 0:
        with warnings.catch_warnings():  # scipy warns where numbers are almost constant
            warnings.simplefilter("ignore")
            result["pearson"] = float(np.nan_to_num(pearsonr(predictions, labels).statistic))
            result["spearman"] = float(np.nan_to_num(spearmanr(predictions, labels).statistic))
    return result
