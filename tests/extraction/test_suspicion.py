"""Clips that should not be trusted: muted, black or still ones are noted, and recordings are not."""

import pytest
from helpers import run_ffmpeg
from numbered_clips import with_features, write_picture

from pipeline.extraction.clip_reader import read_clip

SILENCE = ("-f", "lavfi", "-i", "anullsrc=sample_rate=44100", "-shortest")
TONE = ("-f", "lavfi", "-i", "sine=duration=2")
HISS = ("-f", "lavfi", "-i", "anoisesrc=amplitude=0.002:seed=1:duration=2")
BLACK = ("-f", "lavfi", "-i", "color=black:size=320x180:rate=25:duration=2")


@pytest.fixture
def suspect(tmp_path, clip_settings):
    """Gives what is noted of a clip that ffmpeg makes with these arguments."""

    def suspect(*arguments):
        run_ffmpeg(*arguments, tmp_path / "clip.mp4")
        return read_clip(tmp_path / "clip.mp4", clip_settings).suspect

    return suspect


@pytest.fixture
def moving(tmp_path):
    """A clip of two seconds with a picture that moves, without sound."""
    write_picture(tmp_path / "moving.mp4")
    return tmp_path / "moving.mp4"


@pytest.fixture
def picture(tmp_path, one_clip):
    """A drawn picture."""
    run_ffmpeg("-ss", "1", "-i", one_clip, "-frames:v", "1", tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_drawn_clips_with_sound_and_without_are_not_suspect(drawn_root, clip_settings):
    assert {
        path.name: noted for path in drawn_root.rglob("*.mp4") if (noted := read_clip(path, clip_settings).suspect)
    } == {}


def test_a_track_of_digital_silence_is_muted_and_a_quiet_one_or_none_is_not(suspect, moving):
    assert suspect("-i", moving, *SILENCE) == ["muted"]
    assert suspect("-i", moving, *HISS) == []
    assert suspect("-i", moving) == []


@pytest.mark.parametrize("options", [(), ("-vf", "noise=alls=6:allf=t"), ("-color_range", "pc"), ("-crf", "40")])
def test_a_black_picture_is_black_whatever_its_range_and_grain(options, suspect):
    assert suspect(*BLACK, *TONE, *options) == ["black"]
    assert suspect(*BLACK, *SILENCE, *options) == ["muted", "black"]


def test_a_dark_picture_with_something_in_it_is_not_black(suspect):
    assert suspect("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=2", "-vf", "eq=brightness=-0.3") == []


def test_a_clip_that_is_black_for_a_while_is_not_black(suspect):
    shown = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=2")
    assert suspect(*BLACK, *shown, "-filter_complex", "[0:v][1:v]concat", "-pix_fmt", "yuv420p") == []


ENCODINGS = {
    "h264": ("-c:v", "libx264", "-crf", "23"),
    "short groups": ("-c:v", "libx264", "-crf", "30", "-g", "12"),
    "coarse": ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "38", "-g", "25"),
    "mpeg4": ("-c:v", "mpeg4", "-q:v", "12"),
    "grain": ("-vf", "noise=alls=6:allf=t", "-c:v", "libx264"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_picture_that_is_shown_all_the_time_is_still_whatever_the_encoder_makes_of_it(encoding, suspect, picture):
    shown = ("-loop", "1", "-framerate", "25", "-t", "2", "-i", picture)
    assert suspect(*shown, *TONE, *ENCODINGS[encoding], "-pix_fmt", "yuv420p") == ["still"]


def test_a_clip_with_one_frame_is_not_called_still(picture, clip_settings, tmp_path):
    run_ffmpeg("-loop", "1", "-t", "1", "-i", picture, "-pix_fmt", "yuv420p", tmp_path / "clip.mp4")
    assert read_clip(tmp_path / "clip.mp4", with_features(clip_settings, frames=1)).suspect == []


def test_a_clip_whose_picture_changes_once_is_not_still(suspect, picture):
    half = ("-loop", "1", "-framerate", "25", "-t", "1", "-i", picture)
    assert suspect(*half, *half, "-filter_complex", "[1:v]hflip[b];[0:v][b]concat", "-pix_fmt", "yuv420p") == []
