"""The quick decoder: H.264 and its sound through PyAV, in this process.

It skips the pictures that no sampled frame needs, without looking for damage in them, and gives what ffmpeg gives.
Where it may give something else, it returns None.
"""

from collections.abc import Iterator
from contextlib import suppress

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.extraction.clip_file import ClipFile
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.decoder_output import Decoded, check_sound
from pipeline.extraction.filters import Filter, frame_filters, people_filters, sound_filters
from pipeline.extraction.h264 import packets_to_decode
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.streams import lacks_display_times


class InexactError(Exception):
    """The clip has something that this decoder may decode differently from ffmpeg."""


def decode_in_process(clip: ClipFile, pts: list[int], settings: ClipSettings) -> Decoded | None:
    """Decode the frames shown at `pts`, and the sound; None for a damaged or unusual clip, which ffmpeg must judge."""
    try:
        frames, pictures = _decode_frames(clip, pts, settings)
        waveform = _decode_sound(clip, settings.features) if clip.timeline.has_audio else None
    except MemoryError:
        raise
    except (av.FFmpegError, MediaError, InexactError, ValueError):
        return None
    return Decoded(frames, waveform, pictures)


def _decode_frames(
    clip: ClipFile, pts: list[int], settings: ClipSettings
) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """The frames shown at `pts`: (N, size, size, 3), BGR; and the pictures in which faces are looked for, if any."""
    features = settings.features
    if clip.video is None:
        return np.zeros((0, features.frame_size_px, features.frame_size_px, 3), np.uint8), []
    filters = [frame_filters(features), *([people_filters(features)] if features.people.most else [])]
    outputs: dict[int | None, list[NDArray[np.uint8]]] = {}
    graphs: list[av.filter.Graph] = []
    first: av.VideoFrame | None = None
    for picture in _decode_pictures(clip, clip.video, set(pts), settings.limits.max_pixels):
        if picture.interlaced_frame:
            raise InexactError("an interlaced picture")
        if first is None:
            # Only the first picture is asked for it: the matrix belongs to the stream, and PyAV 18 never frees the 100
            # bytes of the answer.
            if SideData.DISPLAYMATRIX in picture.side_data:
                raise InexactError("a rotated or mirrored picture")
            first = picture
            graphs = [_video_graph(picture, clip.video, chain) for chain in filters]
        if (picture.width, picture.height, picture.format.name) != (first.width, first.height, first.format.name):
            raise InexactError("pictures of different sizes or formats")
        outputs[picture.pts] = [_apply(graph, picture) for graph in graphs]
    frames = np.stack([outputs[tick][0] for tick in pts])
    return frames, [outputs[tick][1] for tick in pts] if features.people.most else []


def _apply(graph: av.filter.Graph, picture: av.VideoFrame) -> NDArray[np.uint8]:
    graph.push(picture)
    return np.asarray(graph.pull().to_ndarray(), np.uint8)


def _decode_pictures(
    clip: ClipFile, stream: av.VideoStream, wanted: set[int], max_pixels: int
) -> Iterator[av.VideoFrame]:
    """Yield the first picture of each wanted timestamp; raise `InexactError` if one of them does not come."""
    context = stream.codec_context
    if context.name != "h264":
        raise InexactError("only H.264 is known to mark the pictures that no other picture needs")
    if lacks_display_times(stream):
        raise InexactError("pictures must be counted, so none can be skipped")
    if clip.is_hdr:
        raise InexactError("PyAV lacks the filter zscale, which tone mapping needs")
    context.thread_count = 1
    context.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
    missing: set[int | None] = {*wanted}
    for packet in [*packets_to_decode(clip.video_packets, wanted, context.extradata), None]:
        # The decoder skips pictures that no other one refers to (nal_ref_idc 0), unless they are wanted.
        context.skip_frame = "DEFAULT" if packet is None or packet.pts in wanted else "NONREF"
        for picture in context.decode(packet):
            if picture.is_corrupt:
                raise InexactError("a damaged picture")
            if picture.pts in missing:
                yield picture
                missing.remove(picture.pts)
        if not missing:
            return
    raise InexactError(f"{len(missing)} of {len(wanted)} frames did not come")


def _video_graph(picture: av.VideoFrame, stream: av.VideoStream, filters: list[Filter]) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{picture.width}x{picture.height}",
        pix_fmt=picture.format.name,
        time_base=str(stream.time_base),
        pixel_aspect=str(stream.sample_aspect_ratio or 0),
        colorspace=str(int(picture.colorspace)),
        range=str(int(picture.color_range)),
    )
    return _connect(graph, source, [*filters, ("format", {"pix_fmts": "bgr24"})], "buffersink")


def _decode_sound(clip: ClipFile, features: Features) -> NDArray[np.float32]:
    """The waveform of the clip: (samples,)."""
    assert clip.audio is not None
    graph: av.filter.Graph | None = None
    first: av.AudioFrame | None = None
    # One second more than is kept: the resampler looks ahead.
    end = (clip.timeline.start_s + clip.timeline.duration_s + 1) / (clip.audio.time_base or 1)
    needed = [packet for packet in clip.audio_packets if packet.pts is None or packet.pts < end]
    for packet in [*needed, None]:
        for block in clip.audio.codec_context.decode(packet):
            first = first or block
            graph = graph or _sound_graph(block, clip, features)
            if (block.rate, block.format.name, block.layout.name) != (first.rate, first.format.name, first.layout.name):
                raise InexactError("sound that changes its format")
            graph.push(block)
    if graph is None:
        raise InexactError("no sound decoded")
    graph.push(None)
    parts = []
    with suppress(av.EOFError):
        while True:
            parts.append(graph.pull().to_ndarray()[0])
    waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return check_sound(waveform, clip.timeline, features)


def _sound_graph(block: av.AudioFrame, clip: ClipFile, features: Features) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer",
        sample_rate=str(block.rate),
        sample_fmt=block.format.name,
        channel_layout=block.layout.name,
        time_base=str(block.time_base),
    )
    _connect(graph, source, sound_filters(clip.timeline, features), "abuffersink")
    # One second at a time instead of a codec's block, so that less is done in Python.
    graph.set_audio_frame_size(features.sample_rate_hz)
    return graph


def _connect(
    graph: av.filter.Graph, source: av.filter.context.FilterContext, filters: list[Filter], sink: str
) -> av.filter.Graph:
    chain = [source, *(graph.add(name, **options) for name, options in filters), graph.add(sink)]
    graph.link_nodes(*chain).configure()
    return graph
