"""The two decoders: what a frame and a waveform look like, and that both give the same."""

import numpy as np
import pytest
from helpers import run_ffmpeg
from numbered_clips import frames_with_damage, sample_clip, with_features, write_numbered, write_picture

from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.decoder_output import AUDIO_SLACK_S
from pipeline.extraction.ffmpeg_decoder import decode_with_ffmpeg
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.pyav_decoder import decode_in_process
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import sample_pts


@pytest.fixture(params=["in_process", "ffmpeg"])
def either_decoder(request, clip_settings):
    """The clip settings, with either decoder."""
    limits = clip_settings.limits.model_copy(update={"decoder": request.param})
    return clip_settings.model_copy(update={"limits": limits})


def test_rotation_metadata_is_applied(tmp_path, either_decoder):
    write_numbered(tmp_path / "clip.mp4")
    run_ffmpeg("-display_rotation", "90", "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    frames = sample_clip(tmp_path / "turned.mp4", either_decoder).frames
    upright = frames.mean(axis=2)  # turned bars lie: they are constant along a row and change from row to row
    assert upright[1].std(axis=0).max() > 50
    assert frames[1].std(axis=1).max() < 20


def test_center_crop_keeps_the_middle_and_full_frame_keeps_everything(tmp_path, either_decoder):
    write_numbered(tmp_path / "clip.mp4")
    whole = sample_clip(tmp_path / "clip.mp4", either_decoder).frames
    cropped = sample_clip(tmp_path / "clip.mp4", with_features(either_decoder, framing="center_crop")).frames
    assert whole.shape == cropped.shape
    middle = whole[:, 32, 16:48, 0].astype(int)  # the middle half of a frame that is twice as wide as high
    assert np.abs(cropped[:, 32, ::2, 0].astype(int) - middle).mean() < 16


@pytest.mark.parametrize("count", [1, 100, 101])
def test_any_number_of_frames_can_be_sampled(count, tmp_path, either_decoder):
    write_numbered(tmp_path / "clip.mp4", 101)
    clip = sample_clip(tmp_path / "clip.mp4", with_features(either_decoder, frames=count))
    assert clip.numbers == [int((i + 0.5) / count * 101) for i in range(count)]


def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path, either_decoder):
    write_numbered(tmp_path / "clip.mp4", 100, "25", "-vf", "setsar=1/2")  # displayed as a square
    clip = sample_clip(tmp_path / "clip.mp4", with_features(either_decoder, framing="center_crop"))
    assert clip.numbers == [int((i + 0.5) / 6 * 100) for i in range(6)]


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])  # HLG and PQ
@pytest.mark.parametrize("size_px", [64, 97])
def test_a_high_dynamic_range_is_tone_mapped(transfer, size_px, tmp_path, either_decoder):
    """A gray ramp looks as it did before it was encoded with a high dynamic range, but in its brightest third."""
    settings = with_features(either_decoder, frame_size_px=size_px)
    to_linear = "zscale=transfer=linear,format=gbrpf32le,zscale=primaries=bt2020"
    to_hdr = f"zscale=transfer={transfer}:npl=203:matrix=bt2020nc:range=limited,format=yuv420p10le"
    tags = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr:range=pc"
    ramp = "gradients=size=320x180:c0=black:c1=white:x0=0:y0=0:x1=319:y1=0:duration=2:rate=25:nb_colors=2:speed=1e-5"
    for name, codec, change in (
        ("plain", "libx264", "format=yuv420p"),
        ("hdr", "libx265", f"format=gbrp,{tags},{to_linear},{to_hdr}"),
        ("hdr_264", "libx264", f"format=gbrp,{tags},{to_linear},{to_hdr}"),
    ):
        run_ffmpeg(
            *("-f", "lavfi", "-i", ramp, "-vf", change, "-c:v", codec, "-preset", "ultrafast", "-crf", "5"),
            *("-x265-params", "log-level=error") if codec == "libx265" else (),
            tmp_path / f"{name}.mp4",
        )
    plain, hdr, hdr_264 = (
        sample_clip(tmp_path / f"{name}.mp4", settings).frames[:, size_px // 2, :, 1].astype(int)
        for name in ("plain", "hdr", "hdr_264")
    )
    dark = plain < 165
    assert np.abs(hdr - plain)[dark].max() < 8
    assert np.abs(hdr_264 - plain)[dark].max() < 8
    assert (np.diff(hdr, axis=1) >= -1).all()


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
def test_the_quick_decoder_gives_what_ffmpeg_gives(framing, encoded, clip_settings):
    settings = with_features(clip_settings, framing=framing)
    features = settings.features
    with open_clip(encoded, settings) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        quick, reference = (decode(clip, pts, settings) for decode in (decode_in_process, decode_with_ffmpeg))
    assert min(map(psnr_db, quick.frames, reference.frames)) >= 48
    np.testing.assert_allclose(log_mel(quick.waveform, features), log_mel(reference.waveform, features), atol=0.01)
    assert max(map(psnr_db, reference.frames[:-1], reference.frames[1:])) < 40  # a neighbouring frame would not pass


def test_the_quick_decoder_skips_pictures_that_no_sampled_frame_needs(tmp_path, features, clip_settings):
    path = tmp_path / "clip.mp4"
    write_picture(path, "-c:v", "libx264", "-preset", "medium")
    with open_clip(path, clip_settings) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        # After a length of four bytes comes the NAL unit's header: 1 is a slice of a picture that is no reference.
        spared = [packet for packet in clip.video_packets if packet.pts not in pts and bytes(packet)[4] == 1]
        expected = decode_in_process(clip, pts, clip_settings).frames
    assert spared
    np.testing.assert_array_equal(frames_with_damage(path, spared, 5, pts, clip_settings), expected)


INEXACT = {
    "another codec": ("-c:v", "mpeg4"),
    "interlaced": ("-c:v", "libx264", "-flags", "+ildct+ilme", "-vf", "setfield=tff"),
}


@pytest.mark.parametrize("encoding", INEXACT)
def test_the_quick_decoder_leaves_to_ffmpeg_what_it_may_decode_differently(encoding, tmp_path, features, clip_settings):
    write_picture(tmp_path / "clip.mp4", *INEXACT[encoding])
    with open_clip(tmp_path / "clip.mp4", clip_settings) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        assert decode_in_process(clip, pts, clip_settings) is None
        assert len(decode_with_ffmpeg(clip, pts, clip_settings).frames) == features.frames


def test_the_quick_decoder_leaves_a_rotated_or_damaged_clip_to_ffmpeg(tmp_path, features, clip_settings):
    write_picture(tmp_path / "clip.mp4", "-c:v", "libx264")
    run_ffmpeg("-display_rotation", "90", "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    (tmp_path / "damaged.mp4").write_bytes(content)
    for name in ("turned.mp4", "damaged.mp4"):
        with open_clip(tmp_path / name, clip_settings) as clip:
            assert decode_in_process(clip, sample_pts(clip.timeline, features.frames), clip_settings) is None


def test_a_track_that_decodes_only_in_part_is_not_taken_for_a_short_one(tmp_path, features, either_decoder):
    write_numbered(tmp_path / "silent.mp4", 75)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=3"),
        *("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "flac", tmp_path / "clip.mkv"),
    )
    whole = sample_clip(tmp_path / "clip.mkv", either_decoder).waveform
    assert len(whole) > (3 - AUDIO_SLACK_S) * features.sample_rate_hz
    content = bytearray((tmp_path / "clip.mkv").read_bytes())
    # FLAC blocks start with this code; without it there is nothing to decode. The first half of them stays.
    starts = [i for i in range(len(content) - 1) if content[i : i + 2] == b"\xff\xf8"]
    for start in starts[len(starts) // 2 :]:
        content[start : start + 2] = b"\x00\x00"
    (tmp_path / "partial.mkv").write_bytes(content)
    with pytest.raises(MediaError, match="audio_undecodable"):
        sample_clip(tmp_path / "partial.mkv", either_decoder)


def test_sound_that_is_not_a_number_is_refused(tmp_path, either_decoder):
    sound = np.zeros(44_100, "<f4")
    sound[20_000] = np.nan
    sound.tofile(tmp_path / "sound.f32")
    write_picture(tmp_path / "silent.mp4", "-c:v", "libx264", seconds=1)
    run_ffmpeg(
        *("-i", tmp_path / "silent.mp4", "-f", "f32le", "-ar", "44100", "-ac", "1", "-i", tmp_path / "sound.f32"),
        *("-c:v", "copy", "-c:a", "pcm_f32le", tmp_path / "nan.mkv"),
    )
    with pytest.raises(MediaError, match="audio_undecodable"):
        sample_clip(tmp_path / "nan.mkv", either_decoder)
