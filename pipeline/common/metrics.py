"""Measures of predictions. The tests compare them with scikit-learn.

Classes are indices. A clip that was not scored (quarantined) has the prediction `NOT_SCORED`, which equals no class, so
it counts as wrong wherever clips are counted.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

NOT_SCORED = -1
CONFIDENCE = 0.95
RELIABILITY_BINS = 15  # as usual since Guo et al. 2017 (arXiv 1706.04599)
BOOTSTRAP_DRAWS = 2000


def accuracy(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Share of the clips whose prediction equals their label."""
    return float(np.mean(labels == predictions))


def accuracy_interval(share: float, clips: int) -> tuple[float, float]:
    """Wilson's 95% interval (low, high) of an accuracy, the `share` of clips that are right.

    It takes clips as independent. The share may be a mean over seeds, which is no whole number of clips.
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    centre = (share + z**2 / (2 * clips)) / (1 + z**2 / clips)
    half = z * math.sqrt(share * (1 - share) / clips + (z / (2 * clips)) ** 2) / (1 + z**2 / clips)
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Scored clips by label (row) and prediction (column): (classes, classes)."""
    matrix = np.zeros((classes, classes), np.int64)
    scored = predictions != NOT_SCORED
    np.add.at(matrix, (labels[scored], predictions[scored]), 1)
    return matrix


def per_class(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1, each (classes,).

    NaN where nothing can be said: the precision of a class that is never predicted, the recall of one without clips,
    the F1 of one with neither. Drawn sources often lack a class, and 0 would count it as wrong in every interval.
    """
    matrix = confusion_matrix(labels, predictions, classes)
    hits = np.diag(matrix).astype(float)
    labelled, predicted = np.bincount(labels, minlength=classes), matrix.sum(axis=0)
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, labelled),
        "f1": _ratio(2 * hits, labelled + predicted),
    }


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def log_loss(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean negative log-probability of the label, in nats. Every clip must have been scored."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).tiny, None)).mean())


def brier_score(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean squared distance of the probabilities from the label's (1, and 0 elsewhere): 0 to 2 (Brier 1950).

    Every clip must have been scored.
    """
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean())


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """`confidence`, `accuracy` (means) and `clips`, each (bins,), by the probability of the predicted class.

    The bins have equal width; those without clips are left out. Every clip must have been scored.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    clips = np.bincount(bins, minlength=RELIABILITY_BINS)
    sums = {
        "confidence": np.bincount(bins, confidence, RELIABILITY_BINS),
        "accuracy": np.bincount(bins, right, RELIABILITY_BINS),
    }
    filled = clips > 0
    return {name: values[filled] / clips[filled] for name, values in sums.items()} | {
        "clips": clips[filled].astype(float)
    }


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error: the mean over clips of |accuracy - confidence| of their bin.

    Chance alone makes it greater than 0, the more so the fewer clips there are, and drawing clips with replacement adds
    to that: a bootstrap interval lies too high, so none is given. Every clip must have been scored.
    """
    bins = reliability(labels, probabilities)
    return float(np.average(np.abs(bins["accuracy"] - bins["confidence"]), weights=bins["clips"]))


def bootstrap_intervals(
    measure: Callable[[NDArray[np.int64]], dict[str, float]], sources: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """95% percentile intervals (low, high) of the values that `measure` returns for an array of clip indices.

    Whole sources are drawn with replacement, because clips cut from one video are not independent. The draws have a
    fixed seed, so a result is the same each time. The bounds are NaN for a set with a single source.
    """
    names, source_numbers = np.unique(np.asarray(sources), return_inverse=True)
    clips_by_source = [np.flatnonzero(source_numbers == source) for source in range(len(names))]
    rng = np.random.default_rng(0)
    draws = [
        measure(np.concatenate([clips_by_source[source] for source in rng.integers(len(names), size=len(names))]))
        for _ in range(BOOTSTRAP_DRAWS if len(names) > 1 else 0)
    ]
    return {key: _interval(np.array([draw[key] for draw in draws])) for key in measure(np.arange(len(sources)))}


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> float:
    """p-value of McNemar's exact test that two runs are equally accurate on the same clips.

    Each argument says which clips that run classified correctly: (clips,).
    """
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds of the middle 95% of the values that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return np.nan, np.nan
    low, high = np.quantile(defined, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
