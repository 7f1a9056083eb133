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


def test_with_many_clips_no_temperature_has_a_clearly_lower_log_loss_than_the_fitted_one():
    for power in (0.2, 1.0, 5.0):
        predictions = scale(calibrated(2000), power)
        fitted = loss_of(scale(predictions, fit_temperature(predictions)))
        grid = [loss_of(scale(predictions, temperature)) for temperature in np.geomspace(0.05, 20, 400)]
        assert fitted <= min(grid) + 1e-4


def test_the_temperature_of_a_model_that_is_too_sure_is_recovered():
    exact = calibrated()
    assert fit_temperature(exact) == pytest.approx(1.0, abs=0.03)
    too_sure = with_logits(exact, 2 * np.log(exact.probabilities))
    temperature = fit_temperature(too_sure)
    assert temperature == pytest.approx(2.0, abs=0.06)
    np.testing.assert_allclose(scale(too_sure, 2.0).probabilities, exact.probabilities, atol=1e-9)


def test_a_model_that_is_always_right_on_dev_becomes_no_surer_than_so_many_clips_can_show():
    predictions = random_predictions()
    right = with_logits(predictions, 3.0 * np.eye(3)[predictions.labels])
    scaled = scale(right, fit_temperature(right))
    clips = int(right.scored.sum())
    np.testing.assert_allclose(scaled.probabilities.max(axis=1), (clips + 1) / (clips + 3), atol=1e-4)


def test_a_model_that_is_certain_keeps_finite_confidences():
    predictions = random_predictions()
    certain = dataclasses.replace(predictions, probabilities=np.eye(3)[predictions.labels])
    scaled = scale(certain, fit_temperature(certain)).probabilities
    assert np.isfinite(scaled).all()


def test_dev_without_a_scored_clip_gives_no_temperature():
    predictions = random_predictions()
    nothing = np.full((120, 3), np.nan)
    quarantined = dataclasses.replace(predictions, probabilities=nothing, predicted=most_probable_classes(nothing))
    assert fit_temperature(quarantined) is None
