"""What is measured of predictions, and its intervals."""

import dataclasses

import numpy as np
import pytest
from random_predictions import random_predictions
from sklearn.metrics import f1_score

from pipeline.clips.labels import CLASSES
from pipeline.common.metrics import NOT_SCORED
from pipeline.common.records import to_json
from pipeline.results.predictions import Predictions
from pipeline.results.result_files import read_class_measures, write_class_measures
from pipeline.results.result_measures import measure, reliability_bins, source_accuracies, values_of


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


def of_labels(labels, predicted, sources):
    """Predictions of classes by their numbers, of which `CLASSES` names the first three."""
    probabilities = np.full((len(labels), 3), 0.01) + 0.97 * np.eye(3)[predicted]
    clips = [f"{number}_1" for number in range(len(labels))]
    labels, predicted = np.array(labels), np.array(predicted)
    return Predictions(CLASSES, clips, list(sources), [None] * len(labels), labels, predicted, probabilities)


def test_if_every_clip_is_right_no_interval_falls_below_one():
    """Some draws of the nine sources, each of one class, lack a class."""
    labels = np.repeat([0, 1, 2] * 3, 10)
    measures, classes = measure([of_labels(labels, labels, np.repeat(list("abcdefghi"), 10))])
    assert (measures.macro_f1_low, measures.balanced_accuracy_low) == (1, 1)
    for row in classes:
        assert (row.precision_low, row.recall_low, row.f1_low) == (1, 1, 1), row.label


def test_macro_f1_is_over_the_classes_that_occur_as_in_scikit_learn():
    for labels, predicted in (([0, 1] * 10, [0, 1] * 10), ([0, 1] * 10, [0, 2] * 10), ([0, 0, 1, 1], [0, 0, 0, 0])):
        values = values_of(of_labels(labels, predicted, ["a"] * len(labels)))
        assert values["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
        assert values["balanced_accuracy"] == np.mean([values[f"{CLASSES[k]}.recall"] for k in set(labels)])


def test_a_class_that_does_not_occur_has_empty_cells_and_is_read_back(tmp_path):
    measures, classes = measure([of_labels([0, 1] * 10, [0, 1] * 10, np.repeat(list("ab"), 10))])
    assert measures.macro_f1 == 1
    assert (classes[2].precision, classes[2].recall, classes[2].f1, classes[2].f1_low) == (None,) * 4
    write_class_measures(classes, tmp_path / "per_class.csv")
    assert read_class_measures(tmp_path) == classes
    assert "nan" not in (tmp_path / "per_class.csv").read_text()


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
