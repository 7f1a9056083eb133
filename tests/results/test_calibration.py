"""The temperature corrects confidences, and no prediction."""

import dataclasses

import numpy as np
import pytest
from random_predictions import random_predictions

from pipeline.common.metrics import NOT_SCORED, log_loss
from pipeline.results.calibration import HIGHEST, LOWEST, fit_temperature, scale
from pipeline.results.predictions import most_probable_classes


def loss_of(predictions):
    scored = predictions.scored
    return log_loss(predictions.labels[scored], predictions.probabilities[scored])


def with_logits(predictions, logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return dataclasses.replace(predictions, probabilities=probabilities, predicted=most_probable_classes(probabilities))


def calibrated(clips=20000):
    """Predictions whose labels are drawn from their own probabilities."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), clips)
    labels = (rng.random((clips, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    predictions = random_predictions()
    names = [str(number) for number in range(clips)]
    return dataclasses.replace(
        predictions,
        clip_ids=names,
        source_ids=names,
        folds=[None] * clips,
        labels=labels,
        probabilities=probabilities,
        predicted=most_probable_classes(probabilities),
    )


@pytest.mark.parametrize("temperature", [LOWEST, 0.3, 1.0, 4.0, HIGHEST])
def test_a_temperature_changes_no_prediction(temperature):
    predictions = random_predictions()
    scaled = scale(predictions, temperature)
    np.testing.assert_array_equal(scaled.predicted, predictions.predicted)
    assert scaled.predicted[7] == NOT_SCORED
    np.testing.assert_allclose(scaled.probabilities[scaled.scored].sum(axis=1), 1.0)


def test_the_fitted_temperature_has_the_lowest_log_loss_of_all():
    for power in (0.2, 1.0, 5.0):
        predictions = scale(random_predictions(), power)
        lowest = loss_of(scale(predictions, fit_temperature(predictions)))
        grid = [loss_of(scale(predictions, temperature)) for temperature in np.geomspace(0.05, 20, 400)]
        assert lowest <= min(grid) + 1e-6


def test_the_temperature_of_a_model_that_is_too_sure_is_recovered():
    exact = calibrated()
    assert fit_temperature(exact) == pytest.approx(1.0, abs=0.03)
    too_sure = with_logits(exact, 2 * np.log(exact.probabilities))
    temperature = fit_temperature(too_sure)
    assert temperature == pytest.approx(2.0, abs=0.06)
    np.testing.assert_allclose(scale(too_sure, 2.0).probabilities, exact.probabilities, atol=1e-9)


def test_a_model_that_is_always_right_on_dev_keeps_finite_confidences():
    predictions = random_predictions()
    right = with_logits(predictions, 3.0 * np.eye(3)[predictions.labels])
    temperature = fit_temperature(right)
    assert LOWEST <= temperature < 1
    assert np.isfinite(scale(right, temperature).probabilities).all()
    certain = dataclasses.replace(right, probabilities=np.eye(3)[right.labels])
    assert np.isfinite(scale(certain, fit_temperature(certain)).probabilities).all()


def test_dev_without_a_scored_clip_gives_no_temperature():
    predictions = random_predictions()
    nothing = np.full((120, 3), np.nan)
    quarantined = dataclasses.replace(predictions, probabilities=nothing, predicted=most_probable_classes(nothing))
    assert fit_temperature(quarantined) is None
