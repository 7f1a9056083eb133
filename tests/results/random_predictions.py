"""Predictions for the tests of measures."""

import numpy as np

from pipeline.clips.labels import CLASSES
from pipeline.common.metrics import NOT_SCORED
from pipeline.results.predictions import Predictions


def random_predictions(classes: tuple[str, ...] = CLASSES) -> Predictions:
    """120 clips of 12 sources, one of them quarantined; about two thirds are classified correctly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), 120)
    probabilities = rng.dirichlet(np.ones(len(classes)), 120) + 2.1 / len(classes) * np.eye(len(classes))[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    predicted[7], probabilities[7] = NOT_SCORED, np.nan
    sources = [str(source) for source in np.repeat(np.arange(12), 10)]
    return Predictions(classes, [f"{i}_1" for i in range(120)], sources, labels, predicted, probabilities)
