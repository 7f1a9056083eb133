"""Measures over predictions: small, exact, checked against scikit-learn in the tests.

Classes are indices in `CLASSES`. A clip that was not scored (quarantined) has the prediction `NOT_SCORED`, which equals
no class, so it counts as wrong wherever clips are counted (P14).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

NOT_SCORED = -1
CONFIDENCE = 0.95


def accuracy(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Share of the clips whose prediction is their label."""
    return float(np.mean(labels == predictions))


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of an accuracy of correct / total."""
    interval = binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Clips by (label, prediction): (classes, classes). Clips that were not scored are in no column."""
    matrix = np.zeros((classes, classes), np.int64)
    scored = predictions != NOT_SCORED
    np.add.at(matrix, (labels[scored], predictions[scored]), 1)
    return matrix


def per_class(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each class; 0 where a class has no clip or no prediction."""
    matrix = confusion_matrix(labels, predictions, classes)
    hits = np.diag(matrix).astype(float)
    of_label, of_prediction = np.bincount(labels, minlength=classes), matrix.sum(axis=0)
    return {
        "precision": _ratio(hits, of_prediction),
        "recall": _ratio(hits, of_label),
        "f1": _ratio(2 * hits, of_label + of_prediction),
    }


def log_loss(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean negative log-probability, in nats, of the label, over the clips that were scored."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).tiny, None)).mean())


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
