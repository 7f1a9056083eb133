import numpy as np
import pytest
from sklearn import metrics as sk

from pipeline.metrics import NOT_SCORED, accuracy, accuracy_interval, confusion_matrix, log_loss, per_class


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
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 3), sk.confusion_matrix(labels, predictions))


def test_a_clip_that_was_not_scored_counts_as_wrong():
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 1, 2, NOT_SCORED])
    assert accuracy(labels, predictions) == 0.75
    assert per_class(labels, predictions, 3)["recall"][2] == 0.5
    assert confusion_matrix(labels, predictions, 3).sum() == 3


def test_wilsons_interval():
    low, high = accuracy_interval(462, 766)  # by hand: z = 1.959964, p = .60313
    assert low == pytest.approx(0.56800, abs=1e-4)
    assert high == pytest.approx(0.63718, abs=1e-4)


def test_a_class_without_clips_or_predictions_gives_zero_not_nan():
    assert per_class(np.array([0, 0]), np.array([0, 0]), 3)["f1"].tolist() == [1.0, 0.0, 0.0]
