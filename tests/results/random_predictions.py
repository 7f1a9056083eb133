"""Predictions for the tests of measures."""

import numpy as np

from pipeline.clips.labels import CLASSES
from pipeline.results.predictions import Predictions, most_probable_classes


def random_predictions(classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Predictions:
    """120 clips of 12 sources, one of them quarantined; about two thirds are classified correctly.

    The clips and their labels are the same for each seed.
    """
    labels = np.random.default_rng(0).integers(0, len(classes), 120)
    probabilities = np.random.default_rng(1 + seed).dirichlet(np.ones(len(classes)), 120)
    probabilities += 2.1 / len(classes) * np.eye(len(classes))[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[7] = np.nan
    sources = [str(source) for source in np.repeat(np.arange(12), 10)]
    predicted = most_probable_classes(probabilities)
    return Predictions(classes, [f"{i}_1" for i in range(120)], sources, [None] * 120, labels, predicted, probabilities)


def several_seeds(count: int) -> list[Predictions]:
    """Those of some seeds, which differ."""
    return [random_predictions(seed=seed) for seed in range(count)]
