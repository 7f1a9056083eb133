"""Which packets of an H.264 clip are decoded: the frames are those of decoding all of them."""

import numpy as np
import pytest
from helpers import run_ffmpeg
from numbered_clips import sample_clip, write_numbered, write_picture

from pipeline.extraction import pyav_decoder
from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.h264 import packets_to_decode
from pipeline.extraction.pyav_decoder import decode_in_process
from pipeline.extraction.timeline import sample_pts

GROUP = 10


@pytest.fixture(params=["mp4", "mkv", "ts"])
def grouped(request, tmp_path):
    """A clip of 100 numbered frames in ten groups of pictures: lengths before the units in MP4 and Matroska, start
    codes and parameter sets in each group in MPEG-TS."""
    path = tmp_path / f"clip.{request.param}"
    write_numbered(path, 100, "25", "-an", "-g", str(GROUP), "-sc_threshold", "0")
    return path


def decoded_for(path, numbers, settings):
    """The numbers of the frames whose packets are decoded to get the frames `numbers`, in the order of decoding."""
    with open_clip(path, settings) as clip:
        wanted = {clip.timeline.pts[number] for number in numbers}
        needed = packets_to_decode(clip.video_packets, wanted, clip.video.codec_context.extradata)
        return [clip.timeline.pts.index(packet.pts) for packet in needed]


def test_only_groups_with_a_wanted_frame_are_decoded_and_each_up_to_it(grouped, clip_settings):
    assert decoded_for(grouped, [33], clip_settings)[0] == 30
    assert set(decoded_for(grouped, [33, 70], clip_settings)) <= {*range(30, 40), 70}
    assert {33, 70} <= set(decoded_for(grouped, [33, 70], clip_settings))
    assert decoded_for(grouped, [40], clip_settings) == [40]
    assert len(decoded_for(grouped, range(100), clip_settings)) == 100


def test_frames_of_the_needed_groups_are_those_of_decoding_everything(grouped, clip_settings, monkeypatch):
    quick = sample_clip(grouped, clip_settings)
    assert quick.numbers == [int((i + 0.5) / 6 * 100) for i in range(6)]
    monkeypatch.setattr(pyav_decoder, "packets_to_decode", lambda packets, wanted, extradata: packets)
    np.testing.assert_array_equal(quick.frames, sample_clip(grouped, clip_settings).frames)


def test_damage_in_a_group_without_a_sampled_frame_changes_nothing(tmp_path, features, clip_settings):
    path = tmp_path / "clip.mp4"
    write_picture(path, "-c:v", "libx264", "-g", "4")
    content = bytearray(path.read_bytes())
    with open_clip(path, clip_settings) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        needed = packets_to_decode(clip.video_packets, {*pts}, clip.video.codec_context.extradata)
        first_of_each_group = [packet for packet in clip.video_packets if packet.is_keyframe]
        spared = [packet for packet in first_of_each_group if packet not in needed]
        expected = decode_in_process(clip, pts, clip_settings).frames
    assert len(spared) > 3
    for packet in spared:
        content[packet.pos + 200 : packet.pos + packet.size] = bytes(packet.size - 200)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with open_clip(damaged, clip_settings) as clip:
        np.testing.assert_array_equal(decode_in_process(clip, pts, clip_settings).frames, expected)


def test_all_packets_are_decoded_where_groups_bring_different_parameter_sets(tmp_path, clip_settings):
    for name, options in {"a": ("-crf", "20"), "b": ("-crf", "40", "-x264-params", "cabac=0:ref=1")}.items():
        write_numbered(tmp_path / f"{name}.ts", 50, "25", "-an", "-g", str(GROUP), *options)
    joined = tmp_path / "joined.ts"
    run_ffmpeg("-i", f"concat:{tmp_path / 'a.ts'}|{tmp_path / 'b.ts'}", "-c", "copy", tmp_path / "joined.mkv")
    run_ffmpeg("-i", tmp_path / "joined.mkv", "-c", "copy", joined)
    with open_clip(joined, clip_settings) as clip:
        wanted = {clip.timeline.pts[-1]}
        assert packets_to_decode(clip.video_packets, wanted, clip.video.codec_context.extradata) == clip.video_packets


def test_an_open_group_is_decoded_from_the_picture_that_refers_to_nothing_before_it(tmp_path, clip_settings):
    path = tmp_path / "clip.mp4"
    write_numbered(path, 100, "25", "-an", "-x264-params", f"keyint={GROUP}:open-gop=1")
    numbers = decoded_for(path, [55], clip_settings)
    assert min(numbers) == 0  # its later groups begin without an IDR picture


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x00\x00\x00\xff\x65", b"\x00\x00\x01"])
@pytest.mark.parametrize("extradata", [None, b"", b"\x01", b"\x01d\x00\x1f\xff", b"\x00\x00\x00\x01\x67"])
def test_damaged_packets_are_left_to_the_decoder(content, extradata):
    class Packet:
        pts = 0

        def __bytes__(self):
            return content

    packet = Packet()
    assert packets_to_decode([packet], {0}, extradata) == [packet]
