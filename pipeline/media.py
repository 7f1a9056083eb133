"""Frames at exact times and the waveform of one clip, by one bounded ffmpeg process.

Time 0 of a clip is the moment its first frame is shown; its end is when its last frame has been shown. The timeline is
read from the packets' timestamps without decoding (PyAV), the frames to keep are chosen from it, and ffmpeg decodes
the file once and lets only these through to scaling, so the frame rate, a variable one included, does not matter.
"""

import os
import resource
import signal
import subprocess
import tempfile
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.config import Extract, Features
from pipeline.machine import ffmpeg_path

# Demuxers that a clip may need. None of them opens other files, as playlists and concat scripts do.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi"
PROTOCOLS = "file"
# A stream with more packets than this many a second is a hostile timeline, not a video.
MAX_FRAMES_PER_SECOND = 1000

# Why a clip can end in quarantine (P3).
REASONS = {
    "unreadable": "not a media file in one of the accepted containers",
    "no_video": "has no video stream, or one without frames or timestamps",
    "too_long": "lasts longer than features.max_duration_s",
    "too_large": "has a picture of more than extract.max_pixels",
    "too_few_frames": "has fewer different frames at the sampled times than features.frames",
    "decode_failed": "ffmpeg could not decode all that was asked for",
    "timeout": "took longer than extract.timeout_s",
}


class MediaError(Exception):
    """A clip that cannot be used: `reason` is a key of `REASONS`, `detail` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown, in ticks of `time_base` seconds and in order, and whether there is sound."""

    pts: tuple[int, ...]
    end_pts: int
    time_base: Fraction
    has_audio: bool

    @property
    def duration_s(self) -> float:
        """From the first frame's appearance to the last one's end."""
        return float((self.end_pts - self.pts[0]) * self.time_base)

    def seconds(self, pts: int) -> float:
        """Time since the clip's start."""
        return float((pts - self.pts[0]) * self.time_base)


