"""`python -m stages.predict --format`: which format a file of predictions has."""

import csv
import json
import shutil

import pytest


@pytest.fixture
def predict(stage, trained, one_clip, tmp_path):
    """Predicts a clip and a file that is no clip into a file of this name; returns its text."""
    shutil.copy(one_clip, tmp_path / "clip.mp4")
    (tmp_path / "damaged.mp4").write_text("not a video")

    def run(name, *options):
        process = stage("predict", tmp_path, "--run", trained, "--output", tmp_path / name, *options)
        assert process.returncode == 3, process.stderr
        return (tmp_path / name).read_text()

    return run


def test_the_name_of_the_file_says_the_format_unless_an_option_does(predict):
    table, lines = predict("p.csv"), predict("p.jsonl")
    good, bad = csv.DictReader(table.splitlines())
    expected, expected_bad = map(json.loads, lines.splitlines())
    assert {name: float(good[name]) for name in expected["probabilities"]} == expected["probabilities"]
    assert (bad["prediction"], bad["reason"]) == ("", expected_bad["reason"])
    assert predict("p.json", "--format", "csv") == table
    assert predict("q.csv", "--format", "jsonl") == lines


def test_a_format_without_a_file_is_refused(stage):
    process = stage("predict", "clip.mp4", "--format", "csv")
    assert process.returncode == 2
    assert "no file is written; name one with --output" in process.stderr
