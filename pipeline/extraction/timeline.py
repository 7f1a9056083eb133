"""What is in a clip's file: when each frame is shown, whether there is sound, and which frames to sample.

Time 0 of a clip is the moment its first frame is shown; its end is when its last frame has been shown. The timeline is
read from the packets' timestamps without decoding (PyAV), so the frame rate, a variable one included, does not matter.
"""

import errno
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from operator import sub
from pathlib import Path
from typing import Any

import av

from pipeline.common.config import Extract, Features

# Demuxers that a clip may need. None of them opens other files, as playlists and concat scripts do.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi"
PROTOCOLS = "file"
WHITELISTS = {"protocol_whitelist": PROTOCOLS, "format_whitelist": DEMUXERS}
# How much a codec needs of the sound before the moment that is wanted; how far apart containers store, at most, the
# sound and the pictures of one moment.
PREROLL_S, INTERLEAVING_S = 1.0, 2.0
Span = tuple[Fraction | float, Fraction | float]
EVER: Span = (-math.inf, math.inf)
# A stream with more packets than this many a second is a hostile timeline, not a video; so is one with a longer pause.
MAX_FRAMES_PER_SECOND, MAX_PAUSE_S = 1000, 3600

NOT_THE_FILES_FAULT = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN}

# Why a clip can end in quarantine (P3).
REASONS = {
    "inaccessible": "could not be opened or read: absent, forbidden, or its disk does not answer",
    "unreadable": "not a media file in one of the accepted containers",
    "no_video": "has no video stream, or one without frames or timestamps",
    "bad_timestamps": "its timestamps go backwards, as in files that were glued together",
    "too_long": "lasts longer than features.max_duration_s",
    "too_large": "has a picture of more than extract.max_pixels",
    "too_few_frames": "has fewer different frames at the sampled times than features.frames",
    "video_undecodable": "a sampled frame could not be decoded; extract.memory_mb can be too little for it",
    "audio_undecodable": "has an audio track that could not be decoded, or not to its end",
    "timeout": "took longer than extract.timeout_s",
    "out_of_memory": "needed more than extract.memory_mb",
    "crashed": "what read it died twice or failed in a way not foreseen; a bug, or the machine's fault",
}


class MediaError(Exception):
    """A clip that cannot be used: `reason` is a key of `REASONS`, `detail` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown, in ticks of `time_base` seconds and in order, and when the sound track ends.

    `audio_end_s` counts from the clip's start and may lie beyond its end; None when nothing sounds during the video.
    """

    pts: tuple[int, ...]
    end_pts: int
    time_base: Fraction
    audio_end_s: float | None

    @property
    def has_audio(self) -> bool:
        """Whether an audio track sounds while the video is shown."""
        return self.audio_end_s is not None

    @property
    def start_s(self) -> float:
        """The clip's start on the container's own clock."""
        return float(self.pts[0] * self.time_base)

    @property
    def duration_s(self) -> float:
        """From the first frame's appearance to the last one's end."""
        return float((self.end_pts - self.pts[0]) * self.time_base)

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second, on the average."""
        return len(self.pts) / max(self.duration_s, float(self.time_base))

    def seconds(self, pts: int) -> float:
        """Time since the clip's start."""
        return float((pts - self.pts[0]) * self.time_base)


@dataclass(frozen=True)
class Window:
    """A part of a file that is read as if it had been cut out: the frames that appear from `start_s` to before `end_s`.

    In seconds since the file's first frame. It lasts no longer than that, whatever its last frame does.
    """

    start_s: float
    end_s: float


@dataclass(frozen=True)
class ClipFile:
    """An open clip: its first video and audio streams, their packets in the order of the file, and the timeline.

    One without video has the timeline of its sound. Packets begin at `seek_s` on the container's own clock, or at the
    key frame before it; None: at the file's beginning.
    """

    path: Path
    timeline: Timeline
    video: av.VideoStream | None
    audio: av.AudioStream | None
    video_packets: list["av.Packet[Any]"]
    audio_packets: list["av.Packet[Any]"]
    seek_s: float | None = None


def input_url(path: Path) -> str:
    """How libavformat is told a path, so that no character in it means a protocol or an option."""
    return f"file:{path.absolute()}"


@contextmanager
def open_clip(path: Path, features: Features, limits: Extract, window: Window | None = None) -> Iterator[ClipFile]:
    """Read a file's packets, or a window's, without decoding them.

    Raises `MediaError` for what is no clip or exceeds a limit.
    """
    with ExitStack() as stack:
        with _errors_of_the_file():
            clip = _read_clip_file(path, stack.enter_context(_open(path)), features, limits, window)
        yield clip


