"""Predictions for the tests of measures."""

import numpy as np

from pipeline.common.metrics import NOT_SCORED
from pipeline.results.predictions import Predictions


def random_predictions() -> Predictions:
    """120 clips of 12 sources, one of them quarantined; about two thirds are classified correctly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    probabilities = rng.dirichlet(np.ones(3), 120) + 0.7 * np.eye(3)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    predicted[7], probabilities[7] = NOT_SCORED, np.nan
    sources = [str(source) for source in np.repeat(np.arange(12), 10)]
    return Predictions([f"{i}_1" for i in range(120)], sources, labels, predicted, probabilities)