def read_timeline(path: Path, max_duration_s: float, max_pixels: int) -> Timeline:
    """Read a file's packet timestamps; raises `MediaError` for a file that is no clip or exceeds a limit."""
    try:
        with av.open(str(path), options={"protocol_whitelist": PROTOCOLS, "format_whitelist": DEMUXERS}) as container:
            if not container.streams.video:
                raise MediaError("no_video", "no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise MediaError("too_large", f"{stream.width}x{stream.height} pixels, the limit is {max_pixels}")
            if stream.time_base is None:
                raise MediaError("no_video", "the video stream has no time base")
            pts, end_pts = _presentation_times(container, stream, max_duration_s)
            return Timeline(pts, end_pts, stream.time_base, has_audio=bool(container.streams.audio))
    except (
        av.FFmpegError,
        AttributeError,
        ValueError,
    ) as error:  # PyAV: a container without a format raises the latter two
        raise MediaError("unreadable", f"{type(error).__name__}: {error}"[:200]) from None


def _presentation_times(
    container: "av.container.InputContainer", stream: "av.VideoStream", max_duration_s: float
) -> tuple[tuple[int, ...], int]:
    assert stream.time_base is not None
    shown: dict[int, int] = {}  # pts -> duration, of every frame that the container means to be shown
    first, last = 2**63, -(2**63)
    for packet in container.demux(stream):
        if packet.pts is None or packet.is_discard:
            continue
        shown[packet.pts] = packet.duration or 0
        first, last = min(first, packet.pts), max(last, packet.pts)
        span_s = float((last - first) * stream.time_base)
        if span_s > max_duration_s or len(shown) > max_duration_s * MAX_FRAMES_PER_SECOND:
            raise MediaError("too_long", f"over {span_s:.1f} s or {len(shown)} frames, the limit is {max_duration_s} s")
    if not shown:
        raise MediaError("no_video", "the video stream has no frame with a timestamp")
    pts = tuple(sorted(shown))
    # A container that gives no duration of the last frame gets that of the one before.
    last_duration = shown[pts[-1]] or (pts[-1] - pts[-2] if len(pts) > 1 else 0)
    duration_s = float((pts[-1] + last_duration - pts[0]) * stream.time_base)
    if duration_s > max_duration_s:
        raise MediaError("too_long", f"{duration_s:.3f} s, the limit is {max_duration_s} s")
    return pts, pts[-1] + last_duration


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


def decode(
    path: Path, timeline: Timeline, pts: list[int], features: Features, limits: Extract
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Decode the frames shown at `pts` and the clip's waveform.

    Returns frames (N, size, size, 3) in OpenCV's BGR order, and the mono waveform (samples,) from the clip's start to
    at most its end, at `features.sample_rate_hz`; None when the clip has no audio track. Raises `MediaError`.
    """
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        frames_file, audio_file = Path(folder, "frames.bgr24"), Path(folder, "audio.f32le")
        outputs = [_frames_output(path, pts, features, limits, frames_file)]
        if timeline.has_audio:
            outputs.append(_audio_output(path, timeline, features, limits, audio_file))
        # -copyts keeps the container's own timestamps, those that the timeline was read from.
        command = ffmpeg.merge_outputs(*outputs).global_args("-copyts", "-nostdin", "-loglevel", "error")
        run_bounded(command.compile(cmd=ffmpeg_path()), limits)
        shape = (len(pts), features.frame_size_px, features.frame_size_px, 3)
        frames = np.fromfile(frames_file, np.uint8)
        if frames.size != np.prod(shape):  # ffmpeg exits 0 on much corrupt input
            raise MediaError("decode_failed", f"{frames.size // int(np.prod(shape[1:]))} of {len(pts)} frames decoded")
        if not timeline.has_audio:
            return frames.reshape(shape), None
        waveform = np.fromfile(audio_file, np.float32)[: round(timeline.duration_s * features.sample_rate_hz)]
        if not waveform.size:
            raise MediaError("decode_failed", "the audio track gave no sample")
        return frames.reshape(shape), waveform


def _input(path: Path, limits: Extract) -> "ffmpeg.nodes.FilterableStream":
    return ffmpeg.input(
        f"file:{path.absolute()}",
        protocol_whitelist=PROTOCOLS,
        format_whitelist=DEMUXERS,
        max_pixels=limits.max_pixels,
        threads=1,
    )


def _frames_output(
    path: Path, pts: list[int], features: Features, limits: Extract, target: Path
) -> "ffmpeg.nodes.OutputStream":
    size = features.frame_size_px
    video = _input(path, limits)["v:0"].filter("select", "+".join(f"eq(pts,{tick})" for tick in pts))
    if features.framing == "full_frame":
        video = video.filter("scale", size, size, flags="area")
    else:  # the shorter side, as displayed, becomes `size`; `sar` is the pixels' own aspect ratio
        video = video.filter(
            "scale", f"ceil({size}*max(1,iw*sar/ih))", f"ceil({size}*max(1,ih/(iw*sar)))", flags="area"
        ).filter("crop", size, size)
    return ffmpeg.output(video, f"file:{target}", format="rawvideo", pix_fmt="bgr24", fps_mode="passthrough")


def _audio_output(
    path: Path, timeline: Timeline, features: Features, limits: Extract, target: Path
) -> "ffmpeg.nodes.OutputStream":
    # Resampled once. The waveform starts where the video does: silence fills a later start, an earlier one is cut.
    first_sample = round(float(timeline.pts[0] * timeline.time_base) * features.sample_rate_hz)
    audio = _input(path, limits)["a:0"].filter(
        "aresample",
        **{"osr": features.sample_rate_hz, "ochl": "mono", "osf": "flt", "async": 1, "first_pts": first_sample},
    )
    return ffmpeg.output(audio, f"file:{target}", format="f32le")


def run_bounded(command: list[str], limits: Extract) -> None:
    """Run a decoder within the limits on time, memory and output, in a process group that is killed whole.

    Raises `MediaError` when it exceeds the time, fails, or is killed.
    """
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )
        memory = limits.memory_mb * 2**20
        for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, memory)):
            resource.prlimit(process.pid, kind, (limit, limit))
        try:
            code = process.wait(limits.timeout_s)
        except subprocess.TimeoutExpired:
            raise MediaError("timeout", f"still decoding after {limits.timeout_s} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            stderr.seek(0)
            lines = stderr.read(2000).decode(errors="replace").strip().splitlines()
            raise MediaError("decode_failed", f"ffmpeg exit {code}: {lines[0] if lines else 'no message'}"[:200])
