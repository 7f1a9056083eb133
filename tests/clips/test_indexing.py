"""Indexing a data set: what is recorded of each clip, of a label file or table, and of what is in it twice."""

import hashlib

import pytest
from helpers import dataset_at

from pipeline.clips import indexing
from pipeline.clips.indexing import index_dataset, sources_in_both
from pipeline.clips.manifest import IdenticalClips, read_manifest, read_summary, write_manifests
from pipeline.common.errors import UserError


@pytest.fixture
def root(tmp_path):
    for split, names in {"Train": ("7_1", "7_2", "8_1"), "Val": ("9_1",)}.items():
        (tmp_path / split).mkdir()
        for name in names:
            (tmp_path / split / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "Train_labels.txt").write_text("Vid_name Label\n8_1 3\n7_2 2\n7_1 1")
    (tmp_path / "Val_labels.txt").write_text("Vid_name Label\n9_1 1")
    return tmp_path


@pytest.fixture
def table(tmp_path):
    """Gives the settings of a data set that a table in a folder of its own lists, beside two files."""

    def table(*lines, **changes):
        (tmp_path / "table").mkdir(exist_ok=True)
        (tmp_path / "table/clips.csv").write_text("\n".join(lines))
        for name in ("long.mp4", "short.mp4"):
            (tmp_path / "table" / name).write_bytes(name.encode())
        settings = {"table": str(tmp_path / "table/clips.csv"), "classes": ["sad", "happy", "calm", "angry"], **changes}
        return dataset_at(tmp_path, **settings)

    return table


def test_each_clip_has_its_source_label_path_size_and_digest(root):
    clips, summary = index_dataset(dataset_at(root))
    assert [(c.clip_id, c.source_id, c.label, c.path, c.bytes) for c in clips["train"]] == [
        ("7_1", "7", "positive", "Train/7_1.mp4", 3),
        ("7_2", "7", "neutral", "Train/7_2.mp4", 3),
        ("8_1", "8", "negative", "Train/8_1.mp4", 3),
    ]
    assert clips["train"][0].sha256 == hashlib.sha256(b"7_1").hexdigest()
    assert summary.train.class_counts == {"positive": 1, "neutral": 1, "negative": 1}
    assert (summary.train.sources, summary.train.bytes, summary.identical) == (2, 9, [])
    assert summary.classes == ["positive", "neutral", "negative"]


def test_the_classes_may_have_other_names_and_any_number(root):
    clips, summary = index_dataset(dataset_at(root, classes=["a", "b", "c", "d"]))
    assert [clip.label for clip in clips["train"]] == ["a", "b", "c"]
    assert summary.val.class_counts == {"a": 1, "b": 0, "c": 0, "d": 0}


def test_the_summary_distinguishes_label_files(root):
    before = index_dataset(dataset_at(root))[1].train.label_sha256
    (root / "Train_labels.txt").write_text("Vid_name Label\n8_1 3\n7_2 2\n7_1 2")
    assert index_dataset(dataset_at(root))[1].train.label_sha256 != before


def test_manifests_are_read_as_they_were_written(root, tmp_path):
    clips, summary = index_dataset(dataset_at(root))
    write_manifests(clips, summary, tmp_path / "manifests")
    assert {split: read_manifest(tmp_path / "manifests", split) for split in clips} == clips
    assert read_summary(tmp_path / "manifests") == summary


def test_the_parts_of_a_file_are_hashed_and_counted_once(table, monkeypatch):
    hashed = []
    digest = indexing.sha256_of
    monkeypatch.setattr(indexing, "sha256_of", lambda path: hashed.append(path.name) or digest(path))
    dataset = table(
        "path,label,source,start_s,end_s", "long.mp4,sad,x,2,4", "long.mp4,calm,x,0,2", "short.mp4,angry,y,,"
    )
    clips, summary = index_dataset(dataset)
    assert [(c.clip_id, c.path, c.start_s, c.end_s) for c in clips["train"]] == [
        ("long-0-2000", "long.mp4", 0.0, 2.0),
        ("long-2000-4000", "long.mp4", 2.0, 4.0),
        ("short", "short.mp4", None, None),
    ]
    assert sorted(hashed) == ["clips.csv", "long.mp4", "short.mp4"]
    assert summary.train.bytes == len("long.mp4") + len("short.mp4")
    assert summary.train.class_counts == {"sad": 1, "happy": 0, "calm": 1, "angry": 1}


def test_a_table_without_splits_leaves_val_empty(table):
    clips, summary = index_dataset(table("path,label,source", "long.mp4,sad,x", "short.mp4,happy,y"))
    assert (len(clips["train"]), clips["val"]) == (2, [])
    assert (summary.val.clips, summary.val.sources, summary.val.bytes) == (0, 0, 0)
    assert summary.train.label_file == summary.val.label_file == "clips.csv"
    assert summary.train.label_sha256 == summary.val.label_sha256


def test_a_source_in_both_splits_is_found(root, table):
    train = index_dataset(dataset_at(root))[0]["train"]
    assert sources_in_both(train[:2], train[2:]) == []
    lines = ("path,label,source,split", "long.mp4,sad,anna,train", "short.mp4,happy,anna,val")
    assert index_dataset(table(*lines))[1].sources_in_both == ["anna"]


def test_the_same_recording_in_both_splits_is_refused_unless_it_is_allowed(root):
    (root / "Val/9_1.mp4").write_bytes(b"7_2")
    with pytest.raises(UserError, match=r"7_2 in train and 9_1 in val.*dataset\.allow_identical=true"):
        index_dataset(dataset_at(root))
    summary = index_dataset(dataset_at(root, allow_identical=True))[1]
    assert summary.identical == [IdenticalClips(train=["7_2"], val=["9_1"], labels=["neutral", "positive"])]
