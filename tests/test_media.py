import numpy as np
import pytest
from conftest import run_ffmpeg

from pipeline.media import REASONS, MediaError, decode, read_timeline, run_bounded, sample_pts

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


def sampled_numbers(path, features, limits):
    timeline = read_timeline(path, features.max_duration_s, limits.max_pixels)
    pts = sample_pts(timeline, features.frames)
    frames, waveform = decode(path, timeline, pts, features, limits)
    return [read_number(frame) for frame in frames], [timeline.seconds(p) for p in pts], timeline, waveform


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
    options = (
        "-vf",
        slow_down,
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000",
        "-video_track_timescale",
        "1000",
    )
    write_numbered(tmp_path / "clip.mp4", tmp_path, 100, "1000", *options)
    numbers, times_s, timeline, _ = sampled_numbers(tmp_path / "clip.mp4", features, limits)
    shown_s = [i / 40 if i < 40 else 1 + (i - 40) / 20 for i in range(100)]
    for i, (number, time_s) in enumerate(zip(numbers, times_s, strict=True)):
        target_s = (i + 0.5) * timeline.duration_s / features.frames
        assert shown_s[number] <= target_s + 1e-3
        assert target_s < shown_s[number + 1] + 1e-3
        assert time_s == pytest.approx(shown_s[number], abs=2e-3)


def test_sound_stays_where_it_is_on_the_clips_timeline(tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 75)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-itsoffset", "0.7", "-f", "lavfi", "-i", "sine=frequency=440:duration=1"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "late.mp4"),
    )
    _, _, timeline, waveform = sampled_numbers(tmp_path / "late.mp4", features, limits)
    assert timeline.has_audio
    onset_s = np.flatnonzero(np.abs(waveform) > 0.01)[0] / features.sample_rate_hz
    assert onset_s == pytest.approx(0.7, abs=0.03)


def test_sound_beyond_the_last_frame_is_cut(tmp_path, features, limits):
    write_numbered(tmp_path / "silent.mp4", tmp_path, 50)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=4"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "long.mp4"),
    )
    _, _, _, waveform = sampled_numbers(tmp_path / "long.mp4", features, limits)
    assert len(waveform) == 2 * features.sample_rate_hz


def test_a_clip_without_an_audio_track_has_no_waveform(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    _, _, timeline, waveform = sampled_numbers(tmp_path / "clip.mp4", features, limits)
    assert not timeline.has_audio
    assert waveform is None


def test_rotation_metadata_is_applied(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    run_ffmpeg("-display_rotation", "90", "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    timeline = read_timeline(tmp_path / "turned.mp4", features.max_duration_s, limits.max_pixels)
    frames, _ = decode(tmp_path / "turned.mp4", timeline, sample_pts(timeline, features.frames), features, limits)
    upright = frames[:, ::1].mean(axis=2)  # turned bars lie: constant along a row, changing from row to row
    assert upright[1].std(axis=0).max() > 50
    assert frames[1].std(axis=1).max() < 20


def test_center_crop_keeps_the_middle_and_full_frame_the_whole(tmp_path, features, limits):
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    timeline = read_timeline(tmp_path / "clip.mp4", features.max_duration_s, limits.max_pixels)
    pts = sample_pts(timeline, features.frames)
    whole, _ = decode(tmp_path / "clip.mp4", timeline, pts, features, limits)
    cropped, _ = decode(
        tmp_path / "clip.mp4", timeline, pts, features.model_copy(update={"framing": "center_crop"}), limits
    )
    assert whole.shape == cropped.shape
    middle = whole[:, 32, 16:48, 0].astype(int)  # the middle half of a frame that is twice as wide as high
    assert np.abs(cropped[:, 32, ::2, 0].astype(int) - middle).mean() < 16


def reason_of(path, features, limits):
    with pytest.raises(MediaError) as error:
        sampled_numbers(path, features, limits)
    assert error.value.reason in REASONS
    return error.value.reason


def test_each_unusable_file_has_its_reason(tmp_path, features, limits):
    (tmp_path / "text.mp4").write_text("not a video")
    assert reason_of(tmp_path / "text.mp4", features, limits) == "unreadable"
    (tmp_path / "empty.mp4").touch()
    assert reason_of(tmp_path / "empty.mp4", features, limits) == "unreadable"
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.mp4")
    assert reason_of(tmp_path / "sound.mp4", features, limits) == "no_video"
    write_numbered(tmp_path / "few.mp4", tmp_path, 3)
    assert reason_of(tmp_path / "few.mp4", features, limits) == "too_few_frames"
    write_numbered(tmp_path / "long.mp4", tmp_path, 200)
    assert reason_of(tmp_path / "long.mp4", features, limits) == "too_long"
    write_numbered(tmp_path / "clip.mp4", tmp_path)
    assert reason_of(tmp_path / "clip.mp4", features, limits.model_copy(update={"max_pixels": 5000})) == "too_large"
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(content[start - 8 : start - 4])
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    (tmp_path / "corrupt.mp4").write_bytes(content)
    assert reason_of(tmp_path / "corrupt.mp4", features, limits) == "decode_failed"


def test_a_concat_script_named_mp4_opens_no_other_file(tmp_path, features, limits):
    write_numbered(tmp_path / "secret.mp4", tmp_path)
    (tmp_path / "script.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    assert reason_of(tmp_path / "script.mp4", features, limits) == "unreadable"
    # Nor would ffmpeg open it, had it got past the reading of the timeline.
    timeline = read_timeline(tmp_path / "secret.mp4", features.max_duration_s, limits.max_pixels)
    with pytest.raises(MediaError, match="decode_failed"):
        decode(tmp_path / "script.mp4", timeline, sample_pts(timeline, features.frames), features, limits)


def test_a_decoder_that_hangs_is_stopped(limits):
    with pytest.raises(MediaError, match="timeout"):
        run_bounded(["sleep", "60"], limits.model_copy(update={"timeout_s": 0.2}))


def test_a_decoder_that_wants_too_much_memory_is_stopped(limits):
    greedy = ["python", "-c", "bytearray(2**31)"]
    with pytest.raises(MediaError, match="decode_failed"):
        run_bounded(greedy, limits.model_copy(update={"memory_mb": 512}))
