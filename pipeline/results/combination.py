"""Several seeds as one model: votes with equal weights, and with weights that are best on dev."""

from collections.abc import Sequence

import numpy as np

from pipeline.common.metrics import accuracy_interval, bootstrap_intervals
from pipeline.results.predictions import Predictions, with_probabilities
from pipeline.results.result_files import Combination
from pipeline.results.result_measures import defined

EM_STEPS = 500


def vote_of(seeds: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """The predictions by the weighted mean of the seeds' probabilities; the weights are equal by default.

    A clip that is quarantined for one seed is so for all.
    """
    mean = np.average([each.probabilities for each in seeds], axis=0, weights=weights)
    return with_probabilities(seeds[0], mean)


def weights_on_dev(dev: Sequence[Predictions]) -> list[float]:
    """The weights of the seeds, which add up to 1, whose mean of probabilities has the lowest log loss on dev.

    The problem is convex; expectation maximisation for the shares of a mixture finds the minimum.
    """
    scored, labels = dev[0].scored, dev[0].labels
    likelihoods = np.array([each.probabilities[scored, labels[scored]] for each in dev])  # (seeds, clips)
    likelihoods = np.clip(likelihoods, np.finfo(np.float64).tiny, None)
    weights = np.full(len(dev), 1 / len(dev))
    for _ in range(EM_STEPS):
        shares = weights[:, None] * likelihoods
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return [float(weight) for weight in weights]


def measure_combination(combined: Predictions, weights: Sequence[float]) -> Combination:
    """How accurate the combined model is."""
    right = combined.right
    intervals = bootstrap_intervals(lambda clips: {"accuracy": float(right[clips].mean())}, combined.source_ids)
    low, high = accuracy_interval(combined.accuracy, len(right))
    return Combination(
        accuracy=combined.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_sources_low=defined(intervals["accuracy"][0]),
        accuracy_sources_high=defined(intervals["accuracy"][1]),
        weights=[round(weight, 6) for weight in weights],
    )
