import pytest

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.loading.selection import hold_out_sources, locate, select_clips


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


def test_whole_sources_are_held_out(refs):
    kept, held_out = hold_out_sources(refs, 0.3, 0)
    assert len(kept) + len(held_out) == len(refs)
    assert len({ref.source_id for ref in held_out}) == 1
    assert not {ref.source_id for ref in kept} & {ref.source_id for ref in held_out}


def test_a_single_source_cannot_be_held_out(refs):
    with pytest.raises(UserError, match="train has 1; set it to val or none"):
        hold_out_sources([ref for ref in refs if ref.source_id == refs[0].source_id], 0.3, 0)


def test_dev_is_held_out_of_train_and_val_chooses_nothing(workspace, monkeypatch):
    monkeypatch.chdir(workspace[0])
    clips = select_clips(workspace[1])
    kept, held_out = ({ref.source_id for ref in refs} for refs in (clips.training, clips.selection))
    assert kept
    assert held_out
    assert not kept & held_out
    assert all("train" in ref.file.path.name for ref in clips.selection)