def read_duration_s(path: Path, features: Features, limits: Extract) -> float:
    """How long a file lasts, by all of its timestamps: headers can lack it or lie; raises `MediaError`."""
    with _errors_of_the_file(), _open(path) as container:
        shown, _, _ = _choose_streams(container, features.require_video, limits.max_pixels)
        timeline = _timeline(shown, None, _in_order(container.demux(shown), shown), [])
        pause_s = float(max(map(sub, timeline.pts[1:], timeline.pts), default=0) * timeline.time_base)
        if pause_s > MAX_PAUSE_S:
            raise MediaError("bad_timestamps", f"nothing is shown for {pause_s:.0f} s; at most {MAX_PAUSE_S} s may be")
        return timeline.duration_s


def _open(path: Path) -> "av.container.InputContainer":
    # Titles and the like that are not UTF-8 are no reason to refuse a clip: nobody reads them here.
    return av.open(input_url(path), options=WHITELISTS, metadata_errors="replace")


@contextmanager
def _errors_of_the_file() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or getattr(error, "reason", None)
        reason = "inaccessible" if getattr(error, "errno", None) in NOT_THE_FILES_FAULT else "unreadable"
        raise MediaError(reason, f"{type(error).__name__}: {said}") from None


def _read_clip_file(
    path: Path, container: "av.container.InputContainer", features: Features, limits: Extract, window: Window | None
) -> ClipFile:
    shown, video, audio = _choose_streams(container, features.require_video, limits.max_pixels)
    span_s, seek_s = EVER, None
    if window is None:
        packets = _read_packets(container, shown, audio, features.max_duration_s)
    else:
        # Exact: a frame that appears at the window's very start is in it.
        first_s = (shown.start_time or 0) * (shown.time_base or Fraction(1))
        span_s = first_s + Fraction(window.start_s), first_s + Fraction(window.end_s)
        packets, seek_s = _read_window(container, shown, audio, features.max_duration_s, float(first_s), span_s)
    video_packets = [packet for packet in packets if video and packet.stream_index == video.index]
    audio_packets = [packet for packet in packets if audio and packet.stream_index == audio.index]
    timeline = _timeline(shown, audio, video_packets if video else audio_packets, audio_packets, span_s)
    if timeline.duration_s > features.max_duration_s:
        raise MediaError("too_long", f"{timeline.duration_s:.3f} s, the limit is {features.max_duration_s} s")
    return ClipFile(path, timeline, video, audio, video_packets, audio_packets, seek_s)


def _choose_streams(
    container: "av.container.InputContainer", require_video: bool, max_pixels: int
) -> tuple["av.VideoStream | av.AudioStream", "av.VideoStream | None", "av.AudioStream | None"]:
    """The stream whose time is the clip's, and the first video and audio streams."""
    video, audio = next(iter(container.streams.video), None), next(iter(container.streams.audio), None)
    if video is None:
        if require_video:
            raise MediaError("no_video", "no video stream")
        if audio is None:
            raise MediaError("no_video", "neither a video nor an audio stream")
        return audio, None, audio
    if video.codec_context is None:
        raise MediaError("video_undecodable", "no decoder for the video stream")
    if video.width * video.height > max_pixels:
        raise MediaError("too_large", f"{video.width}x{video.height} pixels, the limit is {max_pixels}")
    return video, video, audio


def _read_window(
    container: "av.container.InputContainer",
    shown: "av.VideoStream | av.AudioStream",
    audio: "av.AudioStream | None",
    max_duration_s: float,
    first_s: float,
    span_s: Span,
) -> tuple[list["av.Packet[Any]"], float | None]:
    """The packets from a key frame before a window on, and from where they were sought; None: from the beginning.

    Some containers are sought by time alone, key frame or not: further and further back, until there is one.
    """
    clock, preroll_s = shown.time_base or Fraction(1), PREROLL_S
    while (seek_s := float(span_s[0]) - preroll_s) > first_s:
        container.seek(round(seek_s / clock), stream=shown)
        packets = _read_packets(container, shown, audio, max_duration_s, span_s)
        keys = [p.pts for p in packets if p.stream_index == shown.index and p.is_keyframe and p.pts is not None]
        if keys and min(keys) * clock <= span_s[0]:
            return packets, seek_s
        preroll_s *= 2
    if preroll_s > PREROLL_S:
        container.seek(round(first_s / clock), stream=shown)
    return _read_packets(container, shown, audio, max_duration_s, span_s), None


