"""`python -m stages.predict`: the probabilities that evaluation gives, one row per file or window, and pictures."""

import itertools
import json
import shutil
import subprocess
import sys
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import REPOSITORY, run_ffmpeg
from safetensors.torch import load_file, save_file

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.models.run_record import MODEL_NAME, RUN_NAME
from pipeline.models.runs import open_run
from pipeline.serving.file_picture import draw_file
from pipeline.serving.predictor import Predictor, list_files, split_into_windows
from pipeline.serving.rows import NoPrediction, Prediction, json_line, text_line


@pytest.fixture
def predictor(finished):
    """Predicts files with the run."""
    with closing(Predictor(open_run(finished[0]), Accelerator(cpu=True))) as predictor:
        yield predictor


def test_a_val_clip_gets_the_probabilities_that_evaluation_gives_it(finished, workspace, predictor):
    predictions = finished[1].predictions
    for clip_id, expected in zip(predictions.clip_ids, predictions.probabilities, strict=True):
        answer = predictor.predict(workspace[0] / f"data/demo/Val/{clip_id}.mp4")
        if np.isnan(expected).any():
            assert answer.clip is None
            assert answer.row.reason == "unreadable"
        else:
            np.testing.assert_allclose(answer.clip.probabilities, expected, atol=1e-6)
            np.testing.assert_allclose(list(answer.row.probabilities.values()), expected, atol=2e-6)


