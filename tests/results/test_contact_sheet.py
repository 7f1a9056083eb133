import cv2
import pytest

from pipeline.common.errors import UserError
from pipeline.extraction.clip_reader import Sandbox
from pipeline.extraction.tasks import extract_clip
from pipeline.results.contact_sheet import draw_contact_sheet
from pipeline.shards.format import write_shard


def test_a_sheet_shows_a_row_a_clip_with_its_frames_and_log_mel(one_clip, features, limits, tmp_path):
    sandbox = Sandbox()
    samples = [extract_clip(one_clip, name, features, limits, sandbox) for name in ("1_1", "1_2", "1_3")]
    sandbox.close()
    write_shard(tmp_path, "a.tar", "f", samples)
    figure = draw_contact_sheet(tmp_path / "a.tar", clips=2)
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 2 * (features.frames + 1)
    assert titles[features.frames].startswith("1_1, ")
    assert all(ax.images for ax in figure.axes)
    figure.savefig(tmp_path / "sheet.png")
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] > picture.shape[0]


def test_what_is_no_shard_is_named(one_clip, tmp_path):
    with pytest.raises(UserError, match="not one of this project's shards"):
        draw_contact_sheet(one_clip, 8)
    with pytest.raises(UserError, match=r"a\.tar is missing"):
        draw_contact_sheet(tmp_path / "a.tar", 8)


def test_the_command_writes_a_picture_named_after_the_shard(stage, one_clip, features, limits, tmp_path):
    sandbox = Sandbox()
    write_shard(tmp_path, "val-000000.tar", "f", [extract_clip(one_clip, "1_1", features, limits, sandbox)])
    sandbox.close()
    done = stage("contact_sheet", "val-000000.tar", folder=tmp_path)
    assert done.stdout == "val-000000.png\n", done.stderr
    assert cv2.imread(str(tmp_path / "val-000000.png")) is not None
