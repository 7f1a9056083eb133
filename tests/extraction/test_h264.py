"""Which packets of an H.264 clip are decoded: the frames are those of decoding all of them."""

import numpy as np
import pytest
from helpers import run_ffmpeg
from numbered_clips import frames_with_damage, read_number, write_numbered, write_picture

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
    assert decoded_for(grouped, [33], clip_settings)[:2] == [0, 30]
    assert {33, 70} <= set(decoded_for(grouped, [33, 70], clip_settings)) <= {0, *range(30, 40), 70}
    assert decoded_for(grouped, [40], clip_settings) == [0, 40]
    assert len(decoded_for(grouped, range(100), clip_settings)) == 100


def test_frames_of_the_needed_groups_are_those_of_decoding_everything(grouped, clip_settings, monkeypatch):
    with open_clip(grouped, clip_settings) as clip:
        pts = [clip.timeline.pts[number] for number in (33, 38, 70)]
        quick = decode_in_process(clip, pts, clip_settings)
    monkeypatch.setattr(pyav_decoder, "packets_to_decode", lambda packets, wanted, extradata: packets)
    with open_clip(grouped, clip_settings) as clip:
        everything = decode_in_process(clip, pts, clip_settings)
    assert list(map(read_number, quick.frames)) == [33, 38, 70]
    np.testing.assert_array_equal(quick.frames, everything.frames)


def test_damage_in_a_group_without_a_sampled_frame_changes_nothing(tmp_path, features, clip_settings):
    path = tmp_path / "clip.mp4"
    write_picture(path, "-c:v", "libx264", "-g", "4")
    with open_clip(path, clip_settings) as clip:
        pts = sample_pts(clip.timeline, features.frames)
        needed = packets_to_decode(clip.video_packets, {*pts}, clip.video.codec_context.extradata)
        spared = [packet for packet in clip.video_packets if packet.is_keyframe and packet not in needed]
        expected = decode_in_process(clip, pts, clip_settings).frames
    assert len(spared) > 3
    np.testing.assert_array_equal(frames_with_damage(path, spared, 200, pts, clip_settings), expected)


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


class FakePacket:
    def __init__(self, pts, content, sidedata=()):
        self.pts, self.content, self.sidedata = pts, content, sidedata

    def __bytes__(self):
        return self.content

    def has_sidedata(self, kind):
        return kind in self.sidedata


AVCC = b"\x01d\x00\x1f\xff"  # lengths of four bytes
ANNEX_B = b"\x00\x00\x00\x01\x67"
IDR, SLICE = b"\x65\x88", b"\x41\x9a"


def packets_of(*contents, extradata=AVCC, sidedata=()):
    separators = [len(content).to_bytes(4) if extradata == AVCC else b"\x00\x00\x01" for content in contents]
    return [
        FakePacket(pts, separator + content, sidedata if pts == 1 else ())
        for pts, (separator, content) in enumerate(zip(separators, contents, strict=True))
    ]


@pytest.mark.parametrize("extradata", [AVCC, ANNEX_B, None])
def test_the_first_packet_is_decoded_because_it_may_name_the_encoder(extradata):
    packets = packets_of(IDR, SLICE, IDR, SLICE, IDR, extradata=extradata)
    assert packets_to_decode(packets, {3}, extradata) == [packets[0], *packets[2:4]]
    assert packets_to_decode(packets, {0, 3}, extradata) == [packets[0], *packets[2:4]]
    assert packets_to_decode([], set(), extradata) == []


def test_all_packets_are_decoded_where_the_configuration_changes():
    packets = packets_of(IDR, IDR, IDR, sidedata=("new_extradata",))
    assert packets_to_decode(packets, {2}, AVCC) == packets


@pytest.mark.parametrize(
    "content", [b"\x00", b"\x00\x00\x00\xff\x65", b"\x00\x00\x00\x02\x65\x88\x00", b"\x65\x00\x00\x01\x65"]
)
@pytest.mark.parametrize("extradata", [AVCC, ANNEX_B])
def test_all_packets_are_decoded_where_one_does_not_consist_of_whole_units(content, extradata):
    packets = packets_of(IDR, SLICE, IDR, extradata=extradata)
    packets[1].content = content
    whole = extradata == ANNEX_B and not content.strip(b"\x00")
    assert packets_to_decode(packets, {2}, extradata) == (packets[::2] if whole else packets)


def test_zeros_before_a_start_code_make_no_difference_between_parameter_sets():
    sets = [b"\x67\x64" + zeros + b"\x00\x00\x01\x68\xee\x00\x00\x01" + IDR for zeros in (b"", b"\x00", b"\x00\x00")]
    packets = packets_of(*sets, extradata=ANNEX_B)
    assert packets_to_decode(packets, {2}, ANNEX_B) == [packets[0], packets[2]]
