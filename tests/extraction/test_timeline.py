"""When each frame is shown, which frames are sampled, and where the sound lies, by both decoders."""

import av
import numpy as np
import pytest
from helpers import run_ffmpeg
from numbered_clips import sample_clip, write_numbered


@pytest.fixture(params=["in_process", "ffmpeg"])
def limits(request, config):
    """The limits, with either decoder."""
    return config.extract.model_copy(update={"decoder": request.param})


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "30"])
def test_each_sampled_frame_is_the_one_shown_at_its_time(rate, tmp_path, clip_settings):
    count = 96
    write_numbered(tmp_path / "clip.mp4", count, rate)
    clip = sample_clip(tmp_path / "clip.mp4", clip_settings)
    numerator, _, denominator = rate.partition("/")
    frames_per_s = int(numerator) / int(denominator or 1)
    assert clip.timeline.duration_s == pytest.approx(count / frames_per_s, abs=1e-3)
    n = clip_settings.features.frames
    assert clip.numbers == [int((i + 0.5) / n * count) for i in range(n)]
    np.testing.assert_allclose(clip.times_s, np.array(clip.numbers) / frames_per_s, atol=1e-3)


def test_a_variable_frame_rate_is_sampled_by_time_and_not_by_frame_number(tmp_path, features, clip_settings):
    # 40 frames in the first second, 60 in the next three
    slow_down = "setpts=if(lt(N\\,40)\\,N/40\\,1+(N-40)/20)/TB"
    exactly = ("-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-video_track_timescale", "1000")
    write_numbered(tmp_path / "clip.mp4", 100, "1000", "-vf", slow_down, *exactly)
    clip = sample_clip(tmp_path / "clip.mp4", clip_settings)
    shown_s = [i / 40 if i < 40 else 1 + (i - 40) / 20 for i in range(100)]
    assert len(clip.numbers) == features.frames
    for i, (number, time_s) in enumerate(zip(clip.numbers, clip.times_s, strict=True)):
        target_s = (i + 0.5) * clip.timeline.duration_s / features.frames
        assert shown_s[number] <= target_s + 1e-3
        assert target_s < shown_s[number + 1] + 1e-3
        assert time_s == pytest.approx(shown_s[number], abs=2e-3)


def test_frames_that_an_edit_list_leaves_out_are_not_sampled(tmp_path, clip_settings):
    write_numbered(tmp_path / "whole.mp4", 200)
    # Cut without encoding: the file holds all 8 s, more than max_duration_s, but its edit list starts at 5 s.
    run_ffmpeg("-ss", "5", "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    clip = sample_clip(tmp_path / "cut.mp4", clip_settings)
    assert clip.timeline.duration_s == pytest.approx(3.0)
    n = clip_settings.features.frames
    assert clip.numbers == [125 + int((i + 0.5) / n * 75) for i in range(n)]
    np.testing.assert_allclose(clip.times_s, (np.array(clip.numbers) - 125) / 25, atol=1e-3)


def test_only_the_first_of_two_frames_with_the_same_timestamp_is_sampled(tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mkv", 100, "25", "-bf", "0")
    with av.open(str(tmp_path / "clip.mkv")) as source, av.open(str(tmp_path / "twice.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux() if p.size):
            packet.stream = stream
            packet.dts = packet.pts - 40
            packet.pts -= 40 * (number == 9)  # frame 9 at the time of frame 8, which is sampled
            target.mux(packet)
    clip = sample_clip(tmp_path / "twice.mkv", clip_settings)
    assert clip.numbers == [8, 25, 41, 58, 75, 91]
    assert clip.times_s == pytest.approx([0.32, 1.0, 1.64, 2.32, 3.0, 3.64])


@pytest.mark.parametrize("suffix", ["mp4", "ts"])  # the clock of a transport stream does not start at 0
def test_sound_that_starts_late_keeps_its_place_on_the_timeline(suffix, tmp_path, features, clip_settings):
    write_numbered(tmp_path / "silent.mp4", 75)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-itsoffset", "0.7", "-f", "lavfi", "-i", "sine=frequency=440:duration=1"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / f"late.{suffix}"),
    )
    clip = sample_clip(tmp_path / f"late.{suffix}", clip_settings)
    assert clip.timeline.has_audio
    onset_s = np.flatnonzero(np.abs(clip.waveform) > 0.01)[0] / features.sample_rate_hz
    assert onset_s == pytest.approx(0.7, abs=0.03)


def test_sound_before_the_first_frame_is_cut_off(tmp_path, features, clip_settings):
    write_numbered(tmp_path / "silent.mp4", 75)
    beep_at_1_s = "aevalsrc=if(between(t\\,1\\,1.2)\\,sin(2000*t)\\,0):s=44100:d=3"
    run_ffmpeg(
        *("-itsoffset", "0.5", "-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", beep_at_1_s),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "early.mkv"),
    )
    clip = sample_clip(tmp_path / "early.mkv", clip_settings)
    onset_s = np.flatnonzero(np.abs(clip.waveform) > 0.1)[0] / features.sample_rate_hz
    assert onset_s == pytest.approx(0.5, abs=0.03)


def test_sound_beyond_the_last_frame_is_cut_off(tmp_path, features, clip_settings):
    write_numbered(tmp_path / "silent.mp4", 50)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=4"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "long.mp4"),
    )
    assert len(sample_clip(tmp_path / "long.mp4", clip_settings).waveform) == 2 * features.sample_rate_hz


def test_a_clip_without_sound_during_the_video_has_no_waveform(tmp_path, clip_settings):
    write_numbered(tmp_path / "clip.mp4", 50)
    clip = sample_clip(tmp_path / "clip.mp4", clip_settings)
    assert (clip.timeline.has_audio, clip.waveform) == (False, None)
    run_ffmpeg(
        *("-i", tmp_path / "clip.mp4", "-itsoffset", "3", "-f", "lavfi", "-i", "sine=duration=1"),
        *("-c:v", "copy", "-c:a", "aac", tmp_path / "after.mkv"),
    )
    clip = sample_clip(tmp_path / "after.mkv", clip_settings)
    assert (clip.timeline.has_audio, clip.waveform) == (False, None)
