from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clips import splits
from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import Clip, read_manifest, write_manifest
from pipeline.clips.splits import Assignment, assign_roles, read_assignments, write_assignments
from pipeline.common.errors import UserError
from pipeline.loading import selection
from pipeline.loading.selection import ClipRef, Subset, clips_by_role, locate, select_clips
from pipeline.shards.index import ShardIndex


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


@pytest.mark.parametrize(("select_on", "role"), [("dev", "dev"), ("val", "test")])
def test_a_training_that_no_clip_is_left_to_choose_the_epoch_of_is_refused(
    select_on, role, split_workspace, monkeypatch
):
    config = split_workspace(select_on=select_on)
    chosen = {row.clip_id for row in read_assignments(config.manifests, None) if row.role == role}
    located = selection.locate
    monkeypatch.setattr(
        selection, "locate", lambda *split: [clip for clip in located(*split) if clip.clip_id not in chosen]
    )
    with pytest.raises(UserError, match=f"select_on is {select_on}, but no clip of {select_on} is in the shards"):
        select_clips(config)


def with_first_clip(config, split, **changes):
    """Change the first clip of a manifest; another id is one more clip."""
    first, *others = read_manifest(config.manifests, split)
    changed = replace(first, **changes)
    clips = [changed, *others] if changed.clip_id == first.clip_id else [first, *others, changed]
    write_manifest(clips, config.manifests / f"{split}.csv")


STALE = {
    "another label": ("train", {"label": "x"}, r"it holds clip \S+ of train as \w+ of source \d+, and the .* as x of"),
    "another source": ("val", {"source_id": "x"}, r"it holds clip \S+ of val .*, and the manifest as \w+ of source x"),
    "one more train clip": ("train", {"clip_id": "9_9"}, "it lacks clip 9_9 of train"),
    "one more val clip": ("val", {"clip_id": "9_9"}, "it lacks clip 9_9 of val"),
}


@pytest.mark.parametrize("read", [select_clips, clips_by_role], ids=["train", "evaluate"])
@pytest.mark.parametrize("change", STALE)
def test_splits_that_are_older_than_the_manifests_are_refused(change, read, split_workspace):
    config = split_workspace()
    split, changes, difference = STALE[change]
    with_first_clip(config, split, **changes)
    with pytest.raises(UserError, match=f"is older than the manifests: {difference}.*run the split stage again"):
        read(config, fold=None)


def test_splits_with_a_clip_that_has_left_the_manifest_are_refused(split_workspace):
    config = split_workspace()
    write_manifest(read_manifest(config.manifests, "val")[1:], config.manifests / "val.csv")
    with pytest.raises(UserError, match="is older than the manifests: 1 of its clips are not in the manifests"):
        clips_by_role(config, None)


def test_folds_over_train_need_no_row_for_a_val_clip_and_folds_over_both_do(split_workspace):
    config = split_workspace(folds=3)
    with_first_clip(config, "val", label="neutral", source_id="x")
    assert clips_by_role(config, 1)[0]["test"].clips
    both = split_workspace(folds=3, fit_on="train_and_val", select_on="none")
    clips = {split: read_manifest(both.manifests, split) for split in ("train", "val")}
    write_assignments(assign_roles(clips | {"val": clips["val"][1:]}, both), both.manifests)
    with pytest.raises(UserError, match=f"it lacks clip {clips['val'][0].clip_id} of val"):
        clips_by_role(both, 1)


def test_clips_of_one_name_in_both_splits_have_roles_of_their_own(config, monkeypatch):
    subsets = {
        split: Subset([Clip("1_1", "1", split, "1_1.mp4", 1, "")], [ClipRef("1_1", split, 0, None, None)])
        for split in ("train", "val")
    }
    rows = [Assignment(None, role, split, "1_1", "1", split) for role, split in (("dev", "train"), ("test", "val"))]
    monkeypatch.setattr(
        selection, "open_split", lambda config, split: (ShardIndex(Path(split), None, []), subsets[split].clips)
    )
    monkeypatch.setattr(selection, "sha256_of", str)
    monkeypatch.setattr(selection, "locate", lambda index, clips, classes: subsets[index.folder.name].located)
    monkeypatch.setattr(splits, "read_assignments", lambda *_: rows)
    clips, _ = clips_by_role(config, None)
    assert clips == {"fit": Subset([], []), "dev": subsets["train"], "test": subsets["val"]}
