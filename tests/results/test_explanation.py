"""What a prediction depends on, and the picture of it."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import FUSIONS

from pipeline.clips.manifest import TRAIN
from pipeline.loading.batch import collate
from pipeline.loading.loader import read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.selection import locate, open_split
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.results.explanation import attention_received, explain, predictions_alone
from pipeline.results.pictures import draw_clip


@pytest.fixture
def scorer_of(config):
    """Makes a scorer of a model with random weights and the given kind of fusion."""

    def make(kind="cross_attention"):
        torch.manual_seed(0)
        settings = config.recipe.model.model_copy(update=FUSIONS[kind])
        return Scorer(
            GroupEmotionModel(settings, config.recipe.features, config.dataset.classes), Accelerator(cpu=True)
        )

    return make


@pytest.fixture
def clip_of(workspace, features):
    """Scores an extracted clip, with sound or without; its waveform is noise."""

    def score(scorer, with_sound=True):
        root, config = workspace
        with contextlib.chdir(root):
            clips = locate(*open_split(config, TRAIN), config.dataset.classes)
            clip = next(clip for clip in clips if clip.entry.has_audio == with_sound)
            sample = read_sample(clip)
        batch = collate([sample], [clip.label], scorer.model.sampling.evaluated, features, Memory())
        samples = round(sample.duration_s * features.sample_rate_hz)
        waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32) if with_sound else None
        return ScoredClip(
            clip.clip_id, sample.duration_s, batch, scorer.model.labels, scorer.probabilities(batch)[0], waveform
        )

    return score


def labels_over_time(figure):
    """The labels of the axes that show something over the clip's time."""
    figure.savefig(io.BytesIO())
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_stream_alone_is_predicted_without_the_other(scorer_of, clip_of):
    scorer = scorer_of()
    batch = clip_of(scorer).batch
    without_sound = dataclasses.replace(batch, log_mel=torch.zeros_like(batch.log_mel))
    without_frames = dataclasses.replace(batch, frames=torch.zeros_like(batch.frames))
    alone = predictions_alone(batch, scorer)
    for name, other, changed in (("scene", "sound", without_sound), ("sound", "scene", without_frames)):
        alone_again = predictions_alone(changed, scorer)
        np.testing.assert_array_equal(alone_again[name], alone[name])
        assert not np.array_equal(alone_again[other], alone[other])


@pytest.mark.parametrize("fusion", ["cross_attention", "self_attention"])
def test_attention_goes_to_the_tokens_of_each_stream_over_time(scorer_of, clip_of, fusion):
    scorer = scorer_of(fusion)
    clip = clip_of(scorer)
    attention = explain(clip, scorer).attention
    assert attention["scene"].times_s.tolist() == clip.batch.frame_times_s[0].tolist()
    sound_times_s = attention["sound"].times_s
    assert len(sound_times_s) == -(-int(clip.batch.mel_frames[0]) // 16)
    offset_s = scorer.model.inputs.hop_time_s(scorer.model.backbones()["sound"].interface.offset)
    assert sound_times_s[-1] - offset_s <= clip.duration_s, "the first hop of the last token is in the clip"
    total = sum(curve.shares.sum() for curve in attention.values())
    assert 0.5 < total < (2 if fusion == "cross_attention" else 1)  # the rest goes to the summary tokens
    assert labels_over_time(draw_clip(clip, scorer)) == ["waveform", "mel bin", "attention"]


def test_a_fusion_without_attention_is_drawn_too(scorer_of, clip_of):
    scorer = scorer_of("concat")
    clip = clip_of(scorer)
    assert explain(clip, scorer).attention == {}
    figure = draw_clip(clip, scorer)
    assert labels_over_time(figure) == ["waveform", "mel bin", "attention"]
    assert "this fusion has no attention" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_model_of_one_stream_has_no_predictions_from_the_other(scorer_of, clip_of):
    scorer = scorer_of("scene")
    clip = clip_of(scorer)
    assert explain(clip, scorer).alone == {}
    assert labels_over_time(draw_clip(clip, scorer)) == ["waveform", "mel bin", "attention"]


def test_a_clip_without_sound_is_explained_too(scorer_of, clip_of):
    scorer = scorer_of()
    clip = clip_of(scorer, with_sound=False)
    assert len(explain(clip, scorer).attention["sound"].shares) == 0
    figure = draw_clip(clip, scorer)
    assert labels_over_time(figure) == ["mel bin", "attention"]
    assert "no sound" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_attention_that_a_stream_gets_is_the_mean_over_the_blocks_that_attend_to_it():
    counts = {"scene": 2, "people": 1, "sound": 3}
    scene, people, sound = (torch.full((1, 2, queries, keys), 1 / keys) for queries, keys in ((2, 4), (1, 5), (3, 3)))
    received = attention_received([scene, people, sound], counts, "cross_attention")
    assert {name: shares.tolist() for name, shares in received.items()} == {
        "scene": pytest.approx([(1 / 5 + 1 / 3) / 2] * 2),
        "people": pytest.approx([(1 / 4 + 1 / 3) / 2]),
        "sound": pytest.approx([(1 / 4 + 1 / 5) / 2] * 3),
    }
    together = attention_received([torch.full((1, 2, 6, 6), 1 / 6)], counts, "self_attention")
    assert [len(shares) for shares in together.values()] == [2, 1, 3]
