"""`predictions.csv`, with one row per seed and clip."""

import dataclasses

import numpy as np
import pytest
from random_predictions import random_predictions, several_seeds

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED
from pipeline.results.predictions import (
    concatenate,
    parse_predictions,
    predictions_of,
    read_predictions,
    write_predictions,
)


@pytest.mark.parametrize("classes", [("positive", "neutral", "negative"), ("no", "yes"), ("a, b", "c.d", "$e", "f")])
def test_predictions_that_are_written_can_be_read(classes, tmp_path):
    predictions = random_predictions(classes)
    write_predictions({3: predictions}, tmp_path / "p.csv")
    (read,) = read_predictions(tmp_path / "p.csv").values()
    assert read.classes == classes
    assert (read.clip_ids, read.source_ids) == (predictions.clip_ids, predictions.source_ids)
    np.testing.assert_array_equal(read.labels, predictions.labels)
    np.testing.assert_array_equal(read.predicted, predictions.predicted)
    np.testing.assert_array_equal(read.probabilities, predictions.probabilities)


@pytest.mark.parametrize("mark", ["\n", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_a_source_of_a_table_may_have_a_line_break_of_any_kind_in_its_name(mark, tmp_path):
    predictions = random_predictions(("no", "yes"))
    sources = [f"{source}{mark}b" for source in predictions.source_ids]
    write_predictions({0: dataclasses.replace(predictions, source_ids=sources)}, tmp_path / "predictions.csv")
    assert read_predictions(tmp_path / "predictions.csv")[0].source_ids == sources


def test_a_clip_without_probabilities_is_quarantined():
    clips = [Clip(f"1_{i}", "1", "neutral", f"Val/1_{i}.mp4", 1, "ab") for i in (1, 2)]
    predictions = predictions_of(clips, {"1_2": np.array([0.1, 0.2, 0.7])}, ["positive", "neutral", "negative"])
    assert predictions.clip_ids == ["1_1", "1_2"]
    assert predictions.labels.tolist() == [1, 1]
    assert predictions.predicted.tolist() == [NOT_SCORED, 2]
    assert np.isnan(predictions.probabilities[0]).all()


def test_the_columns_are_named_and_a_quarantined_clip_has_empty_cells(tmp_path):
    folds = [1 + number % 3 for number in range(120)]
    write_predictions({5: dataclasses.replace(random_predictions(), folds=folds)}, tmp_path / "p.csv")
    header, *rows = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "seed,fold,clip_id,source_id,label,prediction,positive,neutral,negative"
    assert rows[7].startswith("5,2,7_1,0,")
    assert rows[7].endswith(",quarantined,,,")


def test_each_seed_is_read_back_by_its_number_and_without_folds_the_fold_is_empty(tmp_path):
    first, second = several_seeds(2)
    write_predictions({4: first, 0: second}, tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    assert list(read) == [4, 0]
    np.testing.assert_array_equal(read[0].predicted, second.predicted)
    assert read[4].folds == [None] * 120


def test_the_clips_of_all_folds_are_sorted_by_name_and_keep_what_is_theirs():
    whole = random_predictions()
    rows = np.arange(120)
    parts = [
        predictions_of(
            [Clip(whole.clip_ids[row], "s", whole.classes[whole.labels[row]], "a.mp4", 1, "ab") for row in part],
            {whole.clip_ids[row]: whole.probabilities[row] for row in part},
            whole.classes,
            fold,
        )
        for fold, part in ((1, rows[rows % 2 == 1]), (2, rows[rows % 2 == 0]))
    ]
    together = concatenate(parts)
    assert together.clip_ids == sorted(whole.clip_ids)
    for row, clip_id in enumerate(together.clip_ids):
        number = int(clip_id.partition("_")[0])
        assert together.folds[row] == 2 - number % 2
        assert (together.labels[row], together.predicted[row]) == (whole.labels[number], whole.predicted[number])
        np.testing.assert_array_equal(together.probabilities[row], whole.probabilities[number])


def test_a_table_of_version_1_0_0_which_has_no_seeds_is_refused():
    lines = ["clip_id,source_id,label,prediction,positive,neutral,negative", "1_1,1,positive,positive,0.6,0.4,0.0"]
    with pytest.raises(
        UserError, match=r"^p\.csv is not a predictions\.csv that evaluate wrote \(KeyError\('seed'\)\)$"
    ):
        parse_predictions("p.csv", lines)


def test_a_table_without_clips_is_refused():
    with pytest.raises(UserError, match=r"p\.csv lists no clip"):
        parse_predictions("p.csv", ["seed,fold,clip_id,source_id,label,prediction,positive,neutral,negative"])
