"""The rows of `python -m stages.predict` as a table."""

import csv
import io
import json

from pipeline.common.config import RESERVED_NAMES
from pipeline.serving.rows import NoPrediction, Prediction, csv_table, json_line

CLASSES = ("joy, or relief", "anger")
ROWS = [
    Prediction("a.mp4", None, None, "anger", {"joy, or relief": 0.25, "anger": 0.75}),
    Prediction("b.mp4", 0.0, 2.5, "joy, or relief", {"joy, or relief": 1.0, "anger": 0.000001}),
    NoPrediction("c.mp4", None, None, reason="unreadable", detail='"c", it says,\nis no video'),
]


def test_a_csv_has_one_row_per_row_and_one_column_per_class():
    lines = csv_table(ROWS[:2], CLASSES).splitlines()
    assert lines == [
        'file,start_s,end_s,prediction,"joy, or relief",anger,reason,detail',
        "a.mp4,,,anger,0.25,0.75,,",
        'b.mp4,0.0,2.5,"joy, or relief",1.0,1e-06,,',
    ]


def test_no_class_can_have_the_name_of_another_column():
    header = csv_table([], CLASSES).splitlines()[0]
    assert set(next(csv.reader([header]))) - set(CLASSES) <= RESERVED_NAMES


def test_a_csv_says_what_the_json_lines_say():
    table = list(csv.DictReader(io.StringIO(csv_table(ROWS, CLASSES))))
    for row, expected in zip(table, map(json.loads, map(json_line, ROWS)), strict=True):
        probabilities = {label: float(row[label]) for label in CLASSES if row[label]}
        assert probabilities == expected.get("probabilities", {})
        for key in ("file", "start_s", "end_s", "prediction", "reason", "detail"):
            assert row[key] == ("" if expected.get(key) is None else str(expected[key]))
