"""What is measured of predictions, and its intervals."""

import dataclasses

import numpy as np
import pytest
from random_predictions import random_predictions

from pipeline.clips.labels import CLASSES
from pipeline.common.metrics import NOT_SCORED
from pipeline.common.records import to_json
from pipeline.results.result_measures import measure, reliability_bins, source_accuracies


@pytest.fixture
def predictions():
    return random_predictions()


@pytest.mark.parametrize("classes", [CLASSES, ("anger", "disgust", "fear", "joy", "sadness", "surprise")])
def test_every_measure_lies_in_its_interval(classes):
    predictions = random_predictions(classes)
    measures, rows = measure([predictions])
    for record, names in (
        (measures, ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score")),
        *((row, ("precision", "recall", "f1")) for row in rows),
    ):
        for name in names:
            assert getattr(record, f"{name}_low") < getattr(record, name) < getattr(record, f"{name}_high"), name
    assert measures.accuracy_sources_low < measures.accuracy < measures.accuracy_sources_high
    assert [row.label for row in rows] == list(classes)
    assert sum(row.clips for row in rows) == measures.clips == 120


def test_a_quarantined_clip_is_counted_and_wrong(predictions):
    measures, _ = measure([predictions])
    assert (measures.clips, measures.scored) == (120, 119)
    assert measures.quarantined_share == pytest.approx(1 / 120)
    assert measures.accuracy == (predictions.predicted == predictions.labels).sum() / 120


def test_clips_of_a_source_that_are_right_or_wrong_together_widen_the_interval_over_sources(predictions):
    """Whole sources are right or wrong. The interval that takes clips as independent is then too narrow."""
    predicted = np.where(np.arange(120) < 70, predictions.labels, (predictions.labels + 1) % 3)
    measures, _ = measure([dataclasses.replace(predictions, predicted=predicted, probabilities=np.eye(3)[predicted])])
    wilson = measures.accuracy_high - measures.accuracy_low
    assert measures.accuracy_sources_high - measures.accuracy_sources_low > 2 * wilson


def test_undefined_values_are_none_and_not_nan(predictions):
    unscored = dataclasses.replace(
        predictions,
        source_ids=["1"] * 120,
        predicted=np.full(120, NOT_SCORED),
        probabilities=np.full((120, 3), np.nan),
    )
    measures, classes = measure([unscored])
    assert measures.accuracy == 0
    assert (measures.log_loss, measures.brier_score, measures.calibration_error, measures.macro_f1_low) == (None,) * 4
    assert reliability_bins([unscored]) == []
    assert "NaN" not in "".join(map(to_json, (measures, *classes)))


def test_the_bins_of_the_reliability_diagram_hold_every_scored_clip(predictions):
    bins = reliability_bins([predictions])
    assert sum(each.clips for each in bins) == 119
    right = sum(each.accuracy * each.clips for each in bins)
    assert right == pytest.approx((predictions.predicted == predictions.labels).sum())


def test_sources_are_listed_from_the_lowest_accuracy_to_the_highest(predictions):
    rows = source_accuracies([predictions])
    assert len(rows) == 12
    assert sum(row.clips for row in rows) == 120
    accuracies = [row.accuracy for row in rows]
    assert accuracies == sorted(accuracies)
    right = predictions.labels == predictions.predicted
    assert accuracies[0] == min(right.reshape(12, 10).mean(axis=1))
    assert np.average(accuracies, weights=[row.clips for row in rows]) == right.mean()
