"""The timeline of a clip: when each frame is shown, until when there is sound, and which frames are sampled.

Time 0 of a clip is the moment its first frame is shown; its end is the moment its last frame has been shown. The
timeline is made from the packets' timestamps, without decoding, so it holds for constant and variable frame rates.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import av

from pipeline.extraction.reasons import MediaError

Packet: TypeAlias = "av.Packet[Any]"
Stream: TypeAlias = av.VideoStream | av.AudioStream


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown, in ticks of `time_base` seconds and in order, and when the sound track ends.

    `audio_end_s` counts from the clip's start and may lie beyond its end. It is None if there is no sound during the
    video.
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
        """The clip's start on the container's clock."""
        return float(self.pts[0] * self.time_base)

    @property
    def duration_s(self) -> float:
        """Time from the first frame's appearance to the last one's end."""
        return float((self.end_pts - self.pts[0]) * self.time_base)

    @property
    def frame_rate_hz(self) -> float:
        """Mean number of frames per second."""
        return len(self.pts) / max(self.duration_s, float(self.time_base))

    def seconds(self, pts: int) -> float:
        """Time since the clip's start."""
        return float((pts - self.pts[0]) * self.time_base)


@dataclass(frozen=True)
class Window:
    """A part of a file that is read as if it had been cut out: the frames that appear from `start_s` to before `end_s`.

    Both are in seconds since the file's first frame. The part ends at `end_s` even if its last frame is shown longer.
    """

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Span:
    """The times from `start_s` to before `end_s` on a container's clock; exact if they are fractions."""

    start_s: Fraction | float
    end_s: Fraction | float

    def contains(self, time_s: Fraction) -> bool:
        """Whether a frame that appears at `time_s` lies in the span."""
        return self.start_s <= time_s < self.end_s


WHOLE_FILE = Span(-math.inf, math.inf)


def build_timeline(
    stream: Stream,
    packets: Iterable[Packet],
    audio: av.AudioStream | None,
    audio_packets: Iterable[Packet],
    span: Span = WHOLE_FILE,
) -> Timeline:
    """The timeline of those packets of `stream` that lie in `span`, with the end of the sound in `audio`.

    Raises `MediaError` if no frame in `span` has a timestamp.
    """
    durations = _durations_by_pts(packets)
    if stream.time_base is None:
        raise MediaError("no_video", f"the {stream.type} stream has no clock")
    pts = tuple(sorted(tick for tick in durations if span.contains(tick * stream.time_base)))
    if not pts:
        where = (
            "" if span == WHOLE_FILE else f" from {float(span.start_s):.2f} to {float(span.end_s):.2f} s of its clock"
        )
        raise MediaError("no_video", f"no frame of the {stream.type} stream has a timestamp{where}")
    # If the container gives no duration of the last frame, it lasts as long as the one before.
    end_pts = pts[-1] + (durations[pts[-1]] or (pts[-1] - pts[-2] if len(pts) > 1 else 0))
    if span != WHOLE_FILE:
        end_pts = min(end_pts, pts[0] + math.floor((span.end_s - span.start_s) / stream.time_base))
    audio_end_s = None
    if audio and audio.time_base is not None:
        to_audio_ticks = stream.time_base / audio.time_base
        start, end = pts[0] * to_audio_ticks, end_pts * to_audio_ticks
        audio_end = _audio_end(_durations_by_pts(audio_packets), start, end)
        if audio_end is not None and span != WHOLE_FILE:
            # The resampler must not hear what follows the part: a clip that was cut out ends there.
            audio_end = min(audio_end, end)
        audio_end_s = None if audio_end is None else float((audio_end - start) * audio.time_base)
    return Timeline(pts, end_pts, stream.time_base, audio_end_s)


def _durations_by_pts(packets: Iterable[Packet]) -> dict[int, int]:
    """Duration by timestamp of the packets that are meant to be presented: an edit list leaves some out."""
    return {p.pts: p.duration or 0 for p in packets if p.pts is not None and not p.is_discard}


def _audio_end(durations: dict[int, int], start: Fraction, end: Fraction) -> Fraction | int | None:
    """When the audio packets end, or None if none of them sounds between the clip's `start` and `end`; all in ticks."""
    if any(tick < end and tick + duration > start for tick, duration in durations.items()):
        return max(tick + duration for tick, duration in durations.items())
    return None


def sample_pts(timeline: Timeline, count: int) -> list[int]:
    """The timestamps of the frames shown at `(i + 0.5) * duration / count`, i = 0 .. count - 1.

    Raises `MediaError` if fewer than `count` different frames are shown at these times: no frame is repeated.
    """
    duration = timeline.end_pts - timeline.pts[0]
    targets = [timeline.pts[0] + Fraction(2 * i + 1, 2 * count) * duration for i in range(count)]
    chosen = [timeline.pts[bisect_right(timeline.pts, target) - 1] for target in targets]
    if (different := len(set(chosen))) < count:
        raise MediaError(
            "too_few_frames", f"{different} different frames at {count} times; the clip has {len(timeline.pts)} frames"
        )
    return chosen
