"""`python -m stages.contact_sheet`: what a shard holds, as a picture."""

import contextlib
import os
import shutil

import cv2
import pytest

from pipeline.clips.manifest import TRAIN
from pipeline.common.errors import UserError
from pipeline.loading.loader import read_sample
from pipeline.loading.selection import locate, open_split
from pipeline.results.contact_sheet import draw_contact_sheet
from pipeline.shards.format import write_shard


@pytest.fixture
def shard(workspace, tmp_path):
    """A shard with three clips that have sound, in a folder of its own."""
    root, config = workspace
    with contextlib.chdir(root):
        clips = [clip for clip in locate(*open_split(config, TRAIN), config.dataset.classes) if clip.entry.has_audio]
        samples = [read_sample(clip) for clip in clips[:3]]
    write_shard(tmp_path, "val-000000.tar", "f", samples)
    return tmp_path / "val-000000.tar", [sample.clip_id for sample in samples]


def test_a_contact_sheet_has_one_row_per_clip_with_its_frames_and_log_mel(shard, features, tmp_path):
    path, clip_ids = shard
    figure = draw_contact_sheet(path, clips=2)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 2 * (features.frames + 1)
    assert titles[features.frames].startswith(f"{clip_ids[0]}, ")
    assert titles[-1].startswith(f"{clip_ids[1]}, ")
    assert all(axes.images for axes in figure.axes)
    figure.savefig(tmp_path / "sheet.png")
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] > picture.shape[0]


def test_a_file_that_is_not_a_shard_is_named(one_clip, tmp_path):
    with pytest.raises(UserError, match="not one of this project's shards"):
        draw_contact_sheet(one_clip, 8)
    with pytest.raises(UserError, match=r"a\.tar is missing"):
        draw_contact_sheet(tmp_path / "a.tar", 8)


def test_the_command_writes_a_picture_that_is_named_after_the_shard(stage, shard):
    path, _ = shard
    process = stage("contact_sheet", path.name, folder=path.parent)
    assert process.stdout == "val-000000.png\n", process.stderr
    assert cv2.imread(str(path.with_suffix(".png"))) is not None


def test_the_newest_of_several_shards_is_drawn(shard, stage, tmp_path):
    """The pattern of the documented command matches one in each folder of features."""
    path, _ = shard
    old, new = tmp_path / "a.tar", tmp_path / "b.tar"
    for number, copy in enumerate((new, old, tmp_path / "c.tar")):
        shutil.copy(path, copy)
        os.utime(copy, (1000 - number, 1000 - number))
    assert stage("contact_sheet", tmp_path / "c.tar", old, new, folder=tmp_path).stdout == "b.png\n"
    missing = stage("contact_sheet", new, tmp_path / "d.tar", folder=tmp_path)
    assert missing.returncode == 2
    assert "d.tar is missing" in missing.stderr


def test_the_suffix_of_the_picture_says_its_format_png_without_one(shard, stage, tmp_path):
    path, _ = shard
    for name in ("sheet", "sheet.jpg"):
        done = stage("contact_sheet", path, "--output", name, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
        assert (tmp_path / name).is_file()
    refused = stage("contact_sheet", path, "--output", "sheet.foo", folder=tmp_path)
    assert refused.returncode == 2
    assert "error: --output is sheet.foo, expected a name that ends in" in refused.stderr
