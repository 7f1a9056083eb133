"""The manifest: which clips there are, and what is recorded of them."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clips.manifest import Clip, index_split, read_manifest, sources_in_both, write_manifest
from pipeline.common.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Train").mkdir()
    for name in ("7_1", "7_2", "8_1"):
        (tmp_path / "Train" / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "Train_labels.txt").write_text("Vid_name Label\n8_1 3\n7_2 2\n7_1 1")
    return tmp_path


def test_each_clip_has_its_source_label_path_and_size(root):
    clips, summary = index_split(root, "train")
    assert [(c.clip_id, c.source_id, c.label, c.path, c.bytes) for c in clips] == [
        ("7_1", "7", "positive", "Train/7_1.mp4", 3),
        ("7_2", "7", "neutral", "Train/7_2.mp4", 3),
        ("8_1", "8", "negative", "Train/8_1.mp4", 3),
    ]
    assert summary.class_counts == {"positive": 1, "neutral": 1, "negative": 1}
    assert summary.sources == 2


def test_the_summary_distinguishes_label_files(root):
    before = index_split(root, "train")[1].label_sha256
    (root / "Train_labels.txt").write_text("Vid_name Label\n8_1 3\n7_2 2\n7_1 2")
    assert index_split(root, "train")[1].label_sha256 != before


def test_a_manifest_is_read_as_it_was_written(root, tmp_path):
    clips, _ = index_split(root, "train")
    write_manifest(clips, tmp_path / "train.csv")
    assert read_manifest(tmp_path, "train") == clips


def test_a_copy_nested_one_folder_deeper_is_found(root, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(root, outer / "VGAF_EmotiW")
    clips, _ = index_split(outer, "train")
    assert clips[0].path == "VGAF_EmotiW/Train/7_1.mp4"


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda root: (root / "Train_labels.txt").unlink(), "label file"),
        (lambda root: (root / "Train" / "7_2.mp4").unlink(), "lacks 7_2.mp4"),
        (lambda root: (root / "Train" / "9_1.mp4").touch(), "no line for 9_1"),
        (lambda root: (root / "Train_labels.txt").write_text("Vid_name Label\n"), "lists no clip"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_what_is_missing_or_superfluous_is_named(root, break_it, named):
    break_it(root)
    with pytest.raises(UserError, match=named):
        index_split(root, "train")


def test_a_source_in_both_splits_is_found(root):
    clips, _ = index_split(root, "train")
    assert sources_in_both(clips[:2], clips[2:]) == []
    assert sources_in_both(clips[:1], clips[1:]) == ["7"]


# No lone carriage return: Python's csv writes it unquoted and reads it as the end of a line.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=30)


@given(st.lists(st.builds(Clip, names, names, names, names, st.integers(0, 10**12), names), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_manifest_is_read_as_it_was_written(tmp_path, clips):
    write_manifest(clips, tmp_path / "train.csv")
    assert read_manifest(tmp_path, "train") == clips
