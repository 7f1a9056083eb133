"""Which streams of a file make the clip, and files that end before their containers say that they do."""

import pytest
from helpers import run_ffmpeg
from numbered_clips import reason_of, sample_clip, with_features, write_numbered, write_picture

from pipeline.extraction.clip_file import read_duration_s
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import Window

COPY_BOTH = ("-map", "0", "-map", "1", "-c", "copy")  # the streams of two files, those of the first one first


def write_with_cover(path, folder):
    """A song with a cover picture."""
    write_picture(folder / "cover.png", "-frames:v", "1")
    run_ffmpeg(
        *("-f", "lavfi", "-i", "sine=duration=2", "-i", folder / "cover.png"),
        *COPY_BOTH,
        *("-c:a", "aac", "-disposition:v", "attached_pic", path),
    )


def test_a_cover_picture_is_not_a_video(tmp_path, clip_settings):
    write_with_cover(tmp_path / "song.m4a", tmp_path)
    assert reason_of(tmp_path / "song.m4a", clip_settings) == "no_video"
    clip = sample_clip(tmp_path / "song.m4a", with_features(clip_settings, require_video=False))
    assert len(clip.frames) == 0
    assert clip.timeline.duration_s == pytest.approx(2, abs=0.05)


def with_cover_before_tracks(content):
    """The content of an mp4 file with its tags, which hold the cover, at the beginning of its `moov` box."""
    start = content.index(b"moov") - 4
    size = int.from_bytes(content[start : start + 4])
    boxes, at = [], start + 8
    while at < start + size:
        length = int.from_bytes(content[at : at + 4])
        boxes.append(content[at : at + length])
        at += length
    boxes.sort(key=lambda box: [b"mvhd", b"udta"].index(box[4:8]) if box[4:8] in (b"mvhd", b"udta") else 2)
    return content[: start + 8] + b"".join(boxes) + content[start + size :]


def test_the_video_is_found_behind_a_cover_and_a_thumbnail(tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4")
    write_picture(tmp_path / "cover.jpg", "-frames:v", "1")
    both = ("-i", tmp_path / "clip.mp4", "-i", tmp_path / "cover.jpg")
    run_ffmpeg(*both, *COPY_BOTH, "-disposition:v:1", "attached_pic", tmp_path / "cover.mp4")
    (tmp_path / "first.mp4").write_bytes(with_cover_before_tracks((tmp_path / "cover.mp4").read_bytes()))
    for name in ("thumbnail.mp4", "thumbnail.mkv"):
        run_ffmpeg(*both[2:], *both[:2], *COPY_BOTH, tmp_path / name)
    for name in ("cover.mp4", "first.mp4", "thumbnail.mp4", "thumbnail.mkv"):
        assert len(set(sample_clip(tmp_path / name, clip_settings).numbers)) == clip_settings.features.frames


TRUNCATED = {
    "mp4": ("-c", "copy", "-movflags", "faststart"),
    "mov": ("-c", "copy", "-movflags", "faststart"),
    "mkv": ("-c", "copy"),
    "webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"),
    "avi": ("-c:v", "mpeg4", "-c:a", "mp3"),
}


@pytest.mark.parametrize("suffix", TRUNCATED)
def test_a_file_that_ends_before_its_container_says_so_is_refused(suffix, tmp_path, clip_settings):
    write_picture(tmp_path / "clip.mp4", "-c:v", "libx264", "-c:a", "aac", seconds=4, sound=True)
    run_ffmpeg("-i", tmp_path / "clip.mp4", *TRUNCATED[suffix], tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    part = tmp_path / f"part.{suffix}"
    sample_clip(tmp_path / f"whole.{suffix}", clip_settings)
    for percent in (30, 50, 80, 95):
        part.write_bytes(content[: len(content) * percent // 100])
        assert reason_of(part, clip_settings) == "truncated"
        with pytest.raises(MediaError, match=r"truncated: the \w+ stream should last until 4\.\d\d s, but ends at"):
            read_duration_s(part, clip_settings)


def test_a_window_of_a_truncated_file_is_refused_if_the_file_ends_in_it(tmp_path, clip_settings):
    write_picture(tmp_path / "clip.mp4", "-c:v", "libx264", "-g", "10", "-movflags", "faststart", seconds=12)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "part.mp4").write_bytes(content[: len(content) // 2])
    assert sample_clip(tmp_path / "part.mp4", clip_settings, Window(0.0, 2.0)).timeline.duration_s == pytest.approx(2)
    for start_s in (5.0, 9.0):
        with pytest.raises(MediaError, match="truncated"):
            sample_clip(tmp_path / "part.mp4", clip_settings, Window(start_s, start_s + 2))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_window_after_the_end_of_the_sound_is_silent_and_not_truncated(suffix, tmp_path, clip_settings):
    write_picture(tmp_path / "silent.mp4", "-c:v", "libx264", "-g", "25", seconds=10)
    both = ("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=duration=2")
    run_ffmpeg(*both, "-c:v", "copy", "-c:a", "aac", tmp_path / f"clip.{suffix}")
    clip = sample_clip(tmp_path / f"clip.{suffix}", clip_settings, Window(6.0, 9.0))
    assert clip.timeline.duration_s == pytest.approx(3)
    assert not clip.timeline.has_audio


def test_fragments_that_were_cut_without_encoding_are_whole(tmp_path, clip_settings):
    write_picture(tmp_path / "clip.mp4", "-c:v", "libx264", "-g", "50", "-c:a", "aac", seconds=10, sound=True)
    cut = ("-ss", "2.6", "-i", tmp_path / "clip.mp4", "-t", "5", "-c", "copy")
    run_ffmpeg(*cut, "-movflags", "frag_keyframe+delay_moov", tmp_path / "cut.mp4")
    settings = with_features(clip_settings, max_duration_s=20.0)
    whole = sample_clip(tmp_path / "cut.mp4", settings)
    assert whole.timeline.duration_s == pytest.approx(read_duration_s(tmp_path / "cut.mp4", settings))
    end_s = whole.timeline.duration_s
    part = sample_clip(tmp_path / "cut.mp4", settings, Window(end_s - 1, end_s))
    assert part.timeline.duration_s == pytest.approx(1)
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "part.mp4").write_bytes(content[: len(content) * 6 // 10])
    assert reason_of(tmp_path / "part.mp4", settings) == "truncated"
