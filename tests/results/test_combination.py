"""Several seeds as one model: votes, and weights that are chosen on dev alone."""

import dataclasses

import numpy as np
import pytest
from random_predictions import random_predictions, several_seeds
from scipy.optimize import minimize

from pipeline.common.metrics import NOT_SCORED
from pipeline.results.combination import measure_combination, vote_of, weights_on_dev


def mixture_loss(weights, likelihoods):
    """The log loss of a mean of probabilities with some weights; `likelihoods` are (seeds, clips)."""
    return -np.log(np.asarray(weights) @ likelihoods).mean()


def test_a_vote_takes_the_class_with_the_highest_weighted_mean_probability():
    seeds, weights = several_seeds(3), [0.7, 0.1, 0.2]
    for given, expected in ((None, [1 / 3] * 3), (weights, weights)):
        voted = vote_of(seeds, given)
        mean = sum(weight * each.probabilities for weight, each in zip(expected, seeds, strict=True))
        np.testing.assert_allclose(voted.probabilities, mean)
        scored = seeds[0].scored
        np.testing.assert_array_equal(voted.predicted[scored], mean[scored].argmax(axis=1))


@pytest.mark.parametrize("weights", [None, [1.0, 0.0]])
def test_a_clip_that_was_quarantined_stays_wrong_in_a_vote(weights):
    voted = vote_of(several_seeds(2), weights)
    assert voted.predicted[7] == NOT_SCORED
    assert not voted.right[7]
    assert voted.scored.sum() == 119


@pytest.mark.parametrize("case", range(12))
def test_the_weights_have_the_lowest_log_loss_on_dev(case):
    rng = np.random.default_rng(case)
    count = int(rng.integers(2, 6))
    dev = [random_predictions(seed=int(number)) for number in rng.choice(1000, count, replace=False)]
    worse = dev[0].probabilities ** rng.uniform(0.2, 6.0)  # a seed that is too sure or not sure enough
    dev[0] = dataclasses.replace(dev[0], probabilities=worse / worse.sum(axis=1, keepdims=True))
    scored = dev[0].scored
    likelihoods = np.array([each.probabilities[scored, each.labels[scored]] for each in dev])
    optimum = minimize(
        mixture_loss,
        np.full(count, 1 / count),
        args=(likelihoods,),
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = weights_on_dev(dev)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert mixture_loss(weights, likelihoods) <= optimum.fun + 1e-4


def test_a_seed_that_is_always_less_sure_of_the_label_gets_no_weight():
    good = random_predictions()
    bad = dataclasses.replace(good, probabilities=np.full((120, 3), np.where(good.scored, 0.01, np.nan)[:, None]))
    assert weights_on_dev([good, bad]) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_a_label_that_no_seed_finds_possible_leaves_the_weights_finite():
    impossible = [
        dataclasses.replace(each, probabilities=np.where(np.eye(3)[each.labels] > 0, 0.0, each.probabilities))
        for each in several_seeds(2)
    ]
    assert weights_on_dev(impossible) == pytest.approx([0.5, 0.5])


def test_the_accuracy_of_a_vote_counts_quarantined_clips_as_wrong_and_has_both_intervals():
    voted = vote_of(several_seeds(3))
    combination = measure_combination(voted, [0.2, 0.3, 0.5])
    assert combination.accuracy == voted.right.sum() / 120
    assert combination.accuracy_low < combination.accuracy < combination.accuracy_high
    assert combination.accuracy_sources_low < combination.accuracy < combination.accuracy_sources_high
    assert combination.weights == [0.2, 0.3, 0.5]
