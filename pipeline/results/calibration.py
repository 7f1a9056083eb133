"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number, fitted on dev, that corrects confidences.

Dev is small, and a model may be right on all of it. The temperature with the lowest log loss would then be 0: every
confidence 1. So the labels are smoothed, for the reason that Platt (1999) gives: of n clips and K classes, the true
class of each has the probability (n + 1) / (n + K), as if each class had been seen once more. (Platt counts the clips
of each class.)
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.results.predictions import Predictions, with_probabilities

LOWEST, HIGHEST = 0.05, 20.0  # bounds of the search


def fit_temperature(predictions: Predictions) -> float | None:
    """The temperature with the lowest cross-entropy with the smoothed labels of the scored clips; None without any."""
    scored = predictions.scored
    if not scored.any():
        return None
    probabilities = predictions.probabilities[scored]
    targets = _smoothed(predictions.labels[scored], probabilities.shape[1])
    optimum = minimize_scalar(
        lambda logarithm: -(targets * _log_scaled(probabilities, float(np.exp(logarithm)))).sum(),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    return float(np.exp(optimum.x))


def scale(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions as they are with logits divided by a temperature: the same classes, other confidences."""
    return with_probabilities(predictions, np.exp(_log_scaled(predictions.probabilities, temperature)))


def _smoothed(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Labels as probabilities of the classes, as if each class had been seen once more: (clips, classes)."""
    return (np.eye(classes)[labels] * len(labels) + 1) / (len(labels) + classes)


def _log_scaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """log softmax(logits / temperature), from softmax(logits): (clips, classes). NaN stays NaN."""
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, None)) / temperature
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
