"""Which files are clips, why others are refused, and reading a window of a long file, by both decoders."""

import errno
import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers import REPOSITORY, run_ffmpeg
from numbered_clips import reason_of, sample_clip, with_features, with_limits, write_numbered, write_picture

from pipeline.extraction.clip_file import _read_packets, open_clip, read_duration_s
from pipeline.extraction.reasons import REASONS, MediaError
from pipeline.extraction.streams import Streams
from pipeline.extraction.timeline import Window


@pytest.fixture(params=["in_process", "ffmpeg"])
def limits(request, config):
    """The limits, with either decoder."""
    return config.extract.model_copy(update={"decoder": request.param})


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mov"])
def test_the_container_does_not_matter(suffix, tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4")
    frames = ("-c", "copy") if suffix != "avi" else ("-c:v", "mpeg4", "-q:v", "2")  # a copy lacks the last duration
    run_ffmpeg("-i", tmp_path / "clip.mp4", *frames, tmp_path / f"same.{suffix}")
    clip = sample_clip(tmp_path / f"same.{suffix}", clip_settings)
    n = clip_settings.features.frames
    assert clip.numbers == [int((i + 0.5) / n * 100) for i in range(n)]
    np.testing.assert_allclose(clip.times_s, np.array(clip.numbers) / 25, atol=1e-3)


ORDERS = {
    "no B-frames": ("-bf", "0"),
    "B-frames": ("-bf", "3"),
    "pyramid": ("-bf", "8", "-b_strategy", "2", "-refs", "4"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_h264_in_avi_which_stores_no_order_is_shown_in_its_order(order, tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.avi", 250, "25", "-an", "-g", "50", *ORDERS[order])
    whole, n = sample_clip(tmp_path / "clip.avi", with_features(clip_settings, max_duration_s=20.0)), 6
    assert whole.numbers == [int((i + 0.5) / n * 250) for i in range(n)]
    np.testing.assert_allclose(whole.times_s, np.array(whole.numbers) / 25, atol=1e-3)
    for start_s in (0.0, 3.0, 6.0):
        part = sample_clip(tmp_path / "clip.avi", clip_settings, Window(start_s, start_s + 2))
        assert part.numbers == [int(start_s * 25 + (i + 0.5) / n * 50) for i in range(n)]


def test_pictures_of_vp8_that_are_never_shown_are_not_sampled(tmp_path, clip_settings):
    video = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=4", "-c:v", "libvpx", "-b:v", "200k")
    hidden = (
        "-enc_time_base",
        "1:1000",
        "-auto-alt-ref",
        "1",
        "-lag-in-frames",
        "25",
        "-arnr-maxframes",
        "7",
        "-arnr-strength",
        "5",
    )
    for number, target in ((1, ("-f", "null", "-")), (2, (tmp_path / "clip.webm",))):
        run_ffmpeg(*video, *hidden, "-pass", f"{number}", "-passlogfile", tmp_path / "log", *target)
    with av.open(str(tmp_path / "clip.webm")) as container:
        assert sum(packet.size > 0 for packet in container.demux()) > 100, "some packets are hidden pictures"
    clip = sample_clip(tmp_path / "clip.webm", with_features(clip_settings, frames=100))
    np.testing.assert_allclose(clip.times_s, np.arange(100) / 25, atol=2e-3)


def test_a_file_with_sound_alone_is_a_clip_where_video_is_not_required(tmp_path, features, clip_settings):
    settings = with_features(clip_settings, require_video=False)
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=2:sample_rate=44100", "-c:a", "aac", tmp_path / "sound.mp4")
    clip = sample_clip(tmp_path / "sound.mp4", settings)
    assert clip.timeline.duration_s == pytest.approx(2, abs=0.05)
    assert clip.frames.shape == (0, features.frame_size_px, features.frame_size_px, 3)
    spectrum = np.abs(np.fft.rfft(clip.waveform))
    assert np.argmax(spectrum) / len(clip.waveform) * features.sample_rate_hz == pytest.approx(440, abs=1)
    assert len(clip.waveform) / features.sample_rate_hz == pytest.approx(2, abs=0.05)
    write_numbered(tmp_path / "silent.mp4")
    with open_clip(tmp_path / "silent.mp4", settings) as opened:
        assert opened.video is not None
    (tmp_path / "nothing.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    run_ffmpeg("-i", tmp_path / "nothing.srt", "-c:s", "mov_text", tmp_path / "subtitles.mp4")
    assert reason_of(tmp_path / "subtitles.mp4", settings) == "no_video"


def damage_end_of(path, box=b"mdat"):
    """The content of a file with zeros in the second half of its media data."""
    content = bytearray(path.read_bytes())
    start = content.index(box) + 4
    end = start - 8 + int.from_bytes(content[start - 8 : start - 4])
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    return content


def test_each_unusable_file_has_its_reason(tmp_path, clip_settings):
    (tmp_path / "text.mp4").write_text("not a video")
    assert reason_of(tmp_path / "text.mp4", clip_settings) == "unreadable"
    (tmp_path / "empty.mp4").touch()
    assert reason_of(tmp_path / "empty.mp4", clip_settings) == "unreadable"
    assert reason_of(tmp_path / "absent.mp4", clip_settings) == "inaccessible"
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.mp4")
    assert reason_of(tmp_path / "sound.mp4", clip_settings) == "no_video"
    write_numbered(tmp_path / "few.mp4", 3)
    assert reason_of(tmp_path / "few.mp4", clip_settings) == "too_few_frames"
    write_numbered(tmp_path / "long.mp4", 200)
    assert reason_of(tmp_path / "long.mp4", clip_settings) == "too_long"
    write_numbered(tmp_path / "clip.mp4")
    assert reason_of(tmp_path / "clip.mp4", with_limits(clip_settings, max_pixels=5000)) == "too_large"
    (tmp_path / "corrupt.mp4").write_bytes(damage_end_of(tmp_path / "clip.mp4"))
    assert reason_of(tmp_path / "corrupt.mp4", clip_settings) == "video_undecodable"


def test_an_input_error_is_one_of_the_disk_only_if_the_file_cannot_be_read(tmp_path, clip_settings, monkeypatch):
    """libavformat says EIO of a Matroska file that ends in its header."""
    write_numbered(tmp_path / "clip.mkv")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes((tmp_path / "clip.mkv").read_bytes()[:300])
    assert reason_of(cut, clip_settings) == "unreadable"

    def broken_disk(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pathlib.Path.open", broken_disk)
    with pytest.raises(MediaError, match=r"^inaccessible"), open_clip(cut, clip_settings):
        pass


def test_reading_stops_as_soon_as_a_clip_turns_out_to_be_too_long():
    packets = (
        SimpleNamespace(size=1, stream_index=0, pts=25 * second, is_discard=False, is_keyframe=second == 0)
        for second in itertools.count()
    )
    endless, video = SimpleNamespace(demux=lambda _: packets), SimpleNamespace(index=0, time_base=Fraction(1, 25))
    with pytest.raises(MediaError, match=r"too_long: over 6\.0 s or 7 frames, the limit is 5\.5 s"):
        _read_packets(endless, Streams(video, None, timed=video), 5.5)


def test_files_that_were_glued_together_are_not_sampled_out_of_order(tmp_path, clip_settings):
    write_numbered(tmp_path / "first.ts", 50, "25", "-output_ts_offset", "10")
    write_numbered(tmp_path / "second.ts", 50, "25", "-output_ts_offset", "8")
    glued = (tmp_path / "first.ts").read_bytes() + (tmp_path / "second.ts").read_bytes()
    (tmp_path / "glued.ts").write_bytes(glued)
    assert reason_of(tmp_path / "glued.ts", clip_settings) == "bad_timestamps"


def test_a_title_that_is_not_utf_8_is_no_reason_to_refuse_a_clip(tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4", 50, "25", "-metadata", "title=Gr__e")
    (tmp_path / "latin.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes().replace(b"Gr__e", b"Gr\xfc\xdfe"))
    assert len(sample_clip(tmp_path / "latin.mp4", clip_settings).pts) == clip_settings.features.frames


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_a_recording_that_was_cut_between_key_frames_begins_at_the_first_one(suffix, tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4", 100, "25", "-g", "50", "-bf", "3", "-sc_threshold", "0")
    cut = tmp_path / f"cut.{suffix}"
    run_ffmpeg("-i", tmp_path / "clip.mp4", "-ss", "1", "-c", "copy", "-copyinkf", cut)
    clip, n = sample_clip(cut, clip_settings), clip_settings.features.frames
    assert clip.timeline.duration_s == pytest.approx(2)
    assert clip.numbers == [50 + int((i + 0.5) / n * 50) for i in range(n)]


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_the_parts_of_such_a_recording_count_from_the_first_frame_that_can_be_shown(suffix, tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4", 150, "25", "-g", "50", "-bf", "3", "-sc_threshold", "0")
    cut = tmp_path / f"cut.{suffix}"
    run_ffmpeg("-i", tmp_path / "clip.mp4", "-ss", "1", "-c", "copy", "-copyinkf", cut)
    assert read_duration_s(cut, clip_settings) == pytest.approx(4)
    for start_s in (0.0, 1.0, 2.6):
        clip, n = sample_clip(cut, clip_settings, Window(start_s, start_s + 1)), clip_settings.features.frames
        assert clip.numbers == [50 + int(start_s * 25 + (i + 0.5) / n * 25) for i in range(n)]


def test_a_refused_container_is_named(tmp_path, clip_settings):
    write_picture(tmp_path / "clip.flv", "-c:v", "flv")
    (tmp_path / "clip.mp4").write_bytes((tmp_path / "clip.flv").read_bytes())
    with pytest.raises(MediaError, match=r"unreadable: its container, flv, is none of MP4, MOV, .* and AVI"):
        sample_clip(tmp_path / "clip.mp4", clip_settings)


def test_the_documentation_names_every_reason():
    documented = (REPOSITORY / "docs/extraction.md").read_text()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in documented] == []


LONG_S = 10.0
MILLISECOND = 16  # in samples
# A tone whose pitch tells the time, with the numbered frames.
SWEEP = ("-f", "lavfi", "-i", f"aevalsrc=0.4*sin(300*t*t):s=44100:d={LONG_S}")


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "far_key_frames.mp4", "far_key_frames.ts"])
def long_file(request, tmp_path_factory):
    """250 numbered frames at 25 per second with sound: ten seconds, which is more than a clip may last."""
    folder = tmp_path_factory.mktemp("long")
    every = "250" if "far" in request.param else "40"
    path = folder / f"long.{request.param}"
    write_numbered(folder / "silent.mp4", 250, "25", "-an", "-g", every)
    run_ffmpeg("-i", folder / "silent.mp4", *SWEEP, "-c:v", "copy", "-c:a", "aac", path)
    return path


@pytest.mark.parametrize("start_s", [0.0, 0.5, 3.0, 6.02, LONG_S - 2])
def test_a_window_is_read_as_if_it_had_been_cut_out(long_file, start_s, features, clip_settings):
    whole = sample_clip(long_file, with_features(clip_settings, max_duration_s=20.0))
    clip = sample_clip(long_file, clip_settings, Window(start_s, start_s + 2))
    first = math.ceil(start_s * 25)
    expected = [first + math.floor((i + 0.5) * 50 / features.frames) for i in range(features.frames)]
    assert clip.timeline.duration_s == pytest.approx(2)
    assert clip.numbers == expected
    assert len(clip.waveform) == pytest.approx(2 * features.sample_rate_hz, abs=1)
    sound, start = clip.waveform[1000:-1000], round(first / 25 * features.sample_rate_hz) + 1000
    near = range(-MILLISECOND, MILLISECOND + 1)  # Matroska's clock is no finer
    differences = [np.abs(whole.waveform[start + lag :][: len(sound)] - sound).max() for lag in near]
    assert min(differences) < 0.1  # half a sample, where the tone is at its highest


def test_a_window_past_the_end_or_longer_than_a_clip_is_refused(long_file, clip_settings):
    with pytest.raises(MediaError, match="no_video"), open_clip(long_file, clip_settings, Window(11.0, 13.0)):
        pass
    with pytest.raises(MediaError, match="too_long"), open_clip(long_file, clip_settings, Window(1.0, 9.0)):
        pass


def test_the_duration_of_a_file_is_that_of_its_frames(long_file, clip_settings):
    assert read_duration_s(long_file, clip_settings) == pytest.approx(LONG_S)


def test_the_longest_window_that_is_allowed_is_accepted_at_any_frame_rate(features, clip_settings, tmp_path):
    for rate in ("30000/1001", "25", "24"):
        write_numbered(tmp_path / "clip.mp4", 250, rate)
        for start_s in (0.0, 0.01, 1.3):
            window = Window(start_s, start_s + features.max_duration_s)
            with open_clip(tmp_path / "clip.mp4", clip_settings, window) as clip:
                assert features.max_duration_s - 0.05 < clip.timeline.duration_s <= features.max_duration_s


def test_a_duration_with_an_hour_between_two_frames_is_refused(clip_settings, tmp_path):
    write_numbered(tmp_path / "clip.mp4", 50)
    paused = "setts=pts=PTS+gt(N\\,40)*5000/TB:dts=DTS+gt(N\\,40)*5000/TB"
    run_ffmpeg("-i", tmp_path / "clip.mp4", "-c", "copy", "-bsf:v", paused, tmp_path / "paused.mkv")
    with pytest.raises(MediaError, match=r"bad_timestamps: two frames are 50\d\d s apart, the limit is 3600 s"):
        read_duration_s(tmp_path / "paused.mkv", clip_settings)
