"""Timelines, sampled frames and waveforms of made clips, by both decoders."""

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from conftest import REPOSITORY, run_ffmpeg

from pipeline.extraction import timeline as media
from pipeline.extraction.decoding import AUDIO_SLACK_S, decode, decode_in_process, decode_with_ffmpeg
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.timeline import REASONS, MediaError, Window, open_clip, read_duration_s, sample_pts

BITS = 8


def numbered_frames(count, height=64, width=128):
    """Frames that show their own number as eight bars, black or white, the lowest bit on the left."""
    bits = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
    bars = np.repeat(bits, width // BITS, axis=1).astype(np.uint8) * 255
    return np.broadcast_to(bars[:, None, :, None], (count, height, width, 3))


def read_number(frame):
    """The number that a decoded frame shows."""
    middle = frame[frame.shape[0] // 2, :, 0].reshape(BITS, -1).mean(axis=1)
    return int(((middle > 127) << np.arange(BITS)).sum())


def write_numbered(path, tmp_path, count=100, rate="25", *options):
    raw = tmp_path / "frames.raw"
    numbered_frames(count).tofile(raw)
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "128x64", "-framerate", rate, "-i", raw),
        *("-c:v", "libx264", "-g", "250", "-bf", "3", "-pix_fmt", "yuv420p"),
        *(options or ("-an",)),
        path,
    )


def write_picture(path, *options, size="320x180", seconds=2, sound=False):
    """A moving, grainy picture: its frames differ, and its B-frames are worth an encoder's while."""
    video = f"testsrc2=size={size}:rate=25:duration={seconds},noise=alls=8:allf=t"
    tone = ("-f", "lavfi", "-i", f"aevalsrc=0.4*sin(500*t*t)|0.3*sin(900*t):s=44100:d={seconds}") if sound else ()
    run_ffmpeg("-f", "lavfi", "-i", video, *tone, *options, path)


@pytest.fixture(params=["in_process", "ffmpeg"])
def limits(request, config):
    """The limits, with either decoder."""
    return config.extract.model_copy(update={"decoder": request.param})


@pytest.fixture
def quick_limits(config):
    """The limits, with the decoder that is not the reference."""
    return config.extract.model_copy(update={"decoder": "in_process"})


def decoded(path, features, limits):
    with open_clip(path, features, limits) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        result = decode(clip, pts, features, limits)
    return clip.timeline, pts, result


def sampled_numbers(path, features, limits):
    timeline, pts, result = decoded(path, features, limits)
    return (
        [read_number(frame) for frame in result.frames],
        [timeline.seconds(p) for p in pts],
        timeline,
        result.waveform,
    )


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "30"])
def test_each_frame_is_the_one_shown_at_its_time(rate, tmp_path, features, limits):
    count = 96
    write_numbered(tmp_path / "clip.mp4", tmp_path, count, rate)
    numbers, times_s, timeline, _ = sampled_numbers(tmp_path / "clip.mp4", features, limits)
    numerator, _, denominator = rate.partition("/")
    frames_per_s = int(numerator) / int(denominator or 1)
    assert timeline.duration_s == pytest.approx(count / frames_per_s, abs=1e-3)
    n = features.frames
    assert numbers == [int((i + 0.5) / n * count) for i in range(n)]
    np.testing.assert_allclose(times_s, np.array(numbers) / frames_per_s, atol=1e-3)


def test_a_variable_frame_rate_is_sampled_by_time_not_by_number(tmp_path, features, limits):
    # 40 frames in the first second, 60 in the next three
    slow_down = "setpts=if(lt(N\\,40)\\,N/40\\,1+(N-40)/20)/TB"
    exactly = ("-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-video_track_timescale", "1000")
    write_numbered(tmp_path / "clip.mp4", tmp_path, 100, "1000", "-vf", slow_down, *exactly)
    numbers, times_s, timeline, _ = sampled_numbers(tmp_path / "clip.mp4", features, limits)
    shown_s = [i / 40 if i < 40 else 1 + (i - 40) / 20 for i in range(100)]
    for i, (number, time_s) in enumerate(zip(numbers, times_s, strict=True)):
        target_s = (i + 0.5) * timeline.duration_s / features.frames
        assert shown_s[number] <= target_s + 1e-3
        assert target_s < shown_s[number + 1] + 1e-3
        assert time_s == pytest.approx(shown_s[number], abs=2e-3)


