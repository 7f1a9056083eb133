import re
import subprocess
from collections import Counter

import numpy as np
import pytest

from pipeline.clips.demo_set import draw_clip, draw_sound, plan_clips, prepare_root
from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS, index_split
from pipeline.common.errors import UserError
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction.timeline import open_clip


@pytest.fixture
def settings(config):
    return config.dataset.synthesize["demo"]


def test_every_pair_of_valences_is_equally_often_in_each_split(settings):
    for split, count in zip(SPLITS, (settings.train_clips, settings.val_clips), strict=True):
        clips = [clip for clip in plan_clips(settings) if clip.split == split]
        assert len(clips) == count
        pairs = Counter((clip.visual_valence, clip.audio_valence) for clip in clips)
        assert set(pairs.values()) == {count // 9}


@pytest.mark.parametrize("modality", ["visual_valence", "audio_valence"])
def test_neither_valence_alone_gives_more_than_five_ninths(settings, modality):
    clips = plan_clips(settings)
    best = sum(
        max(Counter(clip.label for clip in clips if getattr(clip, modality) == valence).values())
        for valence in (-1, 0, 1)
    )
    assert best / len(clips) == pytest.approx(5 / 9)
    both = {(clip.visual_valence, clip.audio_valence): set() for clip in clips}
    for clip in clips:
        both[clip.visual_valence, clip.audio_valence].add(clip.label)
    assert all(len(labels) == 1 for labels in both.values())


def test_a_few_clips_without_sound_and_only_where_the_sound_would_say_nothing(settings):
    silent = [clip for clip in plan_clips(settings) if not clip.has_audio]
    assert 0.01 < len(silent) / (settings.train_clips + settings.val_clips) < 0.04
    assert {clip.audio_valence for clip in silent} == {0}
    assert len({clip.source for clip in silent}) > 5


def test_drawing_replaces_a_drawn_set_and_nothing_else(tmp_path):
    drawn, recorded = tmp_path / "drawn", tmp_path / "recorded"
    prepare_root(drawn)
    (drawn / "Train/1_1.mp4").touch()
    prepare_root(drawn)
    assert not (drawn / "Train/1_1.mp4").exists()
    recorded.mkdir()
    (recorded / "Train_labels.txt").touch()
    with pytest.raises(UserError, match="add -S dataset=vgaf"):
        prepare_root(recorded)
    assert (recorded / "Train_labels.txt").exists()


def test_train_and_val_have_different_sources(settings):
    sources = {split: {clip.source for clip in plan_clips(settings) if clip.split == split} for split in SPLITS}
    assert not sources["train"] & sources["val"]


def test_a_number_of_clips_that_cannot_be_balanced_is_refused(settings):
    with pytest.raises(UserError, match="val_clips is 10, expected a multiple of 9"):
        plan_clips(settings.model_copy(update={"val_clips": 10}))


def test_the_set_is_in_vgafs_layout(drawn_root):
    for split in SPLITS:
        clips, _ = index_split(drawn_root, split)
        assert len(clips) == 9
        lines = (drawn_root / f"{split.capitalize()}_labels.txt").read_bytes()
        assert lines.startswith(b"Vid_name Label\n")
        assert not lines.endswith(b"\n")


def test_clips_are_h264_and_aac_of_three_to_five_seconds(drawn_root, one_clip, features, limits):
    durations = []
    for path in drawn_root.rglob("*.mp4"):
        with open_clip(path, features, limits) as clip:
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


def test_the_labels_are_the_signs_of_the_sums(settings):
    expected = {-2: "negative", -1: "negative", 0: "neutral", 1: "positive", 2: "positive"}
    for clip in plan_clips(settings):
        assert clip.label == expected[clip.visual_valence + clip.audio_valence]
    assert {clip.label for clip in plan_clips(settings)} == set(CLASSES)
