"""Drawing the clips of the demo set."""

import re
import subprocess

import numpy as np
import pytest
from helpers import dataset_at

from pipeline.clips.demo_drawing import draw_clip, draw_set, draw_sound
from pipeline.clips.demo_set import plan_clips
from pipeline.clips.indexing import index_dataset
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction.clip_file import open_clip


@pytest.fixture
def settings(config):
    return config.dataset.synthesize["demo"]


def test_a_set_is_drawn_into_its_folders(settings, drawn_root, tmp_path):
    draw_set("demo", settings.model_copy(update={"train_clips": 9, "val_clips": 9, "clips_per_source": 3}), tmp_path)
    assert index_dataset(dataset_at(tmp_path)) == index_dataset(dataset_at(drawn_root))


def test_clips_are_h264_and_aac_of_three_to_five_seconds(drawn_root, one_clip, clip_settings):
    durations = []
    for path in drawn_root.rglob("*.mp4"):
        with open_clip(path, clip_settings) as clip:
            durations.append(clip.timeline.duration_s)
    assert 2.9 < min(durations) < max(durations) < 5.1
    shown = subprocess.run([ffmpeg_path(), "-i", one_clip], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*yuv420p", shown)
    assert "Audio: aac" in shown


def test_the_same_settings_draw_the_same_file(settings, tmp_path):
    clip = plan_clips(settings)[0]
    for name in ("a", "b"):
        (tmp_path / name / "Train").mkdir(parents=True)
        draw_clip(clip, settings, tmp_path / name)
    drawn = [(tmp_path / name / "Train" / f"{clip.clip_id}.mp4").read_bytes() for name in ("a", "b")]
    assert drawn[0] == drawn[1]


def test_a_sound_stays_within_its_clip():
    for seed in range(20):
        sound = draw_sound(np.random.default_rng(seed), np.random.default_rng(seed), 1, 3.0)
        assert len(sound) == 3 * 44_100
        assert np.abs(sound).max() <= 1
