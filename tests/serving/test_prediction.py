"""`python -m stages.predict`: the same answer as evaluation gives, a row for every file, a picture of what mattered."""

import dataclasses
import io
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
from conftest import REPOSITORY, run_ffmpeg
from safetensors.torch import load_file, save_file

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import MODEL_NAME, RUN_NAME, open_run
from pipeline.results.explanation import attention_over_time, explain, one_modality_alone
from pipeline.serving.predictor import NoPrediction, Prediction, Predictor, files_of, windows_of


@pytest.fixture
def predicted(finished):
    """Predicts files with the run."""
    config, _, model = open_run(finished[0])
    with closing(Predictor(model, config, Accelerator(cpu=True))) as predictor:
        yield lambda *files: [predictor.predict(file) for file in files]


def test_a_val_clip_gets_the_probabilities_that_evaluation_gives_it(finished, workspace, predicted):
    evaluation = finished[1].predictions
    files = [workspace[0] / f"data/demo/Val/{clip_id}.mp4" for clip_id in evaluation.clip_ids]
    for found, expected in zip(predicted(*files), evaluation.probabilities, strict=True):
        if np.isnan(expected).any():
            assert isinstance(found, NoPrediction)
            assert found.reason == "unreadable"
        else:
            np.testing.assert_allclose(found.clip.probabilities, expected, atol=1e-6)


def test_a_folder_stands_for_the_videos_in_it(tmp_path):
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/er/c.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_of([tmp_path / "notes.txt", tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "notes.txt",
        "a.MKV",
        "b.mp4",
        "deep/er/c.webm",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no video"):
        files_of([tmp_path / "empty"])


def test_the_command_has_a_row_for_every_file_and_an_exit_code_that_says_whether_all_were_used(
    stage, finished, one_clip, tmp_path
):
    shutil.copy(one_clip, tmp_path / "clip.mp4")
    done = stage(
        "predict", tmp_path, "--run", finished[0], "--output", tmp_path / "p.jsonl", "--explain", tmp_path / "pictures"
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert row["file"] == str(tmp_path / "clip.mp4")
    assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
    assert list(row["probabilities"]) == list(CLASSES)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert cv2.imread(str(tmp_path / "pictures/0000-clip.png")).shape[1] > 1000

    (tmp_path / "damaged.mp4").write_text("not a video")
    done = stage("predict", tmp_path, tmp_path / "nowhere.mp4", "--run", finished[0], "--output", tmp_path / "p.jsonl")
    assert done.returncode == 3, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row.get("reason") for row in rows] == [None, "unreadable", "inaccessible"]
    assert len(done.stdout.splitlines()) == 3


def test_a_run_that_is_not_there_is_said_in_a_sentence(stage, tmp_path):
    done = stage("predict", tmp_path / "clip.mp4", "--run", tmp_path)
    assert done.returncode == 2
    assert f"{RUN_NAME} is missing; run the train stage" in done.stderr


def test_a_run_that_is_damaged_or_of_another_version_is_said_in_a_sentence(finished, tmp_path):
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


def test_one_modality_alone_sees_nothing_of_the_other(finished, predicted, one_clip):
    _, _, model = open_run(finished[0])
    (found,) = predicted(one_clip)
    other = {
        "video": dataclasses.replace(found.clip.batch, log_mel=torch.zeros_like(found.clip.batch.log_mel)),
        "audio": dataclasses.replace(found.clip.batch, frames=torch.zeros_like(found.clip.batch.frames)),
    }
    alone = one_modality_alone(model.eval(), found.clip.batch, Accelerator(cpu=True))
    for name, batch in other.items():
        changed = one_modality_alone(model, batch, Accelerator(cpu=True))
        np.testing.assert_array_equal(changed[name], alone[name])
        assert not np.array_equal(
            changed["video" if name == "audio" else "audio"], alone["video" if name == "audio" else "audio"]
        )


@pytest.mark.parametrize("fusion", ["cross_attention", "self_attention", "concat"])
def test_attention_is_that_to_the_tokens_of_each_modality_over_time(fusion, config, predicted, one_clip):
    (found,) = predicted(one_clip)
    settings = config.recipe.model.model_copy(update={"fusion": fusion})
    torch.manual_seed(0)
    model = GroupEmotionModel(settings, config.recipe.features).eval()
    curves = attention_over_time(model, found.clip.batch)
    if fusion == "concat":
        assert curves == {}
    else:
        assert curves["video"][0].tolist() == found.clip.batch.frame_times_s[0].tolist()
        times_s, _ = curves["audio"]
        assert len(times_s) == -(-int(found.clip.batch.mel_frames[0]) // 16)
        assert times_s[-1] <= found.clip.duration_s
        total = sum(shares.sum() for _, shares in curves.values())
        assert 0.5 < total < (2 if fusion == "cross_attention" else 1)  # the rest goes to the summary tokens
    assert labels(explain(found.clip, model, Accelerator(cpu=True))) == ["waveform", "mel bin", "attention"]


def labels(figure):
    """Of the axes over the clip's time."""
    figure.savefig(io.BytesIO())
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_clip_without_sound_is_explained_too(finished, workspace, predicted):
    _, _, model = open_run(finished[0])
    clips = sorted((workspace[0] / "data/demo").glob("*/*.mp4"))
    silent = [found for found in predicted(*clips) if isinstance(found, Prediction) and found.clip.waveform is None]
    assert silent
    assert len(attention_over_time(model.eval(), silent[0].clip.batch)["audio"][0]) == 0
    figure = explain(silent[0].clip, model, Accelerator(cpu=True))
    assert labels(figure) == ["mel bin", "attention"]
    assert "no sound" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_windows_overlap_by_half_and_the_last_one_ends_with_the_file():
    spans = [(window.start_s, window.end_s) for window in windows_of(11.0, 4.0)]
    assert spans == [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]
    assert [vars(window) for window in windows_of(3.0, 4.0)] == [{"start_s": 0, "end_s": 3}]
    assert [vars(window) for window in windows_of(4.0, 4.0)] == [{"start_s": 0, "end_s": 4}]


def test_a_long_file_has_a_row_a_window_and_a_picture_over_time(stage, finished, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "3", "-i", one_clip, "-c", "copy", tmp_path / "long.mp4")
    outputs = ("--output", tmp_path / "p.jsonl", "--explain", tmp_path / "pictures")
    done = stage("predict", tmp_path / "long.mp4", "--run", finished[0], *outputs, "--window", "4")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) > 3
    assert [row["start_s"] for row in rows[:-1]] == [2 * i for i in range(len(rows) - 1)]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    assert done.stdout.count(" s  ") == len(rows)
    assert cv2.imread(str(tmp_path / "pictures/0000-long.png")).shape[1] > 1000

    done = stage("predict", tmp_path / "long.mp4", "--run", finished[0])
    assert "too_long" in done.stdout
    done = stage("predict", tmp_path / "long.mp4", "--run", finished[0], "--window", "60")
    assert "at most features.max_duration_s" in done.stderr


@pytest.mark.slow
def test_a_prediction_does_not_wait_for_libraries_that_it_does_not_need():
    code = (
        "import sys, stages.predict, pipeline.serving.predictor, pipeline.models.runs, pipeline.training.distributed\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert {"torchvision", "timm", "matplotlib.figure", "torch._dynamo"} & set(done.stdout.split()) == set()
