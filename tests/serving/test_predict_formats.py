"""What `python -m stages.predict` writes: the format of a file of predictions, names of pictures, never NaN."""

import csv
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from pipeline.models.run_record import MODEL_NAME


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


def test_a_file_that_is_named_twice_has_one_row(stage, trained, one_clip, tmp_path):
    process = stage("predict", one_clip, one_clip, "--run", trained, "--output", tmp_path / "p.jsonl")
    assert len(process.stdout.splitlines()) == len((tmp_path / "p.jsonl").read_text().splitlines()) == 1


def test_pictures_cannot_take_the_place_of_a_file(stage, one_clip, tmp_path):
    (tmp_path / "file").touch()
    process = stage("predict", one_clip, "--explain", tmp_path / "file")
    assert f"--explain is {tmp_path / 'file'}, which is a file; name a folder" in process.stderr


def test_a_file_with_the_longest_name_has_a_picture_too(stage, trained, one_clip, tmp_path):
    (tmp_path / "clips").mkdir()
    shutil.copy(one_clip, tmp_path / "clips" / f"{'é' * 125}.mp4")
    process = stage("predict", tmp_path / "clips", "--run", trained, "--explain", tmp_path / "pictures")
    assert process.returncode == 0, process.stderr
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"0000-{'é' * 100}.png"]


@pytest.mark.parametrize("command", ["predict", "submit", "embed"])
def test_a_model_that_gives_nan_is_refused(command, stage, trained, one_clip, tmp_path):
    """JSON has no NaN, and the first class would be the answer."""
    run = shutil.copytree(trained, tmp_path / "run")
    weights = {name: value * np.nan for name, value in load_file(run / MODEL_NAME).items() if value.is_floating_point()}
    save_file(load_file(run / MODEL_NAME) | weights, run / MODEL_NAME)
    (tmp_path / "Test").mkdir()
    shutil.copy(one_clip, tmp_path / "Test/Test_1.mp4")
    output = tmp_path / "output.npz"
    process = stage(command, tmp_path / "Test", "--run", run, "--output", output)
    assert process.returncode == 2, process.stdout
    assert "error: the model gives NaN for " in process.stderr
    assert "Test_1.mp4" in process.stderr
    assert not output.exists()