def test_what_an_edit_list_leaves_out_is_not_sampled(tmp_path, features, limits):
    write_numbered(tmp_path / "whole.mp4", tmp_path, 200)
    # Cut without encoding: the file holds all 8 s, more than max_duration_s, its edit list starts at 5 s.
    run_ffmpeg("-ss", "5", "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    numbers, times_s, timeline, _ = sampled_numbers(tmp_path / "cut.mp4", features, limits)
    assert timeline.duration_s == pytest.approx(3.0)
    n = features.frames
    assert numbers == [125 + int((i + 0.5) / n * 75) for i in range(n)]
    np.testing.assert_allclose(times_s, (np.array(numbers) - 125) / 25, atol=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mov"])
def test_the_container_does_not_matter(suffix, tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    frames = ("-c", "copy") if suffix != "avi" else ("-c:v", "mpeg4", "-q:v", "2")  # AVI stores no order of B-frames
    run_ffmpeg("-i", tmp_path / "clip.mp4", *frames, tmp_path / f"same.{suffix}")
    numbers, times_s, _, _ = sampled_numbers(tmp_path / f"same.{suffix}", features, limits)
    assert numbers == [int((i + 0.5) / features.frames * 100) for i in range(features.frames)]
    np.testing.assert_allclose(times_s, np.array(numbers) / 25, atol=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "ts"])  # the clock of a transport stream does not start at 0
def test_sound_stays_where_it_is_on_the_clips_timeline(suffix, tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 75)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-itsoffset", "0.7", "-f", "lavfi", "-i", "sine=frequency=440:duration=1"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / f"late.{suffix}"),
    )
    _, _, timeline, waveform = sampled_numbers(tmp_path / f"late.{suffix}", features, limits)
    assert timeline.has_audio
    onset_s = np.flatnonzero(np.abs(waveform) > 0.01)[0] / features.sample_rate_hz
    assert onset_s == pytest.approx(0.7, abs=0.03)


def test_sound_that_starts_before_the_first_frame_is_cut_to_it(tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 75)
    beep_at_1_s = "aevalsrc=if(between(t\\,1\\,1.2)\\,sin(2000*t)\\,0):s=44100:d=3"
    run_ffmpeg(
        *("-itsoffset", "0.5", "-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", beep_at_1_s),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "early.mkv"),
    )
    _, _, _, waveform = sampled_numbers(tmp_path / "early.mkv", features, limits)
    onset_s = np.flatnonzero(np.abs(waveform) > 0.1)[0] / features.sample_rate_hz
    assert onset_s == pytest.approx(0.5, abs=0.03)


def test_sound_beyond_the_last_frame_is_cut(tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 50)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=4"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "long.mp4"),
    )
    _, _, _, waveform = sampled_numbers(tmp_path / "long.mp4", features, limits)
    assert len(waveform) == 2 * features.sample_rate_hz


def test_a_clip_without_sound_during_the_video_has_no_waveform(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path, 50)
    _, _, timeline, waveform = sampled_numbers(tmp_path / "clip.mp4", features, limits)
    assert (timeline.has_audio, waveform) == (False, None)
    run_ffmpeg(
        *("-i", tmp_path / "clip.mp4", "-itsoffset", "3", "-f", "lavfi", "-i", "sine=duration=1"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "after.mkv"),
    )
    _, _, timeline, waveform = sampled_numbers(tmp_path / "after.mkv", features, limits)
    assert (timeline.has_audio, waveform) == (False, None)


