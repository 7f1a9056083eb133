import pytest

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import Clip
from pipeline.clips.splits import Assignment, read_assignments
from pipeline.common.errors import UserError
from pipeline.loading import selection
from pipeline.loading.selection import ClipRef, Subset, clips_with_role, locate, select_clips


def test_labels_come_from_the_manifest(extracted):
    index, clips = extracted
    labels = {clip.clip_id: CLASSES.index(clip.label) for clip in clips}
    assert {ref.clip_id: ref.label for ref in locate(index, clips, CLASSES)} == labels


def test_a_clip_of_the_manifest_that_is_not_in_the_shards_is_named(extracted):
    index, clips = extracted
    stray = type(clips[0])(**{**vars(clips[0]), "clip_id": "99_1"})
    with pytest.raises(UserError, match=r"1 clips of the manifest are not in .*, 99_1 among them"):
        locate(index, [*clips, stray], CLASSES)


def test_labels_are_numbered_in_the_order_of_the_classes_and_another_label_is_refused(extracted):
    index, clips = extracted
    order = ("negative", "positive", "neutral")
    expected = {clip.clip_id: order.index(clip.label) for clip in clips}
    assert {ref.clip_id: ref.label for ref in locate(index, clips, order)} == expected
    with pytest.raises(UserError, match=r"is labelled neutral, which is not in dataset\.classes"):
        locate(index, clips, ("negative", "positive"))


def test_dev_is_held_out_of_train_and_val_chooses_nothing(workspace, monkeypatch):
    monkeypatch.chdir(workspace[0])
    clips = select_clips(workspace[1])
    kept, held_out = ({ref.source_id for ref in refs} for refs in (clips.training, clips.selection))
    assert kept
    assert held_out
    assert not kept & held_out
    assert all("train" in ref.file.path.name for ref in clips.selection)


def test_each_fold_trains_on_the_clips_that_the_other_folds_report(split_workspace):
    config = split_workspace(folds=3)
    for fold in (1, 2, 3):
        clips = select_clips(config, fold)
        tested = {row.clip_id for row in read_assignments(config.manifests, fold) if row.role == "test"}
        used = {ref.clip_id for ref in [*clips.training, *clips.selection]}
        assert tested
        assert not used & tested
        assert len(used | tested) == 9


def test_for_a_submission_all_labelled_clips_are_trained_on(split_workspace):
    config = split_workspace(fit_on="train_and_val", select_on="none")
    clips = select_clips(config)
    assert len(clips.training) == 9 + 8, "one clip of val is quarantined"
    assert clips.selection == []


def test_splits_that_are_older_than_the_manifest_are_refused(split_workspace):
    config = split_workspace()
    manifest = config.manifests / "train.csv"
    manifest.write_text(manifest.read_text().replace("positive", "neutral", 1))
    with pytest.raises(UserError, match="is older than the manifests; run the split stage again"):
        select_clips(config)


def test_clips_of_one_name_in_both_splits_have_roles_of_their_own(config, monkeypatch):
    subsets = {
        split: Subset([Clip("1_1", "1", split, "1_1.mp4", 1, "")], [ClipRef("1_1", split, 0, None, None)])
        for split in ("train", "val")
    }
    rows = [Assignment(None, role, split, "1_1", "1", split) for role, split in (("fit", "train"), ("test", "val"))]
    monkeypatch.setattr(selection, "clips_of_split", lambda config, split: subsets[split])
    monkeypatch.setattr(selection, "read_assignments", lambda *_: rows)
    assert clips_with_role(config, None, "fit") == subsets["train"]
    assert clips_with_role(config, None, "test") == subsets["val"]
