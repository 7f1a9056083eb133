"""The result of a run: every clip once, what it comes from, and the most confident mistakes."""

import cv2
import numpy as np
import pytest

from pipeline.common.metrics import NOT_SCORED
from pipeline.results.predictions import read_predictions
from pipeline.results.result_files import (
    read_class_measures,
    read_curves,
    read_metrics,
    read_mistakes,
    read_provenance,
    read_reliability,
    read_source_accuracies,
)
from pipeline.results.result_measures import measure, reliability_bins, source_accuracies
from pipeline.results.writing import write_evaluation


@pytest.fixture(scope="module")
def evaluated(finished):
    """An evaluation, the folder that it was written to, and its metrics. Read only."""
    run_folder, evaluation = finished
    folder = run_folder.parent / "evaluated"
    return evaluation, folder, write_evaluation(evaluation, folder)


def test_every_val_clip_is_in_the_result_once_and_a_quarantined_one_is_wrong(evaluated, workspace):
    evaluation, _, metrics = evaluated
    predictions = evaluation.predictions
    assert sorted(predictions.clip_ids) == sorted(path.stem for path in (workspace[0] / "data/demo/Val").iterdir())
    assert (metrics.clips, metrics.scored) == (9, 8)
    assert (predictions.predicted == NOT_SCORED).sum() == 1
    assert metrics.accuracy == (predictions.predicted == predictions.labels).sum() / 9
    assert metrics.quarantined_share == pytest.approx(1 / 9)


def test_a_result_records_what_it_comes_from(evaluated, workspace):
    _, folder, _ = evaluated
    metrics, provenance = read_metrics(folder), read_provenance(folder)
    (run,) = provenance.runs
    assert metrics.selected_on == "dev"
    assert metrics.label_sha256 == provenance.data.val.label_sha256
    assert metrics.reproduced == "not applicable"
    assert run.config == workspace[1]
    assert ([seed.seed for seed in metrics.seeds], metrics.code_version) == (run.config.seeds, run.code_version)
    assert [(row.role, row.clips) for row in provenance.roles] == [("fit", 6), ("dev", 3), ("test", 9)]
    assert run.libraries.keys() >= {"torch", "numpy"}
    (quarantined,) = provenance.quarantined
    assert (quarantined.split, quarantined.reason) == ("val", "unreadable")
    assert provenance.clips["val"].quarantined == {"unreadable": 1}
    assert (provenance.clips["train"].extracted, provenance.clips["val"].extracted) == (9, 8)


def test_a_result_that_is_written_can_be_read(evaluated):
    evaluation, folder, metrics = evaluated
    every = [evaluation.predictions]
    assert read_metrics(folder) == metrics
    assert read_provenance(folder) == evaluation.provenance
    assert read_class_measures(folder) == measure(every)[1]
    assert read_source_accuracies(folder) == source_accuracies(every)
    assert read_reliability(folder) == reliability_bins(every)
    assert read_curves(folder) == evaluation.curves
    assert read_mistakes(folder) == evaluation.mistakes
    for name, expected in (("predictions.csv", evaluation.predictions), ("dev_predictions.csv", evaluation.dev)):
        (read,) = read_predictions(folder / name).values()
        assert (read.clip_ids, read.predicted.tolist()) == (expected.clip_ids, expected.predicted.tolist())


def test_the_most_confident_mistakes_are_drawn_and_no_correct_clip(evaluated):
    evaluation, folder, _ = evaluated
    predictions = evaluation.predictions
    is_wrong = (predictions.predicted != predictions.labels) & (predictions.predicted != NOT_SCORED)
    confidence = dict(zip(predictions.clip_ids, predictions.probabilities.max(axis=1), strict=True))
    expected = sorted(np.array(predictions.clip_ids)[is_wrong], key=lambda clip_id: -confidence[clip_id])
    assert expected
    assert list(evaluation.mistakes) == expected
    files = sorted((folder / "mistakes").iterdir())
    assert [file.stem.partition("-")[2] for file in files] == expected
    assert all(cv2.imread(str(file)).shape[1] == 700 for file in files)


def test_writing_a_result_again_removes_the_pictures_of_the_one_before(evaluated, tmp_path):
    evaluation, _, _ = evaluated
    (tmp_path / "mistakes").mkdir()
    (tmp_path / "mistakes/01-9_9.jpg").touch()
    write_evaluation(evaluation, tmp_path)
    assert list(read_mistakes(tmp_path)) == list(evaluation.mistakes)