def test_rotation_metadata_is_applied(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    run_ffmpeg("-display_rotation", "90", "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    frames = decoded(tmp_path / "turned.mp4", features, limits)[2].frames
    upright = frames.mean(axis=2)  # turned bars lie: constant along a row, changing from row to row
    assert upright[1].std(axis=0).max() > 50
    assert frames[1].std(axis=1).max() < 20


def test_center_crop_keeps_the_middle_and_full_frame_the_whole(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    whole = decoded(tmp_path / "clip.mp4", features, limits)[2].frames
    center = features.model_copy(update={"framing": "center_crop"})
    cropped = decoded(tmp_path / "clip.mp4", center, limits)[2].frames
    assert whole.shape == cropped.shape
    middle = whole[:, 32, 16:48, 0].astype(int)  # the middle half of a frame that is twice as wide as high
    assert np.abs(cropped[:, 32, ::2, 0].astype(int) - middle).mean() < 16


def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path, 100, "25", "-vf", "setsar=1/2")  # displayed as a square
    center = features.model_copy(update={"framing": "center_crop"})
    frames = decoded(tmp_path / "clip.mp4", center, limits)[2].frames
    assert [read_number(frame) for frame in frames] == [int((i + 0.5) / 6 * 100) for i in range(6)]


def psnr_db(one, other):
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


ENCODINGS = {
    "medium": ("-preset", "medium"),
    "slower": ("-preset", "slower", "-bf", "8"),
    "veryfast": ("-preset", "veryfast"),
    "no B-frames": ("-bf", "0"),
    "baseline": ("-profile:v", "baseline"),
    "no pyramid": ("-x264-params", "b-pyramid=none"),
    "short open groups": ("-x264-params", "keyint=12:open-gop=1"),
    "short closed groups": ("-g", "5"),
    "several slices": ("-x264-params", "slices=4"),
    "intra refresh": ("-x264-params", "intra-refresh=1"),
    "10 bit": ("-pix_fmt", "yuv420p10le"),
    "4:4:4": ("-pix_fmt", "yuv444p"),
    "full range": ("-vf", "scale=out_range=full", "-color_range", "pc", "-pix_fmt", "yuvj420p"),
    "bt.709": ("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-pix_fmt", "yuv420p"),
    "wide pixels": ("-vf", "setsar=4/3"),
    "odd size": ("-vf", "crop=319:179", "-pix_fmt", "yuv444p"),
}


@pytest.fixture(scope="module", params=ENCODINGS)
def encoded(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoded") / "clip.mp4"
    write_picture(path, "-c:v", "libx264", *ENCODINGS[request.param], "-c:a", "aac", sound=True)
    return path


@pytest.mark.parametrize("framing", ["full_frame", "center_crop"])
def test_the_quick_decoder_gives_what_ffmpeg_gives(framing, encoded, features, quick_limits):
    features = features.model_copy(update={"framing": framing})
    with open_clip(encoded, features, quick_limits) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        quick, reference = (d(clip, pts, features, quick_limits) for d in (decode_in_process, decode_with_ffmpeg))
    assert min(map(psnr_db, quick.frames, reference.frames)) >= 48
    np.testing.assert_allclose(log_mel(quick.waveform, features), log_mel(reference.waveform, features), atol=0.01)
    assert max(map(psnr_db, reference.frames[:-1], reference.frames[1:])) < 40  # neighbours would not pass for it


def test_the_quick_decoder_steps_over_pictures_that_no_sampled_frame_needs(tmp_path, features, quick_limits):
    path = tmp_path / "clip.mp4"
    write_picture(path, "-c:v", "libx264", "-preset", "medium")
    content = bytearray(path.read_bytes())
    with open_clip(path, features, quick_limits) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        for packet in clip.video_packets:
            # After a length of four bytes, the NAL unit's header: 1 is a slice of a picture that is no reference.
            if packet.pts not in pts and bytes(packet)[4] == 1:
                content[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
        expected = decode_in_process(clip, pts, features, quick_limits).frames
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    assert content != path.read_bytes()
    with open_clip(damaged, features, quick_limits) as clip:
        np.testing.assert_array_equal(decode_in_process(clip, pts, features, quick_limits).frames, expected)


INEXACT = {
    "another codec": ("-c:v", "mpeg4"),
    "interlaced": ("-c:v", "libx264", "-flags", "+ildct+ilme", "-vf", "setfield=tff"),
}


@pytest.mark.parametrize("encoding", INEXACT)
def test_what_the_quick_decoder_cannot_promise_is_left_to_ffmpeg(encoding, tmp_path, features, quick_limits):
    write_picture(tmp_path / "clip.mp4", *INEXACT[encoding])
    with open_clip(tmp_path / "clip.mp4", features, quick_limits) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        assert decode_in_process(clip, pts, features, quick_limits) is None
        assert len(decode_with_ffmpeg(clip, pts, features, quick_limits).frames) == features.frames


def test_a_rotated_or_damaged_clip_is_left_to_ffmpeg(tmp_path, features, quick_limits):
    write_picture(tmp_path / "clip.mp4", "-c:v", "libx264")
    run_ffmpeg("-display_rotation", "90", "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    (tmp_path / "damaged.mp4").write_bytes(content)
    for name in ("turned.mp4", "damaged.mp4"):
        with open_clip(tmp_path / name, features, quick_limits) as clip:
            assert decode_in_process(clip, sample_pts(clip.timeline, features.frames), features, quick_limits) is None


def reason_of(path, features, limits):
    with pytest.raises(MediaError) as error:
        sampled_numbers(path, features, limits)
    assert error.value.reason in REASONS
    return error.value.reason


def damage_end_of(path, box=b"mdat"):
    """Zeros in the second half of a file's media data."""
    content = bytearray(path.read_bytes())
    start = content.index(box) + 4
    end = start - 8 + int.from_bytes(content[start - 8 : start - 4])
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    return content


def test_sound_alone_is_a_clip_where_video_is_not_required(tmp_path, features, limits):
    wants_none = features.model_copy(update={"require_video": False})
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=2:sample_rate=44100", "-c:a", "aac", tmp_path / "sound.mp4")
    with open_clip(tmp_path / "sound.mp4", wants_none, limits) as clip:
        decoded = decode(clip, [], wants_none, limits)
        assert clip.timeline.duration_s == pytest.approx(2, abs=0.05)
    assert decoded.frames.shape == (0, features.frame_size_px, features.frame_size_px, 3)
    spectrum = np.abs(np.fft.rfft(decoded.waveform))
    assert np.argmax(spectrum) / len(decoded.waveform) * features.sample_rate_hz == pytest.approx(440, abs=1)
    assert len(decoded.waveform) / features.sample_rate_hz == pytest.approx(2, abs=0.05)
    write_numbered(tmp_path / "silent.mp4", tmp_path)
    with open_clip(tmp_path / "silent.mp4", wants_none, limits) as clip:
        assert clip.video is not None
    (tmp_path / "nothing.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    run_ffmpeg("-i", tmp_path / "nothing.srt", "-c:s", "mov_text", tmp_path / "subtitles.mp4")
    assert reason_of(tmp_path / "subtitles.mp4", wants_none, limits) == "no_video"


def test_each_unusable_file_has_its_reason(tmp_path, features, limits):
    (tmp_path / "text.mp4").write_text("not a video")
    assert reason_of(tmp_path / "text.mp4", features, limits) == "unreadable"
    (tmp_path / "empty.mp4").touch()
    assert reason_of(tmp_path / "empty.mp4", features, limits) == "unreadable"
    assert reason_of(tmp_path / "absent.mp4", features, limits) == "inaccessible"
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.mp4")
    assert reason_of(tmp_path / "sound.mp4", features, limits) == "no_video"
    write_numbered(tmp_path / "few.mp4", tmp_path, 3)
    assert reason_of(tmp_path / "few.mp4", features, limits) == "too_few_frames"
    write_numbered(tmp_path / "long.mp4", tmp_path, 200)
    assert reason_of(tmp_path / "long.mp4", features, limits) == "too_long"
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    assert reason_of(tmp_path / "clip.mp4", features, limits.model_copy(update={"max_pixels": 5000})) == "too_large"
    (tmp_path / "corrupt.mp4").write_bytes(damage_end_of(tmp_path / "clip.mp4"))
    assert reason_of(tmp_path / "corrupt.mp4", features, limits) == "video_undecodable"


def test_reading_stops_as_soon_as_a_clip_is_seen_to_be_too_long():
    packets = (
        SimpleNamespace(size=1, stream_index=0, pts=25 * second, is_discard=False, is_keyframe=second == 0)
        for second in itertools.count()
    )
    endless, video = SimpleNamespace(demux=lambda _: packets), SimpleNamespace(index=0, time_base=Fraction(1, 25))
    with pytest.raises(MediaError, match=r"too_long: over 6\.0 s or 7 frames, the limit is 5\.5 s"):
        media._read_packets(endless, video, None, 5.5)


def test_files_that_were_glued_together_are_not_sampled_out_of_order(tmp_path, features, limits):
    write_numbered(tmp_path / "first.ts", tmp_path, 50, "25", "-output_ts_offset", "10")
    write_numbered(tmp_path / "second.ts", tmp_path, 50, "25", "-output_ts_offset", "8")
    glued = (tmp_path / "first.ts").read_bytes() + (tmp_path / "second.ts").read_bytes()
    (tmp_path / "glued.ts").write_bytes(glued)
    assert reason_of(tmp_path / "glued.ts", features, limits) == "bad_timestamps"


def test_a_track_that_decodes_only_in_part_is_not_taken_for_a_short_one(tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 75)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=3"),
        *("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "flac", tmp_path / "clip.mkv"),
    )
    whole = sampled_numbers(tmp_path / "clip.mkv", features, limits)[3]
    assert len(whole) > (3 - AUDIO_SLACK_S) * features.sample_rate_hz
    content = bytearray((tmp_path / "clip.mkv").read_bytes())
    # FLAC blocks start with this code; without it there is nothing to decode. The first ones stay.
    starts = [i for i in range(len(content) - 1) if content[i : i + 2] == b"\xff\xf8"]
    for start in starts[len(starts) // 2 :]:
        content[start : start + 2] = b"\x00\x00"
    (tmp_path / "partial.mkv").write_bytes(content)
    assert reason_of(tmp_path / "partial.mkv", features, limits) == "audio_undecodable"


def test_a_title_that_is_not_utf_8_is_no_reason_to_refuse_a_clip(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path, 50, "25", "-metadata", "title=Gr__e")
    (tmp_path / "latin.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes().replace(b"Gr__e", b"Gr\xfc\xdfe"))
    assert len(decoded(tmp_path / "latin.mp4", features, limits)[1]) == features.frames


def test_the_documentation_names_every_reason():
    documented = (REPOSITORY / "docs/extraction.md").read_text()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in documented] == []


def test_of_frames_with_the_same_timestamp_one_is_taken(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mkv", tmp_path, 100, "25", "-bf", "0")
    with av.open(str(tmp_path / "clip.mkv")) as source, av.open(str(tmp_path / "twice.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux() if p.size):
            packet.stream = stream
            packet.dts = packet.pts - 40
            packet.pts -= 40 * (number == 9)  # frame 9 at the time of frame 8, which is sampled
            target.mux(packet)
    numbers, times_s, _, _ = sampled_numbers(tmp_path / "twice.mkv", features, limits)
    assert numbers == [8, 25, 41, 58, 75, 91]
    assert times_s == pytest.approx([0.32, 1.0, 1.64, 2.32, 3.0, 3.64])


def test_sound_that_is_not_a_number_is_refused(tmp_path, features, limits):
    sound = np.zeros(44_100, "<f4")
    sound[20_000] = np.nan
    sound.tofile(tmp_path / "sound.f32")
    write_picture(tmp_path / "silent.mp4", "-c:v", "libx264", seconds=1)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "f32le", "-ar", "44100", "-ac", "1", "-i", tmp_path / "sound.f32"),
        *("-c:v", "copy", "-c:a", "pcm_f32le", tmp_path / "nan.mkv"),
    )
    assert reason_of(tmp_path / "nan.mkv", features, limits) == "audio_undecodable"


def test_a_cover_picture_is_not_the_video(tmp_path, features, limits):
    write_picture(tmp_path / "cover.png", "-frames:v", "1")
    run_ffmpeg(
        *("-f", "lavfi", "-i", "sine=duration=1", "-i", tmp_path / "cover.png", "-map", "0", "-map", "1"),
        *("-c:a", "aac", "-c:v", "png", "-disposition:v", "attached_pic", tmp_path / "song.mp4"),
    )
    assert reason_of(tmp_path / "song.mp4", features, limits) == "no_video"


LONG_S = 10.0
MILLISECOND = 16  # in samples
# A tone whose pitch tells the time, with the numbered frames.
SWEEP = ("-f", "lavfi", "-i", f"aevalsrc=0.4*sin(300*t*t):s=44100:d={LONG_S}")


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "far_key_frames.mp4", "far_key_frames.ts"])
def long_file(request, tmp_path_factory):
    """250 numbered frames at 25 a second with sound: ten seconds, more than a clip may last."""
    folder = tmp_path_factory.mktemp("long")
    every = "250" if "far" in request.param else "40"
    path = folder / f"long.{request.param}"
    write_numbered(folder / "silent.mp4", folder, 250, "25", "-an", "-g", every)
    run_ffmpeg("-i", folder / "silent.mp4", *SWEEP, "-c:v", "copy", "-c:a", "aac", path)
    return path


@pytest.mark.parametrize("start_s", [0.0, 0.5, 3.0, 6.02, LONG_S - 2])
def test_a_window_is_what_a_clip_cut_there_would_be(long_file, start_s, features, limits):
    whole = features.model_copy(update={"max_duration_s": 20.0})
    _, _, everything = decoded(long_file, whole, limits)
    with open_clip(long_file, features, limits, Window(start_s, start_s + 2)) as clip:
        found = decode(clip, sample_pts(clip.timeline, features.frames), features, limits)
    first = math.ceil(start_s * 25)
    expected = [first + math.floor((i + 0.5) * 50 / features.frames) for i in range(features.frames)]
    assert clip.timeline.duration_s == pytest.approx(2)
    assert [read_number(frame) for frame in found.frames] == expected
    assert len(found.waveform) == pytest.approx(2 * features.sample_rate_hz, abs=1)
    sound, start = found.waveform[1000:-1000], round(first / 25 * features.sample_rate_hz) + 1000
    near = range(-MILLISECOND, MILLISECOND + 1)  # Matroska's clock is no finer
    differences = [np.abs(everything.waveform[start + lag :][: len(sound)] - sound).max() for lag in near]
    assert min(differences) < 0.1  # half a sample, where the tone is at its highest


def test_a_window_past_the_end_or_longer_than_a_clip_is_refused(long_file, features, limits):
    with pytest.raises(MediaError, match="no_video"), open_clip(long_file, features, limits, Window(11.0, 13.0)):
        pass
    with pytest.raises(MediaError, match="too_long"), open_clip(long_file, features, limits, Window(1.0, 9.0)):
        pass


def test_the_duration_of_any_file_is_that_of_its_frames(long_file, features, limits):
    assert read_duration_s(long_file, features, limits) == pytest.approx(LONG_S)


def test_a_window_as_long_as_a_clip_may_be_is_one_at_any_frame_rate(features, quick_limits, tmp_path):
    for rate in ("30000/1001", "25", "24"):
        write_numbered(tmp_path / "clip.mp4", tmp_path, 250, rate)
        for start_s in (0.0, 0.01, 1.3):
            window = Window(start_s, start_s + features.max_duration_s)
            with open_clip(tmp_path / "clip.mp4", features, quick_limits, window) as clip:
                assert features.max_duration_s - 0.05 < clip.timeline.duration_s <= features.max_duration_s


def test_a_duration_that_the_frames_do_not_support_is_refused(features, quick_limits, tmp_path):
    write_numbered(tmp_path / "clip.mp4", tmp_path, 50)
    paused = "setts=pts=PTS+gt(N\\,40)*5000/TB:dts=DTS+gt(N\\,40)*5000/TB"
    run_ffmpeg("-i", tmp_path / "clip.mp4", "-c", "copy", "-bsf:v", paused, tmp_path / "paused.mkv")
    with pytest.raises(MediaError, match="bad_timestamps: nothing is shown for 50"):
        read_duration_s(tmp_path / "paused.mkv", features, quick_limits)
