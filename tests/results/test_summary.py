"""The result of several seeds: means, deviations, votes and what is chosen on dev."""

import dataclasses
import statistics

import numpy as np
import pytest
from random_predictions import random_predictions, several_seeds

from pipeline.common import metrics as metrics_module
from pipeline.common.config import RunId
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED, bootstrap_intervals
from pipeline.results import result_measures
from pipeline.results.combination import weights_on_dev
from pipeline.results.predictions import with_probabilities
from pipeline.results.result_files import CurvePoint
from pipeline.results.result_measures import measure
from pipeline.results.summary import Calibration, SeedResult, calibrate, read_seed_result, read_seed_results, summarize
from pipeline.results.writing import mean_curves, write_evaluation

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "calibration_error")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Intervals are not what is tested here."""
    monkeypatch.setattr(metrics_module, "BOOTSTRAP_DRAWS", 20)


def metrics_of(results):
    return summarize(results)[0]


@pytest.fixture
def result_of(finished):
    """Makes the result of a seed from its predictions; dev is that of another seed of the same random clips."""

    def make(predictions, dev=None, calibration=None):
        return SeedResult(predictions, dev, calibration or Calibration(None, None, None), finished[1].provenance)

    return make


@pytest.fixture
def three(result_of):
    """Three seeds with dev."""
    return {
        seed: result_of(predictions, random_predictions(seed=100 + seed))
        for seed, predictions in enumerate(several_seeds(3))
    }


def test_every_measure_is_the_mean_over_seeds_with_its_standard_deviation(three):
    metrics = metrics_of(three)
    alone = [measure([result.predictions])[0] for result in three.values()]
    for name in MEASURES:
        values = [getattr(each, name) for each in alone]
        assert getattr(metrics, name) == pytest.approx(np.mean(values)), name
        assert getattr(metrics, f"{name}_sd") == pytest.approx(np.std(values, ddof=1)), name
    assert [row.accuracy for row in metrics.seeds] == [each.accuracy for each in alone]
    assert [row.seed for row in metrics.seeds] == [0, 1, 2]


def test_a_single_seed_has_no_deviation_and_nothing_to_vote_on(result_of):
    metrics = metrics_of({4: result_of(random_predictions(), random_predictions(seed=1))})
    assert [getattr(metrics, f"{name}_sd") for name in MEASURES] == [None] * len(MEASURES)
    assert (metrics.soft_vote, metrics.weighted_vote, metrics.soup) == (None, None, None)


def test_seeds_without_dev_vote_with_equal_weights_alone(result_of):
    metrics = metrics_of({seed: result_of(each) for seed, each in enumerate(several_seeds(2))})
    assert metrics.soft_vote.weights == [0.5, 0.5]
    assert metrics.weighted_vote is None
    assert (metrics.temperature, metrics.log_loss_scaled, metrics.calibration_error_scaled) == (None, None, None)


def test_the_soft_vote_is_that_of_the_mean_probabilities(three):
    predictions = [result.predictions for result in three.values()]
    mean = np.nan_to_num(np.mean([each.probabilities for each in predictions], axis=0))
    right = (mean.argmax(axis=1) == predictions[0].labels) & predictions[0].scored
    assert metrics_of(three).soft_vote.accuracy == right.mean()


def test_weights_of_a_vote_come_from_dev_and_not_from_the_reported_clips(three):
    weights = metrics_of(three).weighted_vote.weights
    assert weights == [round(weight, 6) for weight in weights_on_dev([each.dev for each in three.values()])]
    relabelled = {
        seed: dataclasses.replace(
            result, predictions=dataclasses.replace(result.predictions, labels=(result.predictions.labels + 1) % 3)
        )
        for seed, result in three.items()
    }
    other = metrics_of(relabelled)
    assert other.accuracy != metrics_of(three).accuracy
    assert other.weighted_vote.weights == weights
    assert other.soft_vote.weights == metrics_of(three).soft_vote.weights
    swapped = {seed: dataclasses.replace(three[seed], dev=three[2 - seed].dev) for seed in three}
    assert metrics_of(swapped).weighted_vote.weights == pytest.approx(weights[::-1], abs=1e-5)


def test_a_quarantined_clip_is_wrong_for_each_seed_and_in_each_vote(three):
    metrics = metrics_of(three)
    assert (metrics.clips, metrics.scored) == (120, 119)
    everything_right = {
        seed: dataclasses.replace(
            result,
            predictions=dataclasses.replace(
                result.predictions,
                predicted=np.where(result.predictions.scored, result.predictions.labels, NOT_SCORED),
                probabilities=np.where(
                    result.predictions.scored[:, None], np.eye(3)[result.predictions.labels], np.nan
                ),
            ),
        )
        for seed, result in three.items()
    }
    metrics = metrics_of(everything_right)
    for accuracy in (metrics.accuracy, metrics.soft_vote.accuracy, metrics.weighted_vote.accuracy):
        assert accuracy == pytest.approx(119 / 120)


def test_the_calibration_is_the_mean_over_seeds_and_missing_if_one_seed_has_none(result_of):
    calibrations = [Calibration(1.0, 0.5, 0.1), Calibration(2.0, 0.7, 0.3)]
    results = {
        seed: result_of(each, calibration=calibration)
        for seed, (each, calibration) in enumerate(zip(several_seeds(2), calibrations, strict=True))
    }
    metrics = metrics_of(results)
    assert (metrics.temperature, metrics.log_loss_scaled, metrics.calibration_error_scaled) == (
        1.5,
        pytest.approx(0.6),
        pytest.approx(0.2),
    )
    results[1] = result_of(random_predictions())
    assert metrics_of(results).temperature is None


def test_folds_have_temperatures_of_their_own_whose_mean_is_reported():
    predictions = random_predictions()
    calibration = calibrate([1.0, 2.0], predictions)
    measures, _ = measure([predictions])
    assert calibration == Calibration(1.5, measures.log_loss, measures.calibration_error)
    assert calibrate([], None) == Calibration(None, None, None)


def test_a_summary_reads_what_evaluate_wrote(finished, tmp_path):
    metrics = write_evaluation(finished[1], tmp_path)
    result = read_seed_result(tmp_path, 0)
    assert result.calibration.temperature == metrics.temperature == statistics.mean(finished[1].temperatures)
    assert result.dev.clip_ids == finished[1].dev.clip_ids
    assert metrics_of({0: result}) == metrics


def test_a_summary_of_a_confident_mistake_has_the_log_loss_that_evaluate_measured(finished, tmp_path):
    labels = finished[1].predictions.labels
    confident = np.full((len(labels), 3), 1e-7)  # of the label, in nats: 16
    confident[np.arange(len(labels)), (labels + 1) % 3] = 1 - 2e-7
    evaluation = dataclasses.replace(finished[1], predictions=with_probabilities(finished[1].predictions, confident))
    metrics = write_evaluation(evaluation, tmp_path)
    assert metrics.log_loss == pytest.approx(-np.log(1e-7))
    assert metrics_of({0: read_seed_result(tmp_path, 0)}).log_loss == metrics.log_loss


def test_the_draws_of_the_intervals_are_made_once_for_a_result(finished, tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr(
        result_measures, "bootstrap_intervals", lambda *words: draws.append(1) or bootstrap_intervals(*words)
    )
    write_evaluation(finished[1], tmp_path)
    assert draws == [1]


def test_a_folder_of_another_seed_or_without_results_is_refused_with_what_to_do(finished, tmp_path):
    with pytest.raises(UserError, match="run the evaluate stage"):
        read_seed_result(tmp_path / "nothing", 0)
    write_evaluation(finished[1], tmp_path)
    with pytest.raises(UserError, match="holds no result of seed 5; run the evaluate stage"):
        read_seed_result(tmp_path, 5)


def two_seeds(evaluation, folder, **changes):
    """Writes the results of two seeds, of which the second is changed; returns the settings."""
    (run,) = evaluation.provenance.runs
    config = run.config.model_copy(update={"seeds": [0, 1]})
    provenance = dataclasses.replace(evaluation.provenance, runs=[dataclasses.replace(run, run=RunId(1))])
    second = dataclasses.replace(evaluation, **{"seed": 1, "provenance": provenance} | changes)
    for each in (evaluation, second):
        write_evaluation(each, folder / config.results_of(each.seed))
    return config


def test_seeds_of_the_settings_are_read_together(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(read_seed_results(two_seeds(finished[1], tmp_path))) == [0, 1]


@pytest.mark.parametrize("name", ["data set", "recipe", "number of folds", "list of classes"])
def test_a_seed_that_was_made_with_other_settings_is_refused(finished, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    provenance, predictions = finished[1].provenance, finished[1].predictions
    (run,) = provenance.runs
    recipe = run.config.recipe.model_copy(update={"name": "another"} if name == "recipe" else {})
    record = dataclasses.replace(
        run,
        run=RunId(1, 1 if name == "number of folds" else None),
        config=run.config.model_copy(update={"recipe": recipe}),
    )
    dataset = "other" if name == "data set" else provenance.dataset
    classes = predictions.classes[::-1] if name == "list of classes" else predictions.classes
    config = two_seeds(
        finished[1],
        tmp_path,
        provenance=dataclasses.replace(provenance, dataset=dataset, runs=[record]),
        predictions=dataclasses.replace(predictions, classes=classes),
    )
    expected = f"^results/seeds/1 was made with another {name} than the settings name; run the evaluate stage again"
    with pytest.raises(UserError, match=expected):
        read_seed_results(config)


def test_seeds_about_other_clips_or_labels_are_refused(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions = finished[1].predictions
    relabelled = dataclasses.replace(predictions, labels=(predictions.labels + 1) % 3)
    renamed = dataclasses.replace(predictions, clip_ids=[f"{clip_id}0" for clip_id in predictions.clip_ids])
    for other in (relabelled, renamed):
        config = two_seeds(finished[1], tmp_path, predictions=other)
        with pytest.raises(
            UserError, match=r"^the results of the seeds 0 and 1 are not about the same clips .* evaluate"
        ):
            read_seed_results(config)


def test_curves_of_seeds_and_folds_are_averaged_as_far_as_any_of_them_goes():
    points = [
        CurvePoint(0, 1, 1, 1.0, 0.5),
        CurvePoint(0, 1, 2, 0.5, 0.7),
        CurvePoint(0, 2, 1, 2.0, 0.3),
        CurvePoint(1, 1, 1, 3.0, None),
    ]
    first, second = mean_curves(points)
    assert (first.epoch, first.train_loss, first.selection_accuracy) == (1, 2.0, None)
    assert (second.epoch, second.train_loss, second.selection_accuracy) == (2, 0.5, 0.7)
