"""The sampled frames and the waveform of a clip, by either of two decoders that give the same.

`decode_with_ffmpeg` is the reference: one ffmpeg process decodes the file and lets only the sampled frames through to
scaling. `decode_in_process` does the same to H.264 through PyAV, but steps over the pictures that no sampled frame
needs; where it cannot be sure to give what ffmpeg gives, it gives nothing and ffmpeg decodes.
"""

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass

import av
import av.filter
import ffmpeg
import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from pipeline.common.config import Extract, Features
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction.timeline import WHITELISTS, ClipFile, MediaError, Timeline, input_url

# A waveform that ends this much before its track's last packet does was not decoded to its end. Codecs that signal
# padding end up to two of their frames early.
AUDIO_SLACK_S = 0.15
# Floating-point tracks can hold anything; what is 40 dB above full scale is damage.
MAX_AMPLITUDE = 100.0

Filter = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Decoded:
    """Frames (N, size, size, 3), BGR, none for a clip without video; mono waveform (samples,), None without sound."""

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32] | None


def decode(clip: ClipFile, pts: list[int], features: Features, limits: Extract) -> Decoded:
    """Decode the frames shown at `pts` and the sound from the clip's start to at most its end; raises `MediaError`."""
    if clip.audio and clip.audio.codec_context is None:
        raise MediaError("audio_undecodable", "no decoder for the audio stream")
    decoded = decode_in_process(clip, pts, features, limits) if limits.decoder == "in_process" else None
    return decoded or decode_with_ffmpeg(clip, pts, features, limits)


def frame_filters(features: Features) -> list[Filter]:
    """What makes a decoded picture a frame: libavfilter's names and options, for both decoders."""
    size = features.frame_size_px
    if features.framing == "full_frame":
        return [("scale", {"w": f"{size}", "h": f"{size}", "flags": "area"})]
    # The shorter side, as displayed, becomes `size`; `sar` is the aspect ratio of the pixels themselves.
    width, height = f"ceil({size}*max(1,iw*sar/ih))", f"ceil({size}*max(1,ih/(iw*sar)))"
    return [("scale", {"w": width, "h": height, "flags": "area"}), ("crop", {"w": f"{size}", "h": f"{size}"})]


def sound_filters(timeline: Timeline, features: Features) -> list[Filter]:
    """What makes decoded sound the waveform: resampled once, from the first frame's moment to the last one's end.

    Silence fills a later start and gaps.
    """
    rate = features.sample_rate_hz
    # What sounds before the first frame goes, and what a codec's last block holds beyond the track's end: padding.
    track = {"start": f"{timeline.start_s:.6f}", "end": f"{timeline.start_s + (timeline.audio_end_s or 0):.6f}"}
    # The resampler counts `first_pts` at its input's rate, which is not known here; 0 is 0 at any rate.
    from_zero = {"expr": f"PTS-{timeline.start_s:.6f}/TB"}
    resample = {"osr": f"{rate}", "ochl": "mono", "osf": "flt", "async": "1", "first_pts": "0"}
    length = {"end_sample": f"{round(timeline.duration_s * rate)}"}
    return [("atrim", track), ("asetpts", from_zero), ("aresample", resample), ("atrim", length)]


def check_sound(waveform: NDArray[np.float32], timeline: Timeline, features: Features) -> NDArray[np.float32]:
    """Raise `MediaError` for a waveform that ends before its track does: much damage decodes without an error."""
    if len(waveform) and not np.abs(waveform).max() <= MAX_AMPLITUDE:  # so that NaN does not pass
        raise MediaError("audio_undecodable", f"a sample is not a number, or beyond {MAX_AMPLITUDE} times full scale")
    decoded_s = len(waveform) / features.sample_rate_hz
    expected_s = min(timeline.audio_end_s or 0, timeline.duration_s)
    if not len(waveform) or decoded_s < expected_s - AUDIO_SLACK_S:
        raise MediaError("audio_undecodable", f"{decoded_s:.2f} of {expected_s:.2f} s of sound decoded")
    return waveform


# ----------------------------------------------------------------------------------------------- the ffmpeg process


