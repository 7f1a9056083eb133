"""The demo set: what its labels depend on, and its layout."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from helpers import clips_of

from pipeline.clips.demo_set import MARKER, plan_clips, prepare_root
from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS
from pipeline.common.errors import UserError


@pytest.fixture
def settings(config):
    return config.dataset.synthesize["demo"]


def test_every_pair_of_valences_is_equally_frequent_in_each_split(settings):
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


def test_a_few_clips_have_no_sound_and_only_where_the_sound_is_neutral(settings):
    silent = [clip for clip in plan_clips(settings) if not clip.has_audio]
    assert 0.01 < len(silent) / (settings.train_clips + settings.val_clips) < 0.04
    assert {clip.audio_valence for clip in silent} == {0}
    assert len({clip.source for clip in silent}) > 5


def test_drawing_replaces_a_drawn_set_but_no_recordings(tmp_path):
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


def test_a_drawn_set_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "drawn").symlink_to(tmp_path / "disk")
    prepare_root(tmp_path / "drawn")
    (tmp_path / "disk/Train/1_1.mp4").touch()
    prepare_root(tmp_path / "drawn")
    assert (tmp_path / "drawn").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").rglob("*")) == [MARKER, "Train", "Val"]


@pytest.mark.parametrize(("owner", "name"), [(shutil, "rmtree"), (Path, "unlink"), (Path, "mkdir")])
def test_drawing_that_was_killed_at_any_moment_can_be_done_again(owner, name, tmp_path, monkeypatch):
    root = tmp_path / "drawn"
    prepare_root(root)
    (root / "Train_labels.txt").touch()
    do = getattr(owner, name)

    def killed(path, *arguments, **options):
        if path not in (root, root / "Train"):  # of the folders, the second one
            raise KeyboardInterrupt
        do(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_root(root)
    prepare_root(root)
    assert sorted(path.name for path in root.rglob("*")) == [MARKER, "Train", "Val"]


def test_train_and_val_have_different_sources(settings):
    sources = {split: {clip.source for clip in plan_clips(settings) if clip.split == split} for split in SPLITS}
    assert not sources["train"] & sources["val"]


def test_a_number_of_clips_that_cannot_be_balanced_is_refused(settings):
    with pytest.raises(UserError, match="val_clips is 10, expected a multiple of 9"):
        plan_clips(settings.model_copy(update={"val_clips": 10}))


def test_the_set_has_the_layout_of_vgaf(drawn_root):
    for split in SPLITS:
        clips = clips_of(drawn_root, split)
        assert len(clips) == 9
        lines = (drawn_root / f"{split.capitalize()}_labels.txt").read_bytes()
        assert lines.startswith(b"Vid_name Label\n")
        assert not lines.endswith(b"\n")


def test_the_labels_are_the_signs_of_the_sums(settings):
    expected = {-2: "negative", -1: "negative", 0: "neutral", 1: "positive", 2: "positive"}
    for clip in plan_clips(settings):
        assert clip.label == expected[clip.visual_valence + clip.audio_valence]
    assert {clip.label for clip in plan_clips(settings)} == set(CLASSES)
