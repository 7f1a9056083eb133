"""A model that takes some of the stored frames, in several views: what is served agrees with how it is scored."""

import contextlib
import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from short_trainings import with_model

from pipeline.common.config import RunId
from pipeline.loading.batch import collate
from pipeline.loading.loader import read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.selection import clips_of_split
from pipeline.models.run_record import read_run_record
from pipeline.models.runs import open_run
from pipeline.models.scoring import Scorer
from pipeline.results.evaluation import evaluate_split
from pipeline.results.explanation import explain
from pipeline.results.mistakes import Scored, draw_mistakes
from pipeline.results.model_card import render_card
from pipeline.results.pictures import draw_clip
from pipeline.serving.embedding import embed_split
from pipeline.serving.export import export_run
from pipeline.serving.onnx_model import INPUTS
from pipeline.serving.predictor import Predictor
from pipeline.training.loop import train_model

MIDDLE = [1, 4]  # of the two parts of six frames


@pytest.fixture(scope="module")
def folder(workspace, tmp_path_factory):
    """Folder of a short run that takes two of six frames, in three views. Read only."""
    root, config = workspace
    folder = tmp_path_factory.mktemp("views")
    config = with_model(config, frames=2, views=3)
    with contextlib.chdir(root):
        train_model(config, RunId(0), Accelerator(cpu=True), folder / "run", folder / "checkpoints")
    return folder / "run"


@pytest.fixture
def run(folder, ready):
    return open_run(folder)


@pytest.fixture
def answer(run, one_clip):
    """What the run predicts of a file, and the scorer that did it."""
    with closing(Predictor(run, Accelerator(cpu=True))) as predictor:
        return predictor.predict(one_clip), predictor.scorer


def test_a_file_gets_the_probabilities_that_evaluation_gives_its_clip(run, workspace):
    predictions = evaluate_split(run, run.config, "val", Accelerator(cpu=True)).predictions
    with closing(Predictor(run, Accelerator(cpu=True))) as predictor:
        for clip_id, expected in zip(predictions.clip_ids, predictions.probabilities, strict=True):
            if not np.isnan(expected).any():
                answer = predictor.predict(workspace[0] / f"data/demo/Val/{clip_id}.mp4")
                np.testing.assert_allclose(answer.clip.probabilities, expected, atol=1e-6)


def test_a_split_gets_the_embeddings_of_its_middle_frames(run):
    embeddings = embed_split(run, "demo", "val", Accelerator(cpu=True))
    run.model.sampling = dataclasses.replace(run.model.sampling, views=1)
    expected = Scorer(run.model, Accelerator(cpu=True)).score(clips_of_split(run.config, "val").located, run.config)
    np.testing.assert_allclose(embeddings.probabilities, expected, atol=1e-6)


def test_a_picture_shows_the_middle_frames_and_the_attention_to_them(answer):
    (predicted, scorer), clip = answer, answer[0].clip
    times_s = clip.batch.frame_times_s[0]
    assert clip.batch.frames.shape[1] == 4, "three views need four frames: 1, 2, 4 and 5"
    middle_s = times_s[[0, 2]].tolist()
    assert explain(clip, scorer).attention["scene"].times_s.tolist() == pytest.approx(middle_s)
    titles = [axes.get_title() for figure in draw_clip(clip, scorer).subfigs for axes in figure.axes]
    assert [title for title in titles if title] == [f"{time_s:.2f} s" for time_s in middle_s]
    assert predicted.row.prediction == clip.label


def test_mistakes_are_drawn(run):
    clips = clips_of_split(run.config, "val").located[:1]
    wrong = np.eye(3)[[(clips[0].label + 1) % 3]]
    pictures = draw_mistakes([Scored(clips, wrong, Scorer(run.model, Accelerator(cpu=True)))])
    assert list(pictures) == [clips[0].clip_id]


def test_the_card_says_which_frames_and_how_many_views(run):
    card = render_card(run.record, None, MIDDLE)
    assert "The network takes 2 of them: those with i = 1, 4." in card
    assert "the mean of the class probabilities of 3 views" in card


@pytest.mark.slow  # tracing the network takes seconds
def test_onnx_takes_the_middle_frames_and_says_so(folder, run, tmp_path):
    import onnxruntime

    export_run(folder, None, tmp_path / "model")
    session = onnxruntime.InferenceSession(tmp_path / "model/model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["frames"]) == MIDDLE
    assert session.get_inputs()[0].shape[1] == 2
    clip = clips_of_split(run.config, "val").located[0]
    batch = collate([read_sample(clip)], [0], np.array(MIDDLE), run.model.features, Memory())
    (logits,) = session.run(None, {name: getattr(batch, name).numpy() for name in INPUTS})
    run.model.sampling = dataclasses.replace(run.model.sampling, views=1)
    expected = Scorer(run.model, Accelerator(cpu=True)).probabilities(batch)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(dim=-1), expected, atol=1e-4)
    assert "those with i = 1, 4" in (tmp_path / "model/README.md").read_text()
    assert read_run_record(tmp_path / "model") == run.record
