"""Opening a clip's file: its streams, their packets and its timeline, without decoding (PyAV).

A file is untrusted. Only demuxers and protocols of a whitelist open it, and reading stops as soon as the packets
exceed a limit.
"""

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from operator import sub
from pathlib import Path

import av

from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.packets import demux, from_first_key_frame, in_order
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.streams import Streams, check_end, choose_streams, lacks_display_times
from pipeline.extraction.timeline import WHOLE_FILE, Packet, Span, Stream, Timeline, Window, build_timeline

# The demuxers that a clip may need. None of them opens other files, as playlists and concat scripts do.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi"
CONTAINERS = "MP4, MOV, M4A, 3GP, Matroska, WebM, MPEG-TS and AVI"
WHITELISTS = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
# A codec needs this much of the sound before the first moment that is wanted.
PREROLL_S = 1.0
# Containers store the sound and the pictures of one moment at most this far apart.
INTERLEAVING_S = 2.0
# More frames per second than this, or a longer pause between two, is a hostile timeline, not a video.
MAX_FRAMES_PER_SECOND, MAX_PAUSE_S = 1000, 3600
# Transfer characteristics of ITU-T H.273.
PQ, HLG = 16, 18
# These say nothing about the file's content.
ACCESS_ERRORS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOTCONN}
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ClipFile:
    """An open clip: its video and audio streams, their packets in the order of the file, and the timeline.

    A clip without video has the timeline of its sound. The packets begin at the key frame before `seek_s`, on the
    container's clock; with None, at the beginning of the file.
    """

    path: Path
    timeline: Timeline
    video: av.VideoStream | None
    audio: av.AudioStream | None
    video_packets: list[Packet]
    audio_packets: list[Packet]
    seek_s: float | None = None

    @property
    def is_hdr(self) -> bool:
        """Whether the video has a high dynamic range, as many phones record it."""
        return self.video is not None and self.video.codec_context.color_trc in (PQ, HLG)


def input_url(path: Path) -> str:
    """The path as libavformat must be given it, so that no character in it means a protocol or an option."""
    return f"file:{path.absolute()}"


@contextmanager
def open_clip(path: Path, settings: ClipSettings, window: Window | None = None) -> Iterator[ClipFile]:
    """Read the packets of a file, or of a window of it, and keep it open for decoding.

    Raises `MediaError` for a file that is not a clip or exceeds a limit.
    """
    with ExitStack() as stack:
        with _errors_of_the_file(path):
            clip = _read_clip_file(path, stack.enter_context(_open(path)), settings, window)
        yield clip


def read_duration_s(path: Path, settings: ClipSettings) -> float:
    """How long a file lasts, by all of its timestamps: headers can lack the duration, or lie. Raises `MediaError`."""
    with _errors_of_the_file(path), _open(path) as container:
        stream = choose_streams(container, settings).timed
        head, first = _read_head(container, [stream], stream)
        packets = in_order(chain(head, demux(container, [stream])), stream)
        timeline = build_timeline(stream, (p for p in packets if p.pts is None or p.pts >= first), None, [])
        check_end(container, stream, timeline.pts[0], float(timeline.end_pts * timeline.time_base), math.inf)
        pause_s = float(max(map(sub, timeline.pts[1:], timeline.pts), default=0) * timeline.time_base)
        if pause_s > MAX_PAUSE_S:
            raise MediaError("bad_timestamps", f"two frames are {pause_s:.0f} s apart, the limit is {MAX_PAUSE_S} s")
        return timeline.duration_s


def _open(path: Path) -> "av.container.InputContainer":
    try:
        # A title that is not UTF-8 is no reason to refuse a clip: nothing here reads it.
        return av.open(input_url(path), options=WHITELISTS, metadata_errors="replace")
    except av.ArgumentError:
        raise MediaError("unreadable", f"its container, {_demuxer(path)}, is none of {CONTAINERS}") from None


def _demuxer(path: Path) -> str:
    """What libavformat calls the container of a file that it refuses to open. Only its log says so."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(), av.open(input_url(path), options=WHITELISTS):
            return "another one"
    except av.FFmpegError as error:
        return str(error.log[1]) if error.log else "another one"
    finally:
        av.logging.set_level(level)


@contextmanager
def _errors_of_the_file(path: Path) -> Iterator[None]:
    """Turn what PyAV and the operating system raise about a file into `MediaError`."""
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        message = getattr(error, "strerror", None) or getattr(error, "reason", None)
        reason = "inaccessible" if _denies_access(error, path) else "unreadable"
        raise MediaError(reason, f"{type(error).__name__}: {message}") from None


def _denies_access(error: Exception, path: Path) -> bool:
    """Whether an error says nothing about the file's content."""
    number = getattr(error, "errno", None)
    if number != errno.EIO:
        return number in ACCESS_ERRORS
    try:  # libavformat also says EIO of a Matroska file that ends in its header
        with path.open("rb") as file:
            while file.read(CHUNK_BYTES):
                pass
    except OSError:
        return True
    return False


