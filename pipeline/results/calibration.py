"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number, fitted on dev, that corrects confidences."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.common.metrics import log_loss
from pipeline.results.predictions import Predictions, with_probabilities

# A model that is right on every clip of dev would otherwise get temperature 0.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(predictions: Predictions) -> float | None:
    """The temperature with the lowest log loss on the scored clips; None without any."""
    scored = predictions.scored
    if not scored.any():
        return None
    labels, probabilities = predictions.labels[scored], predictions.probabilities[scored]
    optimum = minimize_scalar(
        lambda logarithm: log_loss(labels, _scaled(probabilities, float(np.exp(logarithm)))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    return float(np.exp(optimum.x))


def scale(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions as they are with logits divided by a temperature: the same classes, other confidences."""
    return with_probabilities(predictions, _scaled(predictions.probabilities, temperature))


def _scaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature), from softmax(logits): (clips, classes). NaN stays NaN."""
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, None)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