def decode_with_ffmpeg(clip: ClipFile, pts: list[int], features: Features, limits: Extract) -> Decoded:
    """Decode with one ffmpeg process, within the limits that this process has: they are handed down."""
    frames_file, sound_file, errors_file = (os.memfd_create(name) for name in ("frames", "sound", "errors"))
    try:
        seek = {} if clip.seek_s is None else {"ss": clip.seek_s, "seek_timestamp": 1, "noaccurate_seek": None}
        source = ffmpeg.input(
            input_url(clip.path),
            **WHITELISTS,
            max_pixels=limits.max_pixels,
            threads=1,
            **seek,
        )
        wanted = "+".join(f"eq(pts,{tick})" for tick in pts)
        # Two frames can have the same timestamp; the first of them is taken.
        outputs = []
        if clip.video:
            video = source[str(clip.video.index)].filter("select", f"({wanted})*not(eq(pts,prev_selected_pts))")
            for name, options in frame_filters(features):
                video = video.filter(name, **options)
            raw_video = {"format": "rawvideo", "pix_fmt": "bgr24", "fps_mode": "passthrough", "frames:v": len(pts)}
            outputs.append(ffmpeg.output(video, f"pipe:{frames_file}", **raw_video))
        if clip.audio and clip.timeline.has_audio:
            sound = source[str(clip.audio.index)]
            for name, options in sound_filters(clip.timeline, features):
                sound = sound.filter(name, **options)
            outputs.append(ffmpeg.output(sound, f"pipe:{sound_file}", format="f32le"))
        # -copyts keeps the container's own timestamps, those that the timeline was read from.
        flags = ("-copyts", "-nostdin", "-loglevel", "error", "-filter_complex_threads", "1")
        done = subprocess.run(
            ffmpeg.merge_outputs(*outputs).global_args(*flags).compile(cmd=ffmpeg_path()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors_file,
            pass_fds=(frames_file, sound_file),
        )
        return _collect(clip, pts, features, done.returncode, *map(_read, (frames_file, sound_file, errors_file)))
    finally:
        for file in (frames_file, sound_file, errors_file):
            os.close(file)


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as stream:
        return stream.read()


def _collect(
    clip: ClipFile, pts: list[int], features: Features, code: int, frames: bytes, sound: bytes, errors: bytes
) -> Decoded:
    """What ffmpeg wrote, counted: it exits 0 on much corrupt input."""
    shape = (len(pts), features.frame_size_px, features.frame_size_px, 3)
    said = errors[:2000].decode(errors="replace").replace(input_url(clip.path), clip.path.name).strip()
    # Without addresses in memory: an index is the same bytes from run to run.
    first_line = re.sub(r" @ 0x[0-9a-f]+", "", said or "no message").splitlines()[0]
    detail = f"ffmpeg exit {code}: {first_line}"[:200]
    if b"Cannot allocate memory" in errors:
        raise MediaError("out_of_memory", detail)
    if len(frames) != np.prod(shape):
        found = len(frames) // int(np.prod(shape[1:]))
        raise MediaError("video_undecodable", f"{found} of {len(pts)} frames decoded; {detail}")
    waveform = None
    if clip.timeline.has_audio:
        waveform = check_sound(np.frombuffer(sound, np.float32), clip.timeline, features)
    if code != 0:
        raise MediaError("video_undecodable", detail)
    return Decoded(np.frombuffer(frames, np.uint8).reshape(shape), waveform)


# ----------------------------------------------------------------------------------------------------- in this process


class InexactError(Exception):
    """What this decoder cannot promise to decode as ffmpeg would."""


def decode_in_process(clip: ClipFile, pts: list[int], features: Features, limits: Extract) -> Decoded | None:
    """Decode H.264 and its sound with PyAV; None for what is damaged or unusual, which is ffmpeg's to judge."""
    try:
        frames = _decode_frames(clip, pts, features, limits)
        waveform = _decode_sound(clip, features) if clip.timeline.has_audio else None
    except MemoryError:
        raise
    except (av.FFmpegError, MediaError, InexactError, ValueError):
        return None
    return Decoded(frames, waveform)


def _decode_frames(clip: ClipFile, pts: list[int], features: Features, limits: Extract) -> NDArray[np.uint8]:
    if clip.video is None:
        return np.zeros((0, features.frame_size_px, features.frame_size_px, 3), np.uint8)
    context = clip.video.codec_context
    if context.name != "h264":
        raise InexactError("no codec that is known to mark the pictures which no other one needs")
    context.thread_count = 1
    context.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    wanted, frames = set(pts), dict[int, NDArray[np.uint8]]()
    graph: av.filter.Graph | None = None
    first: av.VideoFrame | None = None
    for packet in [*clip.video_packets, None]:
        # The decoder steps over pictures that are not for reference (nal_ref_idc 0), unless they are wanted.
        context.skip_frame = "DEFAULT" if packet is None or packet.pts in wanted else "NONREF"
        for frame in context.decode(packet):
            if frame.is_corrupt:
                raise InexactError("a damaged picture")
            if frame.pts in wanted and frame.pts not in frames:
                if frame.interlaced_frame:
                    raise InexactError("an interlaced picture")
                if first is None or graph is None:
                    # Asked of one frame a clip: it is the stream's, and PyAV 18 never frees the answer's 100 bytes.
                    if SideData.DISPLAYMATRIX in frame.side_data:
                        raise InexactError("a rotated or mirrored picture")
                    first, graph = frame, _video_graph(frame, clip.video, features)
                if (frame.width, frame.height, frame.format.name) != (first.width, first.height, first.format.name):
                    raise InexactError("pictures of different sizes")
                graph.push(frame)
                frames[frame.pts] = np.asarray(graph.pull().to_ndarray(), np.uint8)
        if len(frames) == len(wanted):
            return np.stack([frames[tick] for tick in pts])
    raise InexactError(f"{len(frames)} of {len(wanted)} frames")


def _video_graph(frame: av.VideoFrame, stream: av.VideoStream, features: Features) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(stream.time_base),
        pixel_aspect=str(stream.sample_aspect_ratio or 0),
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    return _connect(graph, source, [*frame_filters(features), ("format", {"pix_fmts": "bgr24"})], "buffersink")


def _decode_sound(clip: ClipFile, features: Features) -> NDArray[np.float32]:
    assert clip.audio is not None
    graph: av.filter.Graph | None = None
    first: av.AudioFrame | None = None
    # One second more than is kept: the resampler looks ahead.
    end = (clip.timeline.start_s + clip.timeline.duration_s + 1) / (clip.audio.time_base or 1)
    needed = [packet for packet in clip.audio_packets if packet.pts is None or packet.pts < end]
    for packet in [*needed, None]:
        for frame in clip.audio.codec_context.decode(packet):
            first = first or frame
            graph = graph or _sound_graph(frame, clip, features)
            if (frame.rate, frame.format.name, frame.layout.name) != (first.rate, first.format.name, first.layout.name):
                raise InexactError("sound that changes its format")
            graph.push(frame)
    if graph is None:
        raise InexactError("no sound decoded")
    graph.push(None)
    parts = []
    with suppress(av.EOFError):
        while True:
            parts.append(graph.pull().to_ndarray()[0])
    waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return check_sound(waveform, clip.timeline, features)


def _sound_graph(frame: av.AudioFrame, clip: ClipFile, features: Features) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer",
        sample_rate=str(frame.rate),
        sample_fmt=frame.format.name,
        channel_layout=frame.layout.name,
        time_base=str(frame.time_base),
    )
    _connect(graph, source, sound_filters(clip.timeline, features), "abuffersink")
    graph.set_audio_frame_size(features.sample_rate_hz)  # a second at a time, not a codec's block: less to do in Python
    return graph


def _connect(
    graph: av.filter.Graph, source: av.filter.context.FilterContext, filters: list[Filter], sink: str
) -> av.filter.Graph:
    chain = [source, *(graph.add(name, **options) for name, options in filters), graph.add(sink)]
    graph.link_nodes(*chain).configure()
    return graph
