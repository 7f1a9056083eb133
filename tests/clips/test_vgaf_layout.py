"""VGAF's layout: which files are clips, and what is missing or superfluous."""

import shutil

import pytest

from pipeline.clips.labels import CLASSES
from pipeline.clips.vgaf_layout import list_split
from pipeline.common.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Train").mkdir()
    for name in ("7_1", "7_2", "8_1"):
        (tmp_path / "Train" / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "Train_labels.txt").write_text("Vid_name Label\n8_1 3\n7_2 2\n7_1 1")
    return tmp_path


def paths(root):
    return {clip.clip_id: clip.path.as_posix() for clip in list_split(root, "train", CLASSES).clips}


def test_each_clip_has_its_source_label_and_path(root):
    listing = list_split(root, "train", CLASSES)
    assert listing.file.as_posix() == "Train_labels.txt"
    assert [(clip.clip_id, clip.source_id, clip.label, clip.path.as_posix()) for clip in listing.clips] == [
        ("8_1", "8", "negative", "Train/8_1.mp4"),
        ("7_2", "7", "neutral", "Train/7_2.mp4"),
        ("7_1", "7", "positive", "Train/7_1.mp4"),
    ]


def test_a_copy_nested_one_folder_deeper_is_found(root, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(root, outer / "VGAF_EmotiW")
    assert paths(outer)["7_1"] == "VGAF_EmotiW/Train/7_1.mp4"


def test_the_suffix_of_a_clip_may_have_any_case(root):
    (root / "Train/7_1.mp4").rename(root / "Train/7_1.MP4")
    (root / "Train/7_2.mp4").rename(root / "Train/7_2.Mp4")
    assert paths(root) == {"8_1": "Train/8_1.mp4", "7_2": "Train/7_2.Mp4", "7_1": "Train/7_1.MP4"}


def test_hidden_files_and_what_windows_adds_are_ignored(root):
    before = paths(root)
    for name in ("._7_1.mp4", ".DS_Store", "Thumbs.db", ".9_1.mp4"):
        (root / "Train" / name).touch()
    (root / "._Train_labels.txt").touch()
    assert paths(root) == before


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda root: (root / "Train_labels.txt").unlink(), "label file"),
        (lambda root: (root / "Train" / "7_2.mp4").unlink(), "lacks 7_2.mp4"),
        (lambda root: (root / "Train" / "9_1.mp4").touch(), "no line for 9_1"),
        (lambda root: (root / "Train" / "7_1.MP4").touch(), r"7_1\.MP4 and 7_1\.mp4, which are one clip"),
        (lambda root: (root / "Train_labels.txt").write_text("Vid_name Label\n"), "lists no clip"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_what_is_missing_or_superfluous_is_named(root, break_it, named):
    break_it(root)
    with pytest.raises(UserError, match=named):
        list_split(root, "train", CLASSES)