def test_a_model_without_a_stream_for_people_needs_no_face_detector(finished, one_clip, predictor, tmp_path):
    """Its shards may hold faces, for other models."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    record = json.loads((folder / RUN_NAME).read_text())
    record["config"]["recipe"]["features"]["people"]["most"] = 2
    record["config"]["extract"]["face_detector"] = str(tmp_path / "missing.onnx")
    (folder / RUN_NAME).write_text(json.dumps(record))
    with closing(Predictor(open_run(folder), Accelerator(cpu=True))) as other:
        answer = other.predict(one_clip)
    assert answer.clip.batch.people is None
    np.testing.assert_array_equal(answer.clip.probabilities, predictor.predict(one_clip).clip.probabilities)


def test_a_folder_is_replaced_by_the_videos_in_it(tmp_path):
    for name in ("b.mp4", "._b.mp4", "a.MKV", "notes.txt", "deep/er/c.webm", "e.M2TS", "f.3g2", "old.wmv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = list_files([tmp_path / "notes.txt", tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "notes.txt",
        "a.MKV",
        "b.mp4",
        "deep/er/c.webm",
        "e.M2TS",
        "f.3g2",
        "old.wmv",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no video"):
        list_files([tmp_path / "empty"])


def test_a_row_of_a_whole_file_has_no_times_and_a_row_of_a_window_has_them():
    shares = {"positive": 0.5, "neutral": 0.3, "negative": 0.2}
    assert json_line(Prediction("a.mp4", None, None, "positive", shares)) == (
        '{"file": "a.mp4", "prediction": "positive", '
        '"probabilities": {"positive": 0.5, "neutral": 0.3, "negative": 0.2}}\n'
    )
    row = NoPrediction("a.mp4", 0.0, 2.5, reason="no_video", detail="it has none")
    assert json_line(row) == (
        '{"file": "a.mp4", "start_s": 0.0, "end_s": 2.5, "prediction": null, '
        '"reason": "no_video", "detail": "it has none"}\n'
    )
    assert text_line(row) == "    0.0 to 2.5 s  -         no_video: it has none  a.mp4"


def test_the_command_prints_one_row_per_file_and_draws_it(stage, finished, one_clip, tmp_path):
    shutil.copy(one_clip, tmp_path / "clip.mp4")
    outputs = ("--output", tmp_path / "p.jsonl", "--explain", tmp_path / "pictures")
    process = stage("predict", tmp_path, "--run", finished[0], *outputs)
    assert process.returncode == 0, process.stderr
    (row,) = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert list(row) == ["file", "prediction", "probabilities"]
    assert row["file"] == str(tmp_path / "clip.mp4")
    assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
    assert list(row["probabilities"]) == list(CLASSES)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert cv2.imread(str(tmp_path / "pictures/0000-clip.png")).shape[1] > 1000


def test_the_exit_code_is_3_if_some_files_have_no_prediction(stage, finished, one_clip, tmp_path):
    shutil.copy(one_clip, tmp_path / "clip.mp4")
    (tmp_path / "damaged.mp4").write_text("not a video")
    outputs = ("--output", tmp_path / "p.jsonl", "--explain", tmp_path / "pictures")
    process = stage("predict", tmp_path, tmp_path / "nowhere.mp4", "--run", finished[0], *outputs)
    assert process.returncode == 3, process.stderr
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row.get("reason") for row in rows] == [None, "unreadable", "inaccessible"]
    assert len(process.stdout.splitlines()) == 3
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["0000-clip.png"]


def test_a_run_that_does_not_exist_is_named(stage, tmp_path):
    process = stage("predict", tmp_path / "clip.mp4", "--run", tmp_path)
    assert process.returncode == 2
    assert f"{tmp_path} is not the folder of a finished run; name the folder of one, or run the train" in process.stderr


def test_a_folder_above_a_run_names_the_run(finished):
    run = finished[0]
    with pytest.raises(UserError, match=f"{run.parent} is not the folder of a finished run; there is one in {run}"):
        open_run(run.parent)


def test_a_run_that_is_damaged_or_of_another_version_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    weights = load_file(folder / MODEL_NAME)
    save_file(weights | {"fusion.more": torch.zeros(1)}, folder / MODEL_NAME)
    with pytest.raises(UserError, match=r"another version of this code .*fusion\.more.*; train again"):
        open_run(folder)
    (folder / MODEL_NAME).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        open_run(folder)
    shutil.copy(finished[0] / MODEL_NAME, folder)
    for text in ("{", "{}"):
        (folder / RUN_NAME).write_text(text)
        with pytest.raises(UserError):
            open_run(folder)


def test_a_clip_is_drawn_with_its_waveform(predictor, one_clip):
    answer = predictor.predict(one_clip)
    figure = draw_file("clip.mp4", [answer.row], answer.clip, predictor.scorer)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["waveform", "mel bin", "attention"]


def test_a_file_without_a_prediction_is_not_drawn(predictor, tmp_path):
    answer = predictor.predict(tmp_path / "nowhere.mp4")
    assert draw_file("nowhere.mp4", [answer.row], answer.clip, predictor.scorer) is None


def test_windows_overlap_by_half_and_the_last_one_ends_with_the_file():
    spans = [(window.start_s, window.end_s) for window in split_into_windows(11.0, 4.0)]
    assert spans == [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]
    assert [vars(window) for window in split_into_windows(3.0, 4.0)] == [{"start_s": 0, "end_s": 3}]
    assert [vars(window) for window in split_into_windows(4.0, 4.0)] == [{"start_s": 0, "end_s": 4}]


def test_no_window_is_there_twice_and_no_rounding_shows_in_its_times():
    spans = [(window.start_s, window.end_s) for window in split_into_windows(3.0, 1.2)]
    assert spans == [(0, 1.2), (0.6, 1.8), (1.2, 2.4), (1.8, 3.0)]
    for tenths in range(5, 60):
        for frames in range(1, 500):  # of 25 in a second
            windows = list(split_into_windows(frames / 25, tenths / 10))
            assert windows[-1].end_s == frames / 25
            gaps = [later.start_s - window.start_s for window, later in itertools.pairwise(windows)]
            assert min(gaps, default=1) > 0.001
    (*_, last) = split_into_windows(362 / 30, 5.0)
    assert last.start_s == 7.066666  # not after 7.0666..., when a frame appears


def test_a_long_file_has_one_row_per_window_and_a_picture_over_time(stage, finished, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "3", "-i", one_clip, "-c", "copy", tmp_path / "long.mp4")
    outputs = ("--output", tmp_path / "p.jsonl", "--explain", tmp_path / "pictures")
    process = stage("predict", tmp_path / "long.mp4", "--run", finished[0], *outputs, "--window", "4")
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) > 3
    assert list(rows[0]) == ["file", "start_s", "end_s", "prediction", "probabilities"]
    assert [row["start_s"] for row in rows[:-1]] == [2 * i for i in range(len(rows) - 1)]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    assert process.stdout.count(" s  ") == len(rows)
    assert cv2.imread(str(tmp_path / "pictures/0000-long.png")).shape[1] > 1000


def test_a_long_file_without_windows_and_windows_longer_than_a_clip_are_refused(stage, finished, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "3", "-i", one_clip, "-c", "copy", tmp_path / "long.mp4")
    process = stage("predict", tmp_path / "long.mp4", "--run", finished[0])
    assert process.returncode == 3
    assert "too_long" in process.stdout
    process = stage("predict", tmp_path / "long.mp4", "--run", finished[0], "--window", "60")
    assert process.returncode == 2
    assert "at most features.max_duration_s" in process.stderr


@pytest.mark.slow
def test_a_prediction_does_not_wait_for_libraries_that_it_does_not_need(finished, one_clip):
    code = (
        "import sys, stages.predict\n"
        f"sys.argv = ['predict', {str(one_clip)!r}, '--run', {str(finished[0])!r}]\n"
        "stages.predict.main()\n"
        "print(*sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    slow = {"torchvision", "timm", "matplotlib.figure", "torch._dynamo", "librosa", "numba", "scipy.signal", "sympy"}
    assert slow & set(process.stdout.split()) == set()


def test_several_runs_vote_with_the_mean_of_their_probabilities(stage, finished, one_clip, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    weights = {
        name: value * 1.1 if value.is_floating_point() else value
        for name, value in load_file(other / MODEL_NAME).items()
    }
    save_file(weights, other / MODEL_NAME)

    def probabilities(*runs):
        words = [word for run in runs for word in ("--run", run)]
        done = stage("predict", *words, one_clip, "--output", tmp_path / "p.jsonl")
        assert done.returncode == 0, done.stderr
        return np.array(list(json.loads((tmp_path / "p.jsonl").read_text())["probabilities"].values()))

    one, two = probabilities(finished[0]), probabilities(other)
    assert np.abs(one - two).max() > 0.001
    np.testing.assert_allclose(probabilities(finished[0], other), (one + two) / 2, atol=2e-6)


def test_runs_that_take_something_else_of_a_clip_cannot_vote(stage, finished, one_clip, tmp_path):
    shutil.copytree(finished[0], tmp_path / "other")
    record = json.loads((tmp_path / "other" / RUN_NAME).read_text())
    record["config"]["recipe"]["features"]["jpeg_quality"] = 50
    (tmp_path / "other" / RUN_NAME).write_text(json.dumps(record))
    done = stage("predict", one_clip, "--run", finished[0], "--run", tmp_path / "other")
    assert done.returncode == 2
    assert "takes something else than demo, seed 0: features.jpeg_quality 50 and 90; leave one out" in done.stderr