def _in_order(
    packets: Iterable["av.Packet[Any]"], shown: "av.VideoStream | av.AudioStream"
) -> Iterator["av.Packet[Any]"]:
    """The packets as they come; raises `MediaError` for a key frame of `shown` that follows a later one."""
    last_key = -(2**63)
    for packet in packets:
        if packet.size == 0:  # PyAV's mark of a stream's end
            continue
        if (
            packet.stream_index == shown.index
            and packet.is_keyframe
            and packet.pts is not None
            and not packet.is_discard
        ):
            if packet.pts <= last_key:
                raise MediaError("bad_timestamps", f"a key frame at {packet.pts} follows one at {last_key}")
            last_key = packet.pts
        yield packet


def _read_packets(
    container: "av.container.InputContainer",
    shown: "av.VideoStream | av.AudioStream",
    audio: "av.AudioStream | None",
    max_duration_s: float,
    span_s: Span = EVER,
) -> list["av.Packet[Any]"]:
    """The packets of both streams, from where the container stands to a bit beyond the end of `span_s` on its clock.

    Stops as soon as the timestamps of the stream that is shown are seen to be unusable.
    """
    packets: list[av.Packet[Any]] = []
    clock = shown.time_base or Fraction(1)
    longest = max_duration_s / clock
    frames, first, last = 0, 2**63, -(2**63)
    streams = [shown, audio] if audio and audio is not shown else [shown]
    for packet in _in_order(container.demux(*streams), shown):
        packets.append(packet)
        pts = packet.pts
        if packet.stream_index != shown.index or pts is None or packet.is_discard:
            continue
        if not span_s[0] <= pts * clock < span_s[1]:
            if (pts if packet.dts is None else packet.dts) * clock > span_s[1] + INTERLEAVING_S:
                break
            continue
        frames, first, last = frames + 1, min(first, pts), max(last, pts)
        if last - first > longest or frames > max_duration_s * MAX_FRAMES_PER_SECOND:
            over_s = max_duration_s * (last - first) / longest
            raise MediaError("too_long", f"over {over_s:.1f} s or {frames} frames, the limit is {max_duration_s} s")
    return packets


def _presented(packets: Iterable["av.Packet[Any]"]) -> dict[int, int]:
    """Timestamp -> duration of what the container means to be presented; an edit list leaves packets out."""
    return {p.pts: p.duration or 0 for p in packets if p.pts is not None and not p.is_discard}


def _timeline(
    stream: "av.VideoStream | av.AudioStream",
    audio: "av.AudioStream | None",
    packets: Iterable["av.Packet[Any]"],
    audio_packets: Iterable["av.Packet[Any]"],
    span_s: Span = EVER,
) -> Timeline:
    shown, heard = _presented(packets), _presented(audio_packets)
    if stream.time_base is None:
        raise MediaError("no_video", f"the {stream.type} stream has no clock")
    pts = tuple(sorted(tick for tick in shown if span_s[0] <= tick * stream.time_base < span_s[1]))
    if not pts:
        where = "" if span_s == EVER else f" from {float(span_s[0]):.2f} to {float(span_s[1]):.2f} s on its clock"
        raise MediaError("no_video", f"no frame of the {stream.type} stream has a timestamp{where}")
    # A container that gives no duration of the last frame gets that of the one before.
    end_pts = pts[-1] + (shown[pts[-1]] or (pts[-1] - pts[-2] if len(pts) > 1 else 0))
    if span_s != EVER:
        end_pts = min(end_pts, pts[0] + math.floor((span_s[1] - span_s[0]) / stream.time_base))
    audio_end_s = None
    if audio and heard and audio.time_base is not None:
        start = pts[0] * stream.time_base / audio.time_base  # the clip's, in ticks of the audio
        end = end_pts * stream.time_base / audio.time_base
        if any(tick < end and tick + duration > start for tick, duration in heard.items()):
            track_end = max(tick + duration for tick, duration in heard.items())
            audio_end_s = float((track_end - start) * audio.time_base)
    return Timeline(pts, end_pts, stream.time_base, audio_end_s)


def sample_pts(timeline: Timeline, count: int) -> list[int]:
    """The frames shown at `(i + 0.5) * duration / count`, i = 0 .. count - 1, as timestamps (P1, P2).

    Raises `MediaError` when fewer than `count` different frames are shown at these times: none is ever repeated.
    """
    duration = timeline.end_pts - timeline.pts[0]
    targets = [timeline.pts[0] + Fraction(2 * i + 1, 2 * count) * duration for i in range(count)]
    chosen = [timeline.pts[bisect_right(timeline.pts, target) - 1] for target in targets]
    if len(set(chosen)) < count:
        raise MediaError(
            "too_few_frames", f"{len(set(chosen))} different frames at {count} times, {len(timeline.pts)} in all"
        )
    return chosen
