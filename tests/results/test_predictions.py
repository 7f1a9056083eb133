"""`predictions.csv`, with one row per clip."""

import numpy as np
import pytest
from random_predictions import random_predictions

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED
from pipeline.results.predictions import parse_predictions, predictions_of, write_predictions


@pytest.mark.parametrize("classes", [("positive", "neutral", "negative"), ("no", "yes"), ("a, b", "c.d", "$e", "f")])
def test_predictions_that_are_written_can_be_read(classes, tmp_path):
    predictions = random_predictions(classes)
    write_predictions(predictions, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        read = parse_predictions("p.csv", file)
    assert read.classes == classes
    assert (read.clip_ids, read.source_ids) == (predictions.clip_ids, predictions.source_ids)
    np.testing.assert_array_equal(read.labels, predictions.labels)
    np.testing.assert_array_equal(read.predicted, predictions.predicted)
    np.testing.assert_allclose(read.probabilities, predictions.probabilities, atol=1e-6)


def test_a_clip_without_probabilities_is_quarantined():
    clips = [Clip(f"1_{i}", "1", "neutral", f"Val/1_{i}.mp4", 1, "ab") for i in (1, 2)]
    predictions = predictions_of(clips, {"1_2": np.array([0.1, 0.2, 0.7])}, ["positive", "neutral", "negative"])
    assert predictions.clip_ids == ["1_1", "1_2"]
    assert predictions.labels.tolist() == [1, 1]
    assert predictions.predicted.tolist() == [NOT_SCORED, 2]
    assert np.isnan(predictions.probabilities[0]).all()


def test_the_columns_are_named_and_a_quarantined_clip_has_empty_cells(tmp_path):
    write_predictions(random_predictions(), tmp_path / "p.csv")
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "clip_id,source_id,label,prediction,positive,neutral,negative"
    assert rows[7].endswith(",quarantined,,,")


def test_a_table_without_clips_is_refused():
    with pytest.raises(UserError, match=r"p\.csv lists no clip"):
        parse_predictions("p.csv", ["clip_id,source_id,label,prediction,positive,neutral,negative"])
