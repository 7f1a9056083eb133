import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from pipeline.common.metrics import (
    NOT_SCORED,
    RELIABILITY_BINS,
    accuracy,
    accuracy_interval,
    bootstrap_intervals,
    brier_score,
    calibration_error,
    confusion_matrix,
    log_loss,
    mcnemar,
    per_class,
    reliability,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_measures_agree_with_scikit_learn(rng):
    labels, predictions = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    probabilities = rng.dirichlet(np.ones(3), 200)
    ours = per_class(labels, predictions, 3)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predictions)
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["f1"], f1)
    assert accuracy(labels, predictions) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert log_loss(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities))
    assert brier_score(labels, probabilities) == pytest.approx(sk.brier_score_loss(labels, probabilities))
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 3), sk.confusion_matrix(labels, predictions))


def test_a_clip_that_was_not_scored_counts_as_wrong():
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 1, 2, NOT_SCORED])
    assert accuracy(labels, predictions) == 0.75
    assert per_class(labels, predictions, 3)["recall"][2] == 0.5
    assert confusion_matrix(labels, predictions, 3).sum() == 3


def test_wilsons_interval():
    low, high = accuracy_interval(462 / 766, 766)  # by hand: z = 1.959964, p = .60313
    assert low == pytest.approx(0.56800, abs=1e-4)
    assert high == pytest.approx(0.63718, abs=1e-4)
    for right in (0, 1, 9, 18):
        expected = binomtest(right, 18).proportion_ci(0.95, method="wilson")
        assert accuracy_interval(right / 18, 18) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_over_seeds_is_not_that_of_a_whole_number_of_clips():
    """435.6 of 766, rounded to 436, would reproduce the paper's 60.37%."""
    assert accuracy_interval(435.6 / 766, 766)[1] < 0.6037 < accuracy_interval(436 / 766, 766)[1]


def test_what_cannot_be_said_of_a_class_is_nan_as_in_scikit_learn():
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 2, 0, 0])  # 1 is never predicted, 2 has no clip
    ours = per_class(labels, predictions, 4)  # 3 has neither
    expected = sk.precision_recall_fscore_support(labels, predictions, labels=range(4), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_array_equal(ours[name], values, name)
    assert np.isnan(ours["precision"]).tolist() == [False, True, False, True]
    assert np.isnan(ours["f1"]).tolist() == [False, False, False, True]


def test_reliability_agrees_with_scikit_learn(rng):
    labels, probabilities = rng.integers(0, 3, 500), rng.dirichlet(np.ones(3), 500)
    right, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    accuracies, confidences = calibration_curve(right, confidence, n_bins=RELIABILITY_BINS)
    bins = reliability(labels, probabilities)
    np.testing.assert_allclose(bins["accuracy"], accuracies)
    np.testing.assert_allclose(bins["confidence"], confidences)
    assert bins["clips"].sum() == 500


def test_the_calibration_error_is_the_mean_distance_from_the_diagonal():
    # Two clips at .9, one of them right: off by .4; two at .6, both right: off by .4.
    probabilities = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.6, 0.4, 0], [0.6, 0.4, 0]])
    assert calibration_error(np.array([0, 1, 0, 0]), probabilities) == pytest.approx(0.4)
    # With two more at .6, both wrong: off by .1 with four clips, by .4 with two.
    more = np.concatenate([probabilities, probabilities[2:]])
    assert calibration_error(np.array([0, 1, 0, 0, 1, 1]), more) == pytest.approx((4 * 0.1 + 2 * 0.4) / 6)
    certain = np.eye(3)[[0, 1, 2]]
    assert calibration_error(np.array([0, 1, 2]), certain) == 0


def test_the_interval_over_sources_is_that_of_the_mean_of_the_source_means(rng):
    """Twenty equal clips per source: only the sources count, and the mean of many sources is normally distributed."""
    source_means = rng.normal(0, 1, 200)
    values, sources = np.repeat(source_means, 20), np.repeat(np.arange(200).astype(str), 20)
    intervals = bootstrap_intervals(lambda clips: {"mean": values[clips].mean()}, sources)
    half = norm.ppf(0.975) * source_means.std() / 200**0.5
    assert intervals["mean"] == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert bootstrap_intervals(lambda clips: {"mean": values[clips].mean()}, sources) == intervals


def test_one_source_has_no_interval_and_undefined_values_are_left_out():
    assert np.isnan(bootstrap_intervals(lambda clips: {"mean": 1.0}, ["a", "a"])["mean"]).all()
    values = np.array([1.0, 2.0, np.nan, np.nan])
    low, high = bootstrap_intervals(lambda clips: {"mean": values[clips].mean()}, ["a", "a", "b", "b"])["mean"]
    assert (low, high) == (1.5, 1.5)


def test_mcnemars_exact_test():
    first = np.array([True] * 10 + [False] * 2 + [True] * 30)
    second = np.array([False] * 10 + [True] * 2 + [True] * 30)
    # By hand: 2 * (C(12, 0) + C(12, 1) + C(12, 2)) / 2^12, whatever the clips on which they agree.
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1