def _read_clip_file(
    path: Path, container: "av.container.InputContainer", settings: ClipSettings, window: Window | None
) -> ClipFile:
    streams, longest_s = choose_streams(container, settings), settings.features.max_duration_s
    video, audio = streams.video, streams.audio
    span, seek_s = WHOLE_FILE, None
    if window is None:
        packets = _read_packets(container, streams, longest_s)
    else:
        head, first = _read_head(container, streams.used, streams.timed)
        # Exact fractions, so that a frame that appears at the very start of the window is in it. They are those of the
        # written numbers: the binary number nearest to 6.48 is a little more.
        first_s = first * (streams.timed.time_base or Fraction(1))
        span = Span(first_s + Fraction(str(window.start_s)), first_s + Fraction(str(window.end_s)))
        packets, seek_s = _read_window(container, streams, longest_s, head, float(first_s), span)
    packets = from_first_key_frame(packets, streams.timed)
    video_packets = [packet for packet in packets if video and packet.stream_index == video.index]
    audio_packets = [packet for packet in packets if audio and packet.stream_index == audio.index]
    timeline = build_timeline(streams.timed, video_packets if video else audio_packets, audio, audio_packets, span)
    if timeline.duration_s > longest_s:
        raise MediaError("too_long", f"{timeline.duration_s:.3f} s, the limit is {longest_s} s")
    return ClipFile(path, timeline, video, audio, video_packets, audio_packets, seek_s)


def _read_head(container: "av.container.InputContainer", used: list[Stream], timed: Stream) -> tuple[list[Packet], int]:
    """The packets of a file up to the first key frame of `timed`, and when the first frame that can be shown appears.

    The latter is in ticks. A file that was cut between key frames begins with pictures that cannot be shown.
    """
    head: list[Packet] = []
    for packet in demux(container, used):
        head.append(packet)
        if packet.stream_index == timed.index and packet.is_keyframe:
            if packet.pts is None or packet.is_discard:  # an edit list begins the clip later
                break
            return head, packet.pts
    return head, timed.start_time or 0


def _read_window(
    container: "av.container.InputContainer",
    streams: Streams,
    longest_s: float,
    head: list[Packet],
    first_s: float,
    span: Span,
) -> tuple[list[Packet], float | None]:
    """The packets from a key frame before `span` on, and the time that was sought; None if that is the file's start.

    `head` are the packets that were read before, and the first frame that can be shown appears at `first_s`. Some
    containers seek by time alone, to a key frame or not. So this seeks further and further back, until there is a key
    frame before the span.
    """
    timed, preroll_s = streams.timed, PREROLL_S
    if lacks_display_times(timed):  # its pictures are counted, from the first one on
        return _read_packets(container, streams, longest_s, span, head), None
    tick_s = timed.time_base or Fraction(1)
    while (seek_s := float(span.start_s) - preroll_s) > first_s:
        container.seek(round(seek_s / tick_s), stream=timed)
        packets = _read_packets(container, streams, longest_s, span, head, was_sought=True)
        keys = [p.pts for p in packets if p.stream_index == timed.index and p.is_keyframe and p.pts is not None]
        if keys and min(keys) * tick_s <= span.start_s:
            return packets, seek_s
        preroll_s *= 2
    if preroll_s > PREROLL_S:
        # MPEG-TS seeks by the time of decoding, so that the time at which the key frame is shown may lie after it.
        dts = [p.dts for p in head if p.stream_index == timed.index and p.dts is not None]
        container.seek(min(dts, default=round(first_s / tick_s)), stream=timed)
        head = []
    return _read_packets(container, streams, longest_s, span, head), None


def _read_packets(
    container: "av.container.InputContainer",
    streams: Streams,
    longest_s: float,
    span: Span = WHOLE_FILE,
    head: Iterable[Packet] = (),
    was_sought: bool = False,
) -> list[Packet]:
    """The packets of the streams, from the container's position to a little beyond the end of `span`.

    `head` are those from the beginning of the file that were read before; they are returned too, unless the position
    `was_sought`. Raises `MediaError` as soon as the timestamps show that what is read is longer than `longest_s`.
    """
    packets: list[Packet] = []
    tick_s = streams.timed.time_base or Fraction(1)
    longest = longest_s / tick_s
    frames, first, last = 0, 2**63, -(2**63)
    for packet in in_order(chain(() if was_sought else head, demux(container, streams.used)), streams.timed):
        packets.append(packet)
        pts = packet.pts
        if packet.stream_index != streams.timed.index or pts is None or packet.is_discard:
            continue
        if not span.contains(pts * tick_s):
            if (pts if packet.dts is None else packet.dts) * tick_s > span.end_s + INTERLEAVING_S:
                break
            continue
        frames, first, last = frames + 1, min(first, pts), max(last, pts)
        if last - first > longest or frames > longest_s * MAX_FRAMES_PER_SECOND:
            read_s = float((last - first) * tick_s)
            raise MediaError("too_long", f"over {read_s:.1f} s or {frames} frames, the limit is {longest_s} s")
    else:  # the file ended
        _check_ends(container, streams, head, packets, span, was_sought)
    return packets


def _check_ends(
    container: "av.container.InputContainer",
    streams: Streams,
    head: Iterable[Packet],
    packets: list[Packet],
    span: Span,
    was_sought: bool,
) -> None:
    """Raise `MediaError` if `packets`, which reach to the file's end, end too early. The others are as above."""
    for stream in streams.used:
        presented = _presented(packets, stream)
        # A stream of which nothing was read may have ended before the place that was sought.
        if presented or not was_sought:
            first_pts = next((pts for pts, _ in [*_presented(head, stream), *presented]), 0)
            end_s = max((sum(each) for each in presented), default=0) * (stream.time_base or Fraction(1))
            check_end(container, stream, first_pts, float(end_s), float(span.end_s))


def _presented(packets: Iterable[Packet], stream: Stream) -> list[tuple[int, int]]:
    """Timestamp and duration of the packets of a stream that are meant to be presented, in ticks."""
    return [
        (packet.pts, packet.duration or 0)
        for packet in packets
        if packet.stream_index == stream.index and packet.pts is not None and not packet.is_discard
    ]
